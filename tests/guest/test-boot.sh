#!/bin/bash
# Debian's cloud kernel boots to a program, its log is clean, and power off ends the monitor with 0.
. "$(dirname "$0")/lib.sh"

initrd 'uname -r
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
grep -c ^processor /proc/cpuinfo
grep -v SPU /proc/interrupts
dmesg | grep -ciE "kvm-clock"
exit 0'
boot 90 0
expect '^6\.[0-9]+.*-cloud-amd64'
expect 'script: status 0'
expect 'kvm-clock: Using msrs'
expect 'ACPI: PM: Preparing to enter system sleep state S5'
expect_clean_log
