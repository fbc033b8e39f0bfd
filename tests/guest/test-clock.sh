#!/bin/bash
# Ten seconds by the guest's clock are ten seconds by the host's, within one per cent.
. "$(dirname "$0")/lib.sh"

initrd 'echo mark-one; sleep 10; echo mark-two; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; exit 0'
mkfifo "$WORK/pipe"
timeout 110 "$TRAPEZE" run --engine "$ENGINE" --kernel "$GUEST/vmlinuz" --initrd "$WORK/initrd.img" \
    --append "console=ttyS0" --console stdio </dev/null >"$WORK/pipe" 2>"$WORK/stderr" &
while IFS= read -r line; do
    case $line in
    mark-one*) one=$(date +%s%N) ;;
    mark-two*) two=$(date +%s%N) ;;
    esac
    printf '%s\n' "$line" >>"$LOG"
done <"$WORK/pipe"
wait $! || fail "exit status $?: $(cat "$WORK/stderr")"
[ -n "${one:-}" ] && [ -n "${two:-}" ] || fail "no marks on the console"
ms=$(((two - one) / 1000000))
[ $ms -ge 9900 ] && [ $ms -le 10100 ] || fail "10 s in the guest took $ms ms"
expect_clean_log
