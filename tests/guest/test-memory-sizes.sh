#!/bin/bash
# The same kernel with little and with much memory sees what it was given.
. "$(dirname "$0")/lib.sh"

initrd 'grep MemTotal /proc/meminfo; dd if=/dev/zero of=/tmp/x bs=1M count=64 2>/dev/null; sha256sum /tmp/x; exit 0'
for size in 256M:180000:262144 4G:3800000:4194304 16G:15500000:16777216; do
    IFS=: read -r memory least most <<<"$size"
    boot 120 0 --memory "$memory"
    kib=$(sed -n 's/^MemTotal: *\([0-9]*\) kB.*/\1/p' "$LOG" | tr -d '\r')
    [ "${kib:-0}" -ge "$least" ] && [ "$kib" -le "$most" ] || fail "--memory $memory: MemTotal is ${kib:-missing} kB"
    expect '^3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351'
    expect_clean_log
done
