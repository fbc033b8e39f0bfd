#!/bin/bash
# iperf3 in the guest against the host, TCP both ways, one stream and four, and UDP, with one and two CPUs.
. "$(dirname "$0")/lib.sh"
here=$(dirname "$0")
command -v iperf3 >/dev/null || skip "iperf3 is not installed"

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
iperf3 --server --bind 127.0.0.1 --port "$port" >"$WORK/server" 2>&1 &
server=$!
trap 'kill $server; rm -rf "$WORK"' EXIT

initrd "ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -s /udhcpc >/tmp/dhcp 2>&1 || { cat /tmp/dhcp; exit 1; }
for options in '--bytes 300M' '--bytes 300M --reverse' '--bytes 100M --parallel 4' \
    '--bytes 100M --parallel 4 --reverse' '--udp --bitrate 50M --bytes 5M' '--udp --bitrate 50M --bytes 5M --reverse'; do
    iperf3 --client 10.0.2.2 --port $port --format m \$options >/tmp/out 2>&1 && echo \"through: \$options\" || cat /tmp/out
    grep -E 'sender|receiver' /tmp/out
done
exit 0" --file "$here/udhcpc-script:/udhcpc" --program iperf3 --module virtio_pci --module virtio_net

for cpus in 1 2; do
    : >"$LOG"
    boot 600 0 --cpus $cpus --net "user,host-loopback=on,queues=$cpus"
    [ "$(grep -c '^through:' "$LOG")" = 6 ] || fail "not all six ran through with $cpus CPUs"
    expect_clean_log
done
