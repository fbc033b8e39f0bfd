# Sourced after lib.sh by tests that run Debian's own programs from a disk.
# rootfs SCRIPT: boots with the Debian tree on /dev/vda, runs SCRIPT in it in the guest ($LOG) and, as the
# oracle, on the host ($WORK/host.log), both chrooted. What the script prints must not depend on time.
# ROOTFS_PACKAGES and ROOTFS_NAME, set before, choose another tree.
ROOTFS=$GUEST/${ROOTFS_NAME:-rootfs}.img
# shellcheck disable=SC2086
"$TOOLS/make-rootfs" "$ROOTFS" ${ROOTFS_SIZE:-2G} ${ROOTFS_PACKAGES:-openssl xz-utils zstd gzip bzip2 sqlite3 python3-minimal libpython3-stdlib stress-ng bc perl-base mawk} >&2 ||
    skip "no Debian tree (needs root and mmdebstrap)"

rootfs_boot() { # rootfs_boot SECONDS [options]: /script of the initramfs runs $WORK/compute in the tree
    local limit=$1
    shift
    cp --sparse=always "$ROOTFS" "$WORK/root.img"
    initrd 'mount -t ext4 /dev/vda /mnt || exit 1
cp /compute /mnt/tmp/compute
mount -t proc proc /mnt/proc; mount -t devtmpfs dev /mnt/dev; mount -t sysfs sys /mnt/sys; mount -t tmpfs tmp /mnt/run
echo begin-results
chroot /mnt /bin/sh /tmp/compute
status=$?
echo end-results
umount /mnt/run /mnt/sys /mnt/dev /mnt/proc /mnt
exit $status' --module virtio_pci --module virtio_blk --file "$WORK/compute:/compute"
    boot "$limit" 0 --memory 1G --disk "$WORK/root.img" "$@"
    tr -d '\r' <"$LOG" | sed -n '/^begin-results/,/^end-results/p' | grep -vE '^\[ *[0-9]+\.[0-9]+\]' >"$WORK/guest-results"
}

rootfs_host() { # the same on the host: $WORK/host-results
    local tree=$WORK/tree
    cp -r --reflink=auto "$ROOTFS.d" "$tree"
    cp "$WORK/compute" "$tree/tmp/compute"
    # Some programs want /proc. The mount goes with its namespace.
    {
        echo begin-results
        unshare -m sh -c 'mount -t proc proc "$1/proc"; exec chroot "$1" /bin/sh /tmp/compute' sh "$tree"
        echo end-results
    } >"$WORK/host-results" 2>&1
}
