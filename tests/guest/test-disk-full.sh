#!/bin/bash
# A write for which the host has no room pauses the machine; when there is room it goes on, and the guest
# never knows.
if [ -z "${IN_NAMESPACE:-}" ]; then
    unshare -rm true 2>/dev/null || { echo "skipped: no user namespaces"; exit 77; }
    IN_NAMESPACE=1 exec unshare -rm "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"

mkdir "$WORK/small"
mount -t tmpfs -o size=6M none "$WORK/small" || skip "no tmpfs here"
trap 'umount "$WORK/small"; rm -rf "$WORK"' EXIT
"$TRAPEZE" image create -f qcow2 "$WORK/small/disk.qcow2" 64M || fail create

initrd 'mkdir -p /m; mount -t tmpfs none /m
dd if=/dev/urandom of=/m/data bs=1M count=12 2>/dev/null
dd if=/m/data of=/dev/vda bs=1M conv=fsync 2>/dev/null || exit 1
sha256sum </m/data; dd if=/dev/vda bs=1M count=12 2>/dev/null | sha256sum
echo written; exit 0' --module virtio_pci --module virtio_blk

: >"$WORK/stderr"
(
    while ! grep -q 'is paused' "$WORK/stderr"; do read -rt 0.1 <> <(:); done
    mount -o remount,size=64M "$WORK/small"
) &
boot 200 0 --disk "$WORK/small/disk.qcow2,cache=writeback"
kill $! 2>/dev/null
grep -q 'paused' "$WORK/stderr" || fail "the disk was never full"
grep -q 'goes on' "$WORK/stderr" || fail "the machine did not go on"
expect '^written'
reject 'I/O error'
[ "$(grep -cE '^[0-9a-f]{64}' "$LOG")" = 2 ] && [ "$(grep -E '^[0-9a-f]{64}' "$LOG" | tr -d '\r' | sort -u | wc -l)" = 1 ] ||
    fail "the data differ"
"$TRAPEZE" image check "$WORK/small/disk.qcow2" >/dev/null || fail "the image is damaged"

# With werror=report the guest is told.
mount -o remount,size=64M "$WORK/small"
truncate -s 0 "$WORK/small/disk.qcow2"
"$TRAPEZE" image create -f qcow2 "$WORK/small/disk.qcow2" 64M || fail create
mount -o remount,size=4M "$WORK/small"
initrd 'dd if=/dev/urandom of=/dev/vda bs=1M count=12 conv=fsync 2>/dev/null && exit 1; exit 0' \
    --module virtio_pci --module virtio_blk
boot 200 0 --disk "$WORK/small/disk.qcow2,werror=report"
expect 'I/O error'
