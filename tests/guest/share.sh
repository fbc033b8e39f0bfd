# Sourced after lib.sh by tests of shared directories: Debian's general kernel, since its cloud kernel has no 9P.
"$TOOLS/fetch-kernel" "$GUEST/general" linux-image-amd64 >&2 || skip "no general kernel"
GUEST=$GUEST/general
SHARE_MODULES="--module virtio_pci --module 9pnet_virtio --module 9p"
OPTIONS=trans=virtio,version=9p2000.L,msize=512000
