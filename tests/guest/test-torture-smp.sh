#!/bin/bash
# The torture switches that matter to code shared by vCPUs, on two and on four.
for CPUS in 2 4; do
    export CPUS TORTURE=${SMP_TORTURE:-hot tiny-cache flush=200 hot,fail hot,no-chaining}
    "$(dirname "$0")/test-torture.sh" || exit
done
