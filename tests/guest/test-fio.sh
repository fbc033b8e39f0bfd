#!/bin/bash
# fio in the guest writes disks at random, deep and from several jobs, and reads back what it wrote with a
# checksum in each block: raw and qcow2, one queue and two, virtio-blk and virtio-scsi.
. "$(dirname "$0")/lib.sh"
command -v fio >/dev/null || skip "fio is not installed"

initrd "mkdir -p /tmp; cd /tmp; disk=/dev/vda; [ -e \$disk ] || disk=/dev/sda
job='fio --name=job --direct=1 --ioengine=libaio --thread --verify=crc32c --verify_fatal=1 --randseed=7'
\$job --filename=\$disk --rw=randwrite --bsrange=4k-128k --iodepth=32 --size=64M >out 2>&1 && echo through: mixed || cat out
\$job --filename=\$disk --rw=randwrite --bs=4k --iodepth=16 --size=16M --offset_increment=16M --numjobs=4 >out 2>&1 &&
    echo through: jobs || cat out
\$job --filename=\$disk --rw=randtrimwrite --bs=64k --iodepth=8 --size=64M --verify=0 >out 2>&1 && echo through: trim || cat out
\$job --filename=\$disk --rw=write --bs=1M --iodepth=4 --fsync=4 --size=64M >out 2>&1 && echo through: flushed || cat out
exit 0" --program fio --module virtio_pci --module virtio_blk --module virtio_scsi --module sd_mod

for disk in raw,bus=virtio qcow2,bus=virtio qcow2,bus=scsi; do
    for cpus in 1 2; do
        : >"$LOG"
        rm -f "$WORK/disk"
        "$TRAPEZE" image create -f "${disk%%,*}" "$WORK/disk" 80M >/dev/null || fail "image create"
        boot 400 0 --net none --cpus $cpus --disk "$WORK/disk,format=$disk"
        [ "$(grep -c '^through:' "$LOG")" = 4 ] || fail "not all four ran through on $disk with $cpus CPUs"
        expect_clean_log
        [ "${disk%%,*}" = raw ] || "$TRAPEZE" image check "$WORK/disk" >"$WORK/check" || { cat "$WORK/check"; fail "the image is damaged"; }
    done
done
