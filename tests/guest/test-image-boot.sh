#!/bin/bash
# A whole Debian from an image with a partition table, made by tools/make-image: through SeaBIOS and its own GRUB
# from virtio-blk and virtio-scsi, and by its kernel and initrd given directly.
. "$(dirname "$0")/lib.sh"
[ -r /usr/share/seabios/bios-256k.bin ] || skip "the package seabios is not installed"
IMAGE=${TRAPEZE_IMAGE:-$GUEST/debian.qcow2}
"$TOOLS/make-image" "$IMAGE" 2G >&2 || skip "no Debian image (needs mmdebstrap)"

# The kernel and its initrd, as they are in the image.
"$TRAPEZE" image convert -O raw "$IMAGE" "$WORK/raw" || fail "image convert"
start=$(($(sfdisk -l -o Start "$WORK/raw" | tail -1) * 512))
for name in vmlinuz initrd.img; do
    file=$(debugfs -R "ls -p /boot" "$WORK/raw?offset=$start" 2>/dev/null | cut -d/ -f6 | grep "^$name-" | tail -1)
    debugfs -R "dump /boot/$file $WORK/$name" "$WORK/raw?offset=$start" 2>/dev/null
    [ -s "$WORK/$name" ] || fail "no /boot/$name in the image"
done

# login OPTION...: boots a fresh overlay to the login prompt, looks around as root, and powers off.
login() {
    rm -f "$WORK/disk"
    "$TRAPEZE" image create -f qcow2 -b "$IMAGE" -F qcow2 "$WORK/disk" >/dev/null || fail "image create"
    timeout -k 5 300 python3 - "$LOG" "$TRAPEZE" run --engine "$ENGINE" --memory 1G "$@" <<'PY' || fail "no login with $*"
import subprocess, sys
log = open(sys.argv[1], "wb")
p = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
seen = b""
steps = [(b"login: ", b"root\n"), (b"Password: ", b"trapeze\n"),
         (b"# ", b"echo state=$(systemctl is-system-running --wait) root=$(findmnt -no SOURCE /); systemctl --failed --no-legend; echo begin-$((1+1))\n"),
         (b"begin-2", b"poweroff\n")]
while True:
    data = p.stdout.read1(4096)
    if not data:
        break
    log.write(data)
    log.flush()
    seen += data
    if steps and steps[0][0] in seen:
        seen = b""
        p.stdin.write(steps.pop(0)[1])
        p.stdin.flush()
sys.exit(p.wait() or bool(steps))
PY
    expect 'Debian GNU/Linux 12 trapeze ttyS0'
    expect 'state=running'
    reject 'loaded failed'
    "$TRAPEZE" image check "$WORK/disk" >"$WORK/check" || { cat "$WORK/check"; fail "image check"; }
}

login "$WORK/disk"
expect 'root=/dev/vda1'
expect 'Booting from Hard Disk'
login --disk "$WORK/disk,bus=scsi"
expect 'root=/dev/sda1'
login "$WORK/disk" --kernel "$WORK/vmlinuz" --initrd "$WORK/initrd.img" --append "root=/dev/vda1 ro console=ttyS0"
expect 'root=/dev/vda1'
reject 'Booting from Hard Disk'
