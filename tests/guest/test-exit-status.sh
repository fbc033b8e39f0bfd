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

# Without --no-reboot the machine starts again: the second start is told apart by the clock, which the
# first one sets back and a reset leaves alone.
cat >"$WORK/twice" <<'SCRIPT'
echo "start"
[ "$(date +%Y)" -lt 2010 ] && { echo "second start"; exit 0; }
date -s 2001-01-01 && hwclock -w -u
reboot -f
SCRIPT
initrd "$(cat "$WORK/twice")"
boot 150 0
expect 'second start'
[ "$(grep -c '^start' "$LOG")" = 2 ] || fail "the guest did not start twice"
