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

# The disk is the root: programs come from it, and what they leave is sound when the guest powers off.
tree=$WORK/tree root=$WORK/root.img
mkdir -p "$tree"/{bin,sbin,proc,dev,tmp,data}
cp "$(command -v busybox)" "$tree/bin/busybox"
cp "$WORK/seed" "$tree/data/seed"
cat >"$tree/sbin/init" <<'SCRIPT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
grep -E '^/dev/[a-z]+ / ext4 rw' /proc/mounts
cd /data
for i in 1 2 3 4 5 6 7 8; do (tail -c 500000 seed; cat /bin/busybox; echo $i) >copy$i; done
gzip -1 <copy1 >packed
gunzip -c <packed | cmp - copy1 || echo wrong
sha256sum packed copy* >sums
cd / && sync && mount -o remount,ro /
echo "init: done"
poweroff -f
SCRIPT
cat >"$WORK/init" <<'SCRIPT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
while read -r m; do insmod "/lib/modules/$m.ko"; done </etc/modules
mount -t ext4 /dev/vda /mnt && mount --move /dev /mnt/dev
exec switch_root /mnt /sbin/init
SCRIPT
chmod +x "$tree/sbin/init" "$WORK/init"
truncate -s 256M "$root"
mkfs.ext4 -q -F -d "$tree" "$root" || fail mkfs.ext4
initrd '' --file "$WORK/init:/init" --module virtio_pci --module virtio_blk
boot 200 0 --disk "$root"
expect '^/dev/(vda|root) / ext4 rw'
expect '^init: done'
reject '^wrong'
expect_clean_log
e2fsck -f -n "$root" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck found errors in the root"; }
rm -rf "$WORK/out" && mkdir "$WORK/out"
debugfs -R "rdump /data $WORK/out" "$root" >/dev/null 2>&1
(cd "$WORK/out/data" && sha256sum --quiet -c sums) || fail "a file of the root differs"
[ "$(wc -l <"$WORK/out/data/sums")" = 9 ] || fail "not 9 files in the root"
