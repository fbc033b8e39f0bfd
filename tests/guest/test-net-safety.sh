#!/bin/bash
# What a guest behind user-mode address translation cannot reach: the host's loopback services, however it names them,
# unless it was said to; nothing at all when it is restricted. TFTP serves the folder that was given, and no more.
. "$(dirname "$0")/lib.sh"
here=$(dirname "$0")
command -v python3 >/dev/null || skip "python3 is not installed"

coproc PEER { exec "$here/net-peer"; }
trap 'kill $PEER_PID; rm -rf "$WORK"' EXIT
read -r port <&"${PEER[0]}" || fail "net-peer does not start"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
wanted=$(python3 -c "import hashlib, random; print(hashlib.sha256(random.Random(7).randbytes(1000)).hexdigest())")

# try ADDRESS: the service of net-peer answers, or not. The fake gateway makes the guest send what it is not to.
net_initrd() {
    initrd "ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -n -q -s /udhcpc >/tmp/dhcp 2>&1 && grep ^dhcp: /tmp/dhcp
try() { echo \"\$1: \$(echo digest 1000 7 | nc -w 2 \$1 $port 2>/dev/null)\"; }
$1
exit 0" --file "$here/udhcpc-script:/udhcpc" --module virtio_pci --module virtio_net
}

net_initrd 'try 10.0.2.2; try 10.0.2.3
ip addr del 127.0.0.1/8 dev lo; ip route flush table local; ip route add local 10.0.2.15 dev eth0 table local
echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet; echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet
ip route add 127.0.0.0/8 via 10.0.2.2 dev eth0
try 127.0.0.1; try 127.0.0.2'
boot 200 0 --net user --memory 256M
expect '^dhcp: eth0 has 10.0.2.15/24'
expect '^10.0.2.2:'
expect '^127.0.0.2:'
reject "$wanted"
boot 200 0 --net user,host-loopback=on --memory 256M
expect "^10.0.2.2: $wanted"
expect "^127.0.0.1: $wanted"

mkdir "$WORK/tftp"
head -c 100000 /dev/urandom >"$WORK/tftp/file"
echo secret >"$WORK/secret"
forward=$(free_port)
net_initrd 'try 10.0.2.2
tftp -g -l /tmp/file -r file 10.0.2.2 && sha256sum </tmp/file
for name in ../secret /../secret a/../../secret; do
    tftp -g -l /tmp/secret -r $name 10.0.2.2 2>/dev/null && cat /tmp/secret
done
echo ready; nc -l -p 9 -e sha256sum'
APPEND='' boot 200 0 --net "user,host-loopback=on,restrict=on,tftp=$WORK/tftp,hostfwd=tcp:$forward-:9" --memory 256M &
for _ in $(seq 600); do grep -qs '^ready' "$LOG" && break; sleep 0.2; done
python3 - "$forward" <<'PY' || fail "the forwarded port does not answer"
import hashlib, socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as s:
    s.sendall(b"x" * 100000)
    s.shutdown(socket.SHUT_WR)
    sys.exit(s.recv(64) != hashlib.sha256(b"x" * 100000).hexdigest().encode())
PY
wait $! || fail "the machine ended with another status"
expect '^10.0.2.2:'
reject "$wanted|secret"
expect "^$(sha256sum <"$WORK/tftp/file" | cut -c-64)"
expect_clean_log
