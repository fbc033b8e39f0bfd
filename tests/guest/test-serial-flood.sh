#!/bin/bash
# A megabyte pasted into the serial console arrives whole, and a megabyte comes back whole.
. "$(dirname "$0")/lib.sh"

initrd 'stty raw -echo </dev/ttyS0
echo ready
head -c 1024000 </dev/ttyS0 >/tmp/in
stty sane </dev/ttyS0
echo "got $(sha256sum </tmp/in)"
echo begin-flood
cat /tmp/in
echo end-flood
exit 0'
for i in $(seq 15999 -1 0); do printf '%063d\n' "$i"; done >"$WORK/paste"
mkfifo "$WORK/in" "$WORK/out"
timeout 250 "$TRAPEZE" run --engine "$ENGINE" --kernel "$GUEST/vmlinuz" --initrd "$WORK/initrd.img" \
    --append "console=ttyS0 quiet" --console stdio <"$WORK/in" >"$WORK/out" 2>"$WORK/stderr" &
exec 5>"$WORK/in"
while IFS= read -r line; do
    printf '%s\n' "$line" >>"$LOG"
    case $line in ready*) cat "$WORK/paste" >&5 & ;; esac
done <"$WORK/out"
wait %1 || fail "exit status $?: $(cat "$WORK/stderr")"
expect "^got $(sha256sum <"$WORK/paste" | cut -d' ' -f1)"
flood=$(sed -n '/^begin-flood/,/^end-flood/p' "$LOG" | tr -d '\r' | sed '1d;$d' | sha256sum)
[ "$flood" = "$(sha256sum <"$WORK/paste")" ] || fail "the flood came back changed"
