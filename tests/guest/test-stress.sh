#!/bin/bash
# stress-ng verifies its own results in the guest, method by method, with as many workers as there are vCPUs (CPUS, 2);
# openssl speed runs through.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/rootfs.sh"

cat >"$WORK/compute" <<'SCRIPT'
cd /tmp
n=$(grep -c ^processor /proc/cpuinfo)
stress-ng --cpu $n --cpu-method all --cpu-ops $((n * 100)) --verify -t 1200 2>&1 || exit 1
stress-ng --vm $n --vm-bytes 32M --vm-ops $((n * 2000)) --verify -t 600 2>&1 || exit 1
stress-ng --exec $n --exec-ops $((n * 100)) --fork $n --fork-ops $((n * 500)) --verify -t 600 2>&1 || exit 1
stress-ng --mutex $n --mutex-ops 20000 --futex $n --futex-ops 20000 --switch $n --switch-ops 20000 --verify -t 600 2>&1 || exit 1
openssl speed -seconds 1 -bytes 1024 >speed 2>&1 || { tail speed; exit 1; }
tail -100 speed; echo "openssl speed: done"
SCRIPT
rootfs_boot 3300 --cpus "${CPUS:-2}"
expect_clean_log
reject 'stress-ng: (fail|error)'
expect 'stress-ng: .*successful run completed'
expect '^aes-256'
expect 'EdDSA'
expect '^openssl speed: done'
grep -E 'successful run' "$LOG"
