#!/bin/bash
# A Debian image with cloud-init boots first: user data run, the hostname and the keys are there, the identity is
# the machine's.
. "$(dirname "$0")/lib.sh"
[ -r /usr/share/seabios/bios-256k.bin ] || skip "the package seabios is not installed"
command -v ssh-keygen >/dev/null || skip "no ssh-keygen here"
IMAGE=${TRAPEZE_CLOUD_IMAGE:-$GUEST/cloud.qcow2}
uuid=01234567-89ab-4def-8123-456789abcdef
ssh-keygen -q -t ed25519 -N '' -C test-key -f "$WORK/key"
cat >"$WORK/user-data" <<'DATA'
#cloud-config
ssh_genkeytypes: [ed25519]
write_files:
  - {path: /etc/written-by-user-data, content: "content of a file\n"}
runcmd:
  - |
    exec >/tmp/report
    echo "runcmd on $(hostname)"
    cat /etc/written-by-user-data /var/lib/cloud/data/instance-id /sys/class/dmi/id/product_uuid
    for home in /root /home/debian; do sed "s|^|key of $home: |" $home/.ssh/authorized_keys; done
    echo "seed: $(cloud-id) $(blkid -o value -s LABEL /dev/vdb)"
    systemctl --failed --no-legend
    # At once, and not behind what systemd writes without an end of line.
    printf '\n%s\n' "$(cat /tmp/report)" >/dev/ttyS0
power_state: {mode: poweroff}
DATA

# The seed, under a stock kernel.
initrd 'mount -t iso9660 /dev/vda /mnt && cd /mnt && ls -l && cat meta-data && sha256sum user-data
cat /sys/block/vda/ro; exit 0' --module virtio_pci --module virtio_blk --module isofs
seed=(--name "my box" --uuid $uuid --cloud-init "user-data=$WORK/user-data" --ssh-key "$WORK/key.pub")
boot 120 0 "${seed[@]}"
expect '^-r--r--r-- .* user-data'
expect "^instance-id: $uuid"
expect '^local-hostname: my-box'
expect '^  - "ssh-ed25519 .* test-key"'
expect "^$(sha256sum <"$WORK/user-data" | cut -d' ' -f1)  user-data"
expect '^1'

"$TOOLS/make-image" "$IMAGE" 2G cloud-init sudo >&2 || skip "no Debian image (needs mmdebstrap)"
"$TRAPEZE" image create -f qcow2 -b "$IMAGE" -F qcow2 "$WORK/disk" >/dev/null || fail "image create"
status=0
timeout -k 5 900 "$TRAPEZE" run --engine "$ENGINE" --memory 1G "$WORK/disk" "${seed[@]}" </dev/null >"$WORK/raw" 2>&1 || status=$?
tr -d '\r' <"$WORK/raw" >"$LOG"
[ $status = 0 ] || fail "exit status $status"
expect '^runcmd on my-box'
expect '^content of a file'
[ "$(grep -c "^$uuid" "$LOG")" = 2 ] || fail "the identity is not $uuid"
expect '^key of /root: ssh-ed25519 .* test-key'
expect '^key of /home/debian: ssh-ed25519 .* test-key'
expect '^seed: nocloud cidata'
reject 'loaded failed'
