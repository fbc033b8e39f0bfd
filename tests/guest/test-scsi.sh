#!/bin/bash
# virtio-scsi with Linux's own drivers: a disk that is written, checked, and given back in part; a CD-ROM that is
# read, locked and ejected; what both say about themselves.
. "$(dirname "$0")/lib.sh"
for tool in sg_inq sg_vpd sg_unmap sg_write_same sg_verify sg_luns sg_modes sg_start sg_prevent sg_get_config; do
    command -v $tool >/dev/null || skip "the package sg3-utils is not installed"
done
command -v xorriso >/dev/null || skip "the package xorriso is not installed"

mkdir "$WORK/cd"
dd if=/dev/urandom of="$WORK/cd/data-file" bs=1M count=3 2>/dev/null
echo "a name in Small Letters" >"$WORK/cd/Read Me.txt"
xorriso -as mkisofs -quiet -R -V DISC -o "$WORK/disc.iso" "$WORK/cd" 2>/dev/null || fail xorriso
truncate -s 256M "$WORK/sda"
"$TRAPEZE" image create -f qcow2 "$WORK/sdb" 64M >/dev/null

# modules and programs of the guest
scsi=(--module virtio_pci --module virtio_scsi --module sd_mod --module sr_mod --module sg --module isofs --module ext4)
for tool in sg_inq sg_vpd sg_unmap sg_write_same sg_verify sg_luns sg_modes sg_start sg_prevent sg_get_config \
    mkfs.ext4 e2fsck fstrim; do
    scsi+=(--program $tool)
done

# The kernel looks at several disks at once, so that their names say nothing.
initrd 'for d in sda sdb; do
    case $(cat /sys/block/$d/size) in 524288) A=/dev/$d ;; *) B=/dev/$d ;; esac
    echo "disk: $(cat /sys/block/$d/size) $(cat /sys/block/$d/queue/discard_granularity) $(cat /sys/block/$d/queue/rotational) $(cat /sys/block/$d/ro)"
done
sg_inq $A; sg_inq /dev/sr0; sg_vpd -p sn $A; sg_luns $A
for p in 0x00 0x83 0xb0 0xb1 0xb2; do sg_vpd -p $p $A >/tmp/vpd || echo "no page $p"; done
sg_modes -a $A | grep -i "caching"

# the disk: a filesystem, files, a part given back
mkfs.ext4 -q -F $A && mount -t ext4 -o discard $A /mnt || exit 1
mkdir /cd && mount -t iso9660 /dev/sr0 /cd || exit 1
for i in 1 2 3 4 5 6 7 8; do (cat /cd/data-file; echo $i) >/mnt/copy$i; done
sync; rm /mnt/copy2 /mnt/copy3; fstrim -v /mnt
(cd /mnt && sha256sum copy* >sums)
umount /mnt
e2fsck -f -n $A >/tmp/fsck 2>&1 && echo "fsck: clean"
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 -o ro $A /mnt && cd /mnt && sha256sum -c sums | grep -c OK; cd /; umount /mnt

# commands that no filesystem sends
dd if=/dev/urandom of=$B bs=1M count=8 conv=fsync 2>/dev/null
dd if=$B of=/tmp/block bs=64k count=1 2>/dev/null
sg_verify --lba=0 --count=128 --ndo=65536 --in=/tmp/block $B && echo "verify: same"
sg_verify --quiet --lba=1 --count=128 --ndo=65536 --in=/tmp/block $B 2>/dev/null || echo "verify: status $?"
sg_unmap --lba=2048 --num=2048 --force $B && dd if=$B bs=512 skip=2048 count=2048 2>/dev/null | tr -d "\000" | wc -c
head -c 512 /tmp/block >/tmp/one
sg_write_same --16 --lba=8192 --num=64 --in=/tmp/one --xferlen=512 $B
dd if=$B bs=512 skip=8192 count=64 2>/dev/null | sha256sum
i=0; while [ $i -lt 64 ]; do cat /tmp/one; i=$((i+1)); done | sha256sum

# the CD-ROM
sg_start --eject /dev/sr0 2>/dev/null || echo "the disc in use is locked"
cat "/cd/Read Me.txt"; sha256sum </cd/data-file; grep -c "sr0 /cd iso9660 ro" /proc/mounts
dd if=/dev/zero of=/dev/sr0 bs=2k count=1 2>/dev/null && echo "the disc was written"
sg_get_config /dev/sr0 | grep "Current profile"
umount /cd
sg_prevent --prevent=0 /dev/sr0; sg_start --eject /dev/sr0
head -c 2048 /dev/sr0 >/dev/null 2>&1 || echo "no medium now"
sg_start --load /dev/sr0
head -c 2048 /dev/sr0 >/dev/null && echo "medium back"
exit 0' "${scsi[@]}"

boot 200 0 --cpus 2 --disk "$WORK/sda,format=raw,bus=scsi,serial=trapeze-sda" \
    --disk "$WORK/sdb,bus=scsi" --cdrom "$WORK/disc.iso"
expect '^disk: 524288 4096 0 0'
expect '^disk: 131072 65536 0 0'
expect 'Product identification: HARDDISK'
expect 'Peripheral device type: cd/dvd'
expect 'Unit serial number: trapeze-sda'
reject '^no page'
expect 'fstrim|trimmed'
expect '^fsck: clean'
expect '^6.?$' # files
expect '^verify: same'
expect '^verify: status 14' # miscompare
expect '^0.?$' # bytes that are not zero after UNMAP
[ "$(grep -cE '^[0-9a-f]{64}  -' "$LOG")" = 3 ] || fail "not three digests"
[ "$(grep -E '^[0-9a-f]{64}  -' "$LOG" | head -2 | sort -u | wc -l)" = 1 ] || fail "WRITE SAME wrote something else"
expect '^a name in Small Letters'
expect "^$(sha256sum <"$WORK/cd/data-file")"
reject 'the disc was written'
expect '^Current profile: CD-ROM'
expect '^the disc in use is locked'
expect '^no medium now'
expect '^medium back'
expect_clean_log
e2fsck -f -n "$WORK/sda" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; fail "e2fsck found errors"; }
[ "$(stat -c %b "$WORK/sda")" -lt $((200 * 2048)) ] || fail "nothing was given back to the host"
"$TRAPEZE" image check "$WORK/sdb" >/dev/null || fail "image check"

# A disk of the adapter that cannot be written.
before=$(sha256sum <"$WORK/sda")
initrd 'cat /sys/block/sda/ro
dd if=/dev/zero of=/dev/sda bs=4k count=1 2>/dev/null && exit 1
exit 0' "${scsi[@]}"
boot 200 0 --disk "$WORK/sda,bus=scsi,readonly,format=raw"
expect '^1'
[ "$before" = "$(sha256sum <"$WORK/sda")" ] || fail "a read-only disk was written"
