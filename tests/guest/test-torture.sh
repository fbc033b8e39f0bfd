#!/bin/bash
# A stock kernel boots and computes under every torture switch of the translator. TORTURE: which ones.
. "$(dirname "$0")/lib.sh"
ENGINE=translate

initrd 'i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo $((i * i)); done | md5sum
exit 0'
for words in ${TORTURE:-hot tiny-cache one-insn flush fail no-chaining no-returns slow-memory live-flags no-native}; do
    export TRAPEZE_TRANSLATE=$words
    boot 300 0
    expect '^56a9447cdf314a1d84915a0efc104f62'
    expect 'script: status 0'
    expect_clean_log
    echo "$words: right"
done
