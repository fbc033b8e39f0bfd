#!/bin/bash
# Root on virtio-blk: what the guest writes is what the host finds, and the filesystem is sound.
. "$(dirname "$0")/lib.sh"

disk=$WORK/disk.img
truncate -s 256M "$disk"
mkfs.ext4 -q -F "$disk" || fail mkfs.ext4
dd if=/dev/urandom of="$WORK/seed" bs=1M count=8 2>/dev/null
debugfs -w -R "write $WORK/seed seed" "$disk" 2>/dev/null

initrd 'mount -t ext4 /dev/vda /mnt || exit 1
mkdir -p /mnt/dir
sha256sum </mnt/seed
i=0; while [ $i -lt 40 ]; do dd if=/mnt/seed of=/mnt/dir/$i bs=64k skip=$i count=4 2>/dev/null; i=$((i+1)); done
cp /mnt/seed /mnt/copy; cat /mnt/seed /mnt/dir/* >/mnt/all; rm /mnt/dir/1*; sync
cd /mnt && sha256sum all copy dir/* >/mnt/sums; cd /
cat /sys/block/vda/serial; echo
umount /mnt && exit 0' --module virtio_pci --module virtio_blk
boot 200 0 --disk "$disk,format=raw,serial=trapeze-disk-1"
expect "^$(sha256sum <"$WORK/seed" | cut -d' ' -f1)"
expect '^trapeze-disk-1'
expect_clean_log
e2fsck -f -n "$disk" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck found errors"; }
mkdir "$WORK/out"
debugfs -R "rdump / $WORK/out" "$disk" >/dev/null 2>&1
(cd "$WORK/out" && sha256sum --quiet -c sums) || fail "a file differs"
[ "$(wc -l <"$WORK/out/sums")" -gt 25 ] || fail "too few files"

# With readonly the guest can read, cannot write, and the file stays as it was.
before=$(sha256sum <"$disk")
initrd 'mount -t ext4 -o ro,noload /dev/vda /mnt || exit 1
sha256sum </mnt/copy
dd if=/dev/zero of=/dev/vda bs=4k count=1 2>/dev/null && exit 1
exit 0' --module virtio_pci --module virtio_blk
boot 200 0 --disk "$disk,readonly"
expect "^$(sha256sum <"$WORK/seed" | cut -d' ' -f1)"
[ "$before" = "$(sha256sum <"$disk")" ] || fail "a read-only disk was written"
