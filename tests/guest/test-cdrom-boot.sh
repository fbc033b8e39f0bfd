#!/bin/bash
# What SeaBIOS boots, and in which order: a CD-ROM with GRUB, the stock kernel and an initramfs, made like any
# installer's; disks on virtio-blk and virtio-scsi.
. "$(dirname "$0")/lib.sh"
[ -r /usr/share/seabios/bios-256k.bin ] || skip "the package seabios is not installed"
[ -f /usr/lib/grub/i386-pc/boot.img ] || skip "the package grub-pc-bin is not installed"
for tool in grub-mkrescue xorriso mformat; do
    command -v $tool >/dev/null || skip "no $tool here (packages grub-common, xorriso, mtools)"
done

# boot_disk FILE TEXT: a boot sector that prints TEXT by int 0x10, waits some clock ticks, and powers off.
boot_disk() {
    {
        printf '\x31\xc0\x8e\xd8\xbe\x23\x7c\xac\x84\xc0\x74\x06\xb4\x0e\xcd\x10\xeb\xf5'
        printf '\xb9\x05\x00\xfb\xf4\xe2\xfc\xba\x04\x06\xb8\x00\x34\xef\xf4\xeb\xfd%s\r\n\0' "$2"
    } >"$1"
    truncate -s 510 "$1"
    printf '\x55\xaa' >>"$1"
    truncate -s 1M "$1"
}

# run_machine ARG...: with the console in $LOG
run_machine() {
    local status=0
    timeout 120 "$TRAPEZE" run --net none "$@" </dev/null >"$LOG" 2>&1 || status=$?
    [ $status = 0 ] || fail "trapeze run $* ended with status $status"
}

boot_disk "$WORK/blk" "sector of a virtio-blk disk"
boot_disk "$WORK/scsi" "sector of a virtio-scsi disk"
truncate -s 1M "$WORK/empty"

initrd 'mkdir /cd; mount -t iso9660 /dev/sr0 /cd && sha256sum </cd/boot/vmlinuz
exit 0' --module virtio_pci --module virtio_scsi --module sr_mod --module isofs
mkdir -p "$WORK/iso/boot/grub"
cp "$GUEST/vmlinuz" "$WORK/initrd.img" "$WORK/iso/boot/"
cat >"$WORK/iso/boot/grub/grub.cfg" <<'GRUB'
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
menuentry "kernel of the disc" {
    linux /boot/vmlinuz console=ttyS0
    initrd /boot/initrd.img
}
GRUB
grub-mkrescue -o "$WORK/boot.iso" "$WORK/iso" >"$WORK/mkrescue" 2>&1 || { tail -3 "$WORK/mkrescue"; fail grub-mkrescue; }

# The disc boots when there is nothing else, when the disk before it cannot boot, and when it is asked for.
for options in "" "--disk $WORK/empty,format=raw" "--disk $WORK/blk,format=raw --boot cdrom,disk" \
    "--disk $WORK/scsi,format=raw,bus=scsi --boot 2"; do
    # shellcheck disable=SC2086
    run_machine $options --cdrom "$WORK/boot.iso"
    expect 'Booting from DVD/CD'
    expect "^$(sha256sum <"$GUEST/vmlinuz")"
    expect_clean_log
done

# Of several disks a BIOS boots the first only.
disks=(--memory 128M --disk "$WORK/blk,format=raw" --disk "$WORK/empty,format=raw")
run_machine "${disks[@]}" --disk "$WORK/scsi,format=raw,bus=scsi"
expect 'sector of a virtio-blk disk'
run_machine "${disks[@]}" --disk "$WORK/scsi,format=raw,bus=scsi" --boot 3
expect 'sector of a virtio-scsi disk'
run_machine "${disks[@]}" --disk "$WORK/scsi,format=raw,bus=scsi,bootindex=1" --boot 1
expect 'sector of a virtio-scsi disk'
run_machine --memory 128M --cdrom "$WORK/boot.iso" "$WORK/scsi,format=raw,bus=scsi"
expect 'sector of a virtio-scsi disk'
