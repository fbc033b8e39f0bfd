#!/bin/bash
# What the guest does at its end is the command's exit status.
. "$(dirname "$0")/lib.sh"

initrd 'poweroff -f'
boot 90 0

initrd 'reboot -f'
boot 90 3 --no-reboot

# panic=-1 reboots at once through the reset port.
initrd 'echo c >/proc/sysrq-trigger'
APPEND='panic=-1' boot 90 3 --no-reboot

# reboot=t loads an empty IDT and faults: a triple fault.
initrd 'reboot -f'
APPEND='reboot=t' boot 90 4 --no-reboot

# Without --no-reboot the machine starts again: the second start is told apart by the count in CMOS.
cat >"$WORK/twice" <<'SCRIPT'
echo "start"
index() { printf "\\x7a" | dd of=/dev/port bs=1 seek=112 2>/dev/null; }
index
value=$(dd if=/dev/port bs=1 skip=113 count=1 2>/dev/null | od -An -tu1)
[ "$value" -eq 77 ] && { echo "second start"; exit 0; }
index
printf "\\x4d" | dd of=/dev/port bs=1 seek=113 2>/dev/null
reboot -f
SCRIPT
initrd "$(cat "$WORK/twice")"
boot 150 0
expect 'second start'
[ "$(grep -c '^start' "$LOG")" = 2 ] || fail "the guest did not start twice"
