#!/bin/bash
# A stock kernel boots and computes under every torture switch of the translator. TORTURE: which ones; CPUS: on how
# many vCPUs, which all compute.
. "$(dirname "$0")/lib.sh"
ENGINE=translate

CPUS=${CPUS:-1}
initrd 'squares() { i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo $((i * i)); done | md5sum; }
n=$(grep -c ^processor /proc/cpuinfo); echo "$n processors"
while [ $n -gt 1 ]; do n=$((n - 1)); squares & done
squares
wait
exit 0'
for words in ${TORTURE:-hot hot,windows no-windows tiny-cache one-insn flush fail no-chaining no-returns slow-memory live-flags no-native}; do
    export TRAPEZE_TRANSLATE=$words
    boot 300 0 --cpus "$CPUS"
    expect "^$CPUS processors"
    [ "$(grep -c '^56a9447cdf314a1d84915a0efc104f62' "$LOG")" = "$CPUS" ] || fail "not $CPUS right results"
    expect 'script: status 0'
    expect_clean_log
    echo "$words: right"
done
