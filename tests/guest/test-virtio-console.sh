#!/bin/bash
# hvc0 on virtio-console carries a megabyte out without a byte lost, and virtio-rng feeds /dev/hwrng.
. "$(dirname "$0")/lib.sh"

initrd 'i=0; while [ $i -lt 16000 ]; do printf "%063d\n" $i; i=$((i+1)); done >/tmp/lines
sha256sum </tmp/lines
{ stty -F /dev/hvc0 raw; cat /tmp/lines; sleep 1; } >/dev/hvc0
cat /sys/class/misc/hw_random/rng_current
dd if=/dev/hwrng bs=1k count=4 2>/dev/null | wc -c
exit 0' --module virtio_pci --module virtio_console --module virtio_rng
boot 150 0 --virtio-console "file:$WORK/hvc0"
expect '^virtio_rng'
expect '^4096'
expect "^$(sha256sum <"$WORK/hvc0" | cut -d' ' -f1)"
[ "$(wc -c <"$WORK/hvc0")" = 1024000 ] || fail "$(wc -c <"$WORK/hvc0") bytes of 1024000 arrived"
expect_clean_log
