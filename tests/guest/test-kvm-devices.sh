#!/bin/bash
# A disk and a source of random numbers work under KVM with interrupt controllers here and in the kernel, with
# and without doorbells and interrupts by eventfd, and with every way that an interrupt can take. The kernel boots under the translator and meets KVM when it is up; KVM is set
# up anew every four seconds.
. "$(dirname "$0")/lib.sh"

[ -w /dev/kvm ] || skip "no /dev/kvm"
dd if=/dev/urandom of="$WORK/disk.raw" bs=1M count=4 status=none
sum=$(sha256sum <"$WORK/disk.raw" | cut -d' ' -f1)
initrd 'while [ $(cut -d. -f1 /proc/uptime) -lt 5 ]; do :; done
for i in 1 2 3; do
    echo 3 >/proc/sys/vm/drop_caches
    echo "sum $(sha256sum </dev/vda)"
done
dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c | sed "s/^/random /"
exit 0' --module virtio_pci --module virtio_blk --module virtio_rng

# devices WORDS-FOR-THE-KERNEL
devices() {
    local what="irqchip=$SWITCH_IRQCHIP${SWITCH_IOEVENTFD:+, doorbells by eventfd}${SWITCH_IRQFD:+, interrupts by eventfd}${1:+, $1}"
    rm -f "$LOG"
    "$SWITCH_ENGINES" translate,kvm,kvm,kvm,kvm,kvm,kvm,kvm 4000 1 "$GUEST/vmlinuz" "$WORK/initrd.img" \
        "console=ttyS0 nosoftlockup $1" "file:$LOG" >"$WORK/stdout" 2>"$WORK/stderr" </dev/null ||
        { cat "$WORK/stderr"; fail "$what: status $?"; }
    [ "$(grep -c "^sum $sum" "$LOG")" = 3 ] || fail "$what: wrong data"
    expect '^random 256'
    expect_clean_log
    echo "$what: right"
}

export SWITCH_DISK=$WORK/disk.raw
for irqchip in none split kernel; do
    export SWITCH_IRQCHIP=$irqchip
    devices ''
    SWITCH_IOEVENTFD=1 devices ''
    [ $irqchip = none ] || SWITCH_IRQFD=1 devices ''
    devices pci=nomsi # a level at the I/O APIC
    devices 'noapic pci=nomsi' # and at the 8259s
done
