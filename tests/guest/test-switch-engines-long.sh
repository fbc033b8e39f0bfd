#!/bin/bash
# The same for a minute of the guest's time, and with KVM among the engines.
SWITCH_SECONDS=60 SWITCH_MS=300 SWITCH_KVM=1 exec "$(dirname "$0")/test-switch-engines.sh"
