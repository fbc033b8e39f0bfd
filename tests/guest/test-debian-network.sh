#!/bin/bash
# A whole Debian behind user-mode address translation: ssh through a forwarded port, 64 MB in and out, a package
# installed from a mirror on the host, a clean end. Slow; wants an image made by tools/make-image.
. "$(dirname "$0")/lib.sh"

image=${TRAPEZE_IMAGE:-$GUEST/debian.qcow2}
for tool in ssh scp ssh-keygen dpkg-deb qemu-img python3; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
[ -s "$image" ] || "$TOOLS/make-image" "$image" >"$WORK/made" 2>&1 || skip "no $image: $(tail -1 "$WORK/made")"

vm='' web=''
trap 'kill $vm $web 2>/dev/null; rm -rf "$WORK"' EXIT
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# --- the disk: what the machine changes, on top of the image; a small guest puts our key in ---
ssh-keygen -q -t ed25519 -N '' -f "$WORK/key"
"$TRAPEZE" image create -f qcow2 -b "$(realpath "$image")" -F "${image##*.}" "$WORK/disk.qcow2" >/dev/null || fail "create"
initrd 'mount -t ext4 /dev/vda1 /mnt && mkdir -p -m 700 /mnt/root/.ssh &&
cp /key.pub /mnt/root/.ssh/authorized_keys && chmod 600 /mnt/root/.ssh/authorized_keys && umount /mnt || exit 1
exit 0' --file "$WORK/key.pub:/key.pub" --module virtio_pci --module virtio_blk
boot 200 0 --disk "$WORK/disk.qcow2" --net none --no-reboot

# --- a mirror with one package, of 16 MB ---
mkdir -p "$WORK/mirror" "$WORK/package/DEBIAN" "$WORK/package/usr/bin" "$WORK/package/usr/share/trapeze-test"
head -c 16000000 /dev/urandom >"$WORK/package/usr/share/trapeze-test/data"
printf '#!/bin/sh\nsha256sum </usr/share/trapeze-test/data\n' >"$WORK/package/usr/bin/trapeze-test"
chmod 755 "$WORK/package/usr/bin/trapeze-test"
printf '%s\n' 'Package: trapeze-test' 'Version: 1.0' 'Architecture: all' 'Maintainer: nobody <nobody@localhost>' \
    'Description: data that a test installs' >"$WORK/package/DEBIAN/control"
dpkg-deb --build --root-owner-group "$WORK/package" "$WORK/mirror/trapeze-test.deb" >/dev/null || fail "dpkg-deb"
{
    dpkg-deb -f "$WORK/mirror/trapeze-test.deb"
    echo "Filename: ./trapeze-test.deb"
    echo "Size: $(stat -c %s "$WORK/mirror/trapeze-test.deb")"
    echo "SHA256: $(sha256sum <"$WORK/mirror/trapeze-test.deb" | cut -d' ' -f1)"
} >"$WORK/mirror/Packages"
mirror=$(free_port)
python3 -m http.server "$mirror" --bind 127.0.0.1 --directory "$WORK/mirror" >"$WORK/http" 2>&1 &
web=$!

# --- the machine ---
port=$(free_port)
: >"$LOG"
timeout -k 5 900 "$TRAPEZE" run --engine "$ENGINE" --memory 1G "$WORK/disk.qcow2" --console "file:$LOG" \
    --net "user,host-loopback=on,hostfwd=tcp:$port-:22" >"$WORK/stdout" 2>"$WORK/stderr" </dev/null &
vm=$!
options=(-i "$WORK/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR
    -o BatchMode=yes -o ConnectTimeout=60)
guest() { ssh "${options[@]}" -p "$port" root@127.0.0.1 "$@"; }
until grep -q 'login:' "$LOG" 2>/dev/null; do
    kill -0 $vm 2>/dev/null || { cat "$WORK/stderr"; fail "the machine ended before its login prompt"; }
    sleep 0.2
done
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    guest true && break
    [ $attempt = 10 ] && fail "no ssh"
    sleep 1
done
state=$(guest systemctl is-system-running --wait)
[ "$state" = running ] || { guest systemctl --failed; fail "systemd says '$state'"; }
guest ip -o -4 address show scope global | grep -q '10\.0\.2\.15/24' || fail "no address by DHCP"

# --- 64 MB in and out ---
head -c 64000000 /dev/urandom >"$WORK/in"
scp -q "${options[@]}" -P "$port" "$WORK/in" root@127.0.0.1:/root/file || fail "scp to the guest"
scp -q "${options[@]}" -P "$port" root@127.0.0.1:/root/file "$WORK/out" || fail "scp from the guest"
digest=$(sha256sum <"$WORK/in")
[ "$(guest 'sha256sum </root/file')" = "$digest" ] || fail "the file arrived changed"
[ "$(sha256sum <"$WORK/out")" = "$digest" ] || fail "the file came back changed"

# --- a package through the network ---
guest "rm -f /etc/apt/sources.list.d/*; echo 'deb [trusted=yes] http://10.0.2.2:$mirror ./' >/etc/apt/sources.list
apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install trapeze-test" >"$WORK/apt" 2>&1 ||
    { tail "$WORK/apt"; fail "apt-get install"; }
[ "$(guest trapeze-test)" = "$(sha256sum <"$WORK/package/usr/share/trapeze-test/data")" ] || fail "the package differs"

# --- the end ---
guest poweroff
wait $vm
status=$?
vm=''
[ $status = 0 ] || { cat "$WORK/stderr"; fail "exit status $status after poweroff"; }
grep -v '^trapeze: engine ' "$WORK/stderr" && fail "there were the messages above"
reject 'BUG:|Call Trace|Oops|panic|FAILED'
qemu-img check -U "$WORK/disk.qcow2" >"$WORK/check" 2>&1 || { cat "$WORK/check"; fail "qemu-img check"; }
echo "debian: system $state, 64 MB in and out, apt-get install, poweroff: all good"
