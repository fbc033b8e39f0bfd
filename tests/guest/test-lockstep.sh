#!/bin/bash
# A stock kernel boots in lock-step: translator and interpreter agree all the way. LOCKSTEP=N: one run in N of
# each block after its first ones; 1 is all of them.
. "$(dirname "$0")/lib.sh"
ENGINE=translate
export TRAPEZE_TRANSLATE=lockstep=${LOCKSTEP:-50}

initrd 'cat /proc/cpuinfo | head -3
for n in $(seq 20); do echo $n; done | sort -n | tail -1
exit 0'
boot "${LIMIT:-300}" 0 --stats
expect 'script: status 0'
expect_clean_log
runs=$(awk '$2 == "lockstep_runs" {print $1}' "$WORK/stdout" "$WORK/stderr")
[ "${runs:-0}" -gt 30000 ] || fail "just ${runs:-0} runs were compared"
echo "$runs runs agreed"
