#!/bin/bash
# stress-ng verifies its own results in the guest, method by method.
. "$(dirname "$0")/lib.sh"
command -v stress-ng >/dev/null || skip "no stress-ng"

initrd 'cd /tmp
stress-ng --cpu 1 --cpu-method all --cpu-ops 80 --verify --metrics-brief || exit 1
stress-ng --vm 1 --vm-bytes 64M --vm-ops 20000 --verify -t 120 || exit 1
exit 0' --program stress-ng
boot 3000 0 --memory 1G
reject 'stress-ng: fail'
expect_clean_log
