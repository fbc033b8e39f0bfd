#!/bin/bash
# stress-ng verifies its own results in the guest, method by method; openssl speed runs through.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/rootfs.sh"

cat >"$WORK/compute" <<'SCRIPT'
cd /tmp
stress-ng --cpu 1 --cpu-method all --cpu-ops 100 --verify -t 1200 2>&1 || exit 1
stress-ng --vm 1 --vm-bytes 32M --vm-ops 4000 --verify -t 600 2>&1 || exit 1
openssl speed -seconds 1 -bytes 1024 >speed 2>&1 || { tail speed; exit 1; }
tail -100 speed; echo "openssl speed: done"
SCRIPT
rootfs_boot 3300
expect_clean_log
reject 'stress-ng: (fail|error)'
expect 'stress-ng: .*successful run completed'
expect '^aes-256'
expect 'EdDSA'
expect '^openssl speed: done'
grep -E 'successful run' "$LOG"
