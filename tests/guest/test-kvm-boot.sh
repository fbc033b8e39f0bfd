#!/bin/bash
# Debian's cloud kernel boots under KVM, whatever kind of KVM it is: the interpreter rescues what that
# cannot do. On one that emulates this takes half an hour.
. "$(dirname "$0")/lib.sh"

[ -w /dev/kvm ] || skip "no /dev/kvm"
ENGINE=kvm
initrd 'uname -r
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
exit 0'
boot 3500 0 --stats
grep -E 'kvm_|insns' "$WORK/stderr"
expect '^6\.[0-9]+.*-cloud-amd64'
expect 'script: status 0'
