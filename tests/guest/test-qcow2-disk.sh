#!/bin/bash
# A qcow2 image made by qemu-img as root disk, alone and as an overlay: what the guest writes is what
# qemu-img finds, the image is sound, the backing file stays as it was.
. "$(dirname "$0")/lib.sh"
command -v qemu-img >/dev/null || skip "no qemu-img"

truncate -s 256M "$WORK/plain.img"
mkfs.ext4 -q -F "$WORK/plain.img" || fail mkfs.ext4
dd if=/dev/urandom of="$WORK/seed" bs=1M count=8 2>/dev/null
debugfs -w -R "write $WORK/seed seed" "$WORK/plain.img" 2>/dev/null
qemu-img convert -c -O qcow2 "$WORK/plain.img" "$WORK/base.qcow2" || fail "qemu-img convert"
qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 "$WORK/top.qcow2" || fail "qemu-img create"

initrd 'mount -t ext4 -o discard /dev/vda /mnt || exit 1
mkdir -p /mnt/dir
sha256sum </mnt/seed
i=0; while [ $i -lt 40 ]; do dd if=/mnt/seed of=/mnt/dir/$i bs=64k skip=$i count=4 2>/dev/null; i=$((i+1)); done
cp /mnt/seed /mnt/copy; cat /mnt/seed /mnt/dir/* >/mnt/all; rm /mnt/dir/1*; sync
cd /mnt && sha256sum all copy dir/* >/mnt/sums; cd /
umount /mnt && exit 0' --module virtio_pci --module virtio_blk

# check_disk IMAGE: what the guest left there
check_disk() {
    qemu-img check "$1" >"$WORK/check" 2>&1 || { cat "$WORK/check"; fail "qemu-img check $1"; }
    qemu-img convert -O raw "$1" "$WORK/out.img" || fail "qemu-img convert $1"
    e2fsck -f -n "$WORK/out.img" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck found errors in $1"; }
    rm -rf "$WORK/out"; mkdir "$WORK/out"
    debugfs -R "rdump / $WORK/out" "$WORK/out.img" >/dev/null 2>&1
    (cd "$WORK/out" && sha256sum --quiet -c sums) || fail "a file differs in $1"
    [ "$(wc -l <"$WORK/out/sums")" -gt 25 ] || fail "too few files in $1"
}

before=$(sha256sum <"$WORK/base.qcow2")
boot 200 0 --disk "$WORK/top.qcow2" # the format is found
expect "^$(sha256sum <"$WORK/seed" | cut -d' ' -f1)"
expect_clean_log
check_disk "$WORK/top.qcow2"
[ "$before" = "$(sha256sum <"$WORK/base.qcow2")" ] || fail "the backing file was written"

boot 200 0 --disk "$WORK/base.qcow2,format=qcow2,cache=unsafe"
expect_clean_log
check_disk "$WORK/base.qcow2"

# A raw disk whose format was only guessed cannot become an image that names other files.
truncate -s 1M "$WORK/guess.img"
initrd 'printf "QFI\373rest" | dd of=/dev/vda bs=512 conv=sync,fsync count=1 2>/dev/null && exit 1
printf "plain" | dd of=/dev/vda bs=512 conv=sync,fsync count=1 2>/dev/null || exit 1
printf "QFI\373rest" | dd of=/dev/vdb bs=512 conv=sync,fsync count=1 2>/dev/null || exit 1
exit 0' --module virtio_pci --module virtio_blk
truncate -s 1M "$WORK/told.img"
boot 200 0 --disk "$WORK/guess.img" --disk "$WORK/told.img,format=raw"
grep -q "guess.img.*format was guessed" "$WORK/stderr" || fail "no warning"
[ "$(head -c 5 "$WORK/guess.img")" = plain ] || fail "the guessed disk has the wrong sector 0"
[ "$(head -c 3 "$WORK/told.img")" = QFI ] || fail "format=raw must allow all writes"
