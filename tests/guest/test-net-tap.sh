#!/bin/bash
# A tap interface of the host, in a network namespace of its own: TCP both ways with what offloads leave undone, with
# one and several queues, by name and as a descriptor that is inherited.
if [ -z "${IN_NAMESPACE:-}" ]; then
    unshare -rn true 2>/dev/null || { echo "skipped: no user namespaces"; exit 77; }
    IN_NAMESPACE=1 exec unshare -rn "$0" "$@"
fi
. "$(dirname "$0")/lib.sh"
here=$(dirname "$0")
command -v python3 >/dev/null || skip "python3 is not installed"
[ -w /dev/net/tun ] || skip "/dev/net/tun is not ours"
ip link set lo up || skip "no loopback interface"

# tap_up NAME ADDRESS [multi_queue]
tap_up() {
    ip tuntap add dev "$1" mode tap vnet_hdr ${3:+"$3"} || skip "no tap interface can be made"
    sysctl -qw "net.ipv6.conf.$1.disable_ipv6=1"
    ip addr add "$2/24" dev "$1" && ip link set "$1" up || fail "ip cannot set $1 up"
}
tap_up one 10.9.1.1
tap_up many 10.9.2.1 multi_queue

coproc PEER { exec "$here/net-peer" 0.0.0.0; }
trap 'kill $PEER_PID; rm -rf "$WORK"' EXIT
read -r port <&"${PEER[0]}" || fail "net-peer does not start"

# The longest frame that the guest sends and the longest that it gets, from a capture; and one whose checksum is open.
cat >"$WORK/longest.py" <<'PY'
import struct, sys
data, at = open(sys.argv[1], "rb").read(), 24
longest = {True: 0, False: 0}
while at + 16 <= len(data):
    size = struct.unpack_from("<I", data, at + 8)[0]
    sent = data[at + 22:at + 28] == bytes.fromhex("525400090909")
    longest[sent] = max(longest[sent], size)
    at += 16 + size
print(longest[True], longest[False])
PY

# try_tap HOST NET-OPTIONS [trapeze options]: the command is run by $RUN, if that is set.
try_tap() {
    local host=$1 sent got
    initrd "ip link set lo up; ip link set eth0 up; ip addr add ${host%1}2/24 dev eth0
ask() { echo \"\$@\" | nc $host $port; }
ping -c 2 -s 1000 $host | grep loss
[ \"\$(ask get 16000000 7 | sha256sum | cut -c-64)\" = \"\$(ask digest 16000000 7)\" ] && echo 'get: same'
ask get 16000000 8 >/tmp/data
[ \"\$( (echo put; cat /tmp/data) | nc $host $port)\" = \"\$(sha256sum </tmp/data | cut -c-64)\" ] && echo 'put: same'
for i in 1 2 3 4; do (ask get 3000000 \$i | sha256sum | cut -c-64 >/tmp/got\$i) & done
wait
for i in 1 2 3 4; do [ \"\$(cat /tmp/got\$i)\" = \"\$(ask digest 3000000 \$i)\" ] && echo 'parallel: same'; done
exit 0" --module virtio_pci --module virtio_net
    TRAPEZE=${RUN:-$TRAPEZE} boot 120 0 --memory 256M --net "$2,mac=52:54:00:09:09:09,pcap=$WORK/capture" "${@:3}"
    expect ' 0% packet loss'
    expect '^get: same'
    expect '^put: same'
    [ "$(grep -c '^parallel: same' "$LOG")" = 4 ] || fail "what came in parallel differs"
    expect_clean_log
    read -r sent got <<<"$(python3 "$WORK/longest.py" "$WORK/capture")"
    echo "$2: the longest frames had $sent and $got bytes"
    [ "$sent" -gt 3000 ] && [ "$got" -gt 3000 ] || fail "frames were cut before the tap: $sent and $got bytes"
}

try_tap 10.9.1.1 tap=one
try_tap 10.9.2.1 tap=many,queues=2 --cpus 2

# Somebody else opens the interface, and hands over the descriptor.
cat >"$WORK/with-tap" <<'PY'
#!/usr/bin/env python3
import fcntl, os, struct, sys
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, TUNSETIFF = 2, 0x1000, 0x4000, 0x400454ca
fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"one", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
os.dup2(fd, 9)
os.execvp(os.environ["REAL"], [os.environ["REAL"]] + sys.argv[1:])
PY
chmod +x "$WORK/with-tap"
export REAL=$TRAPEZE
RUN=$WORK/with-tap try_tap 10.9.1.1 tap,fd=9
