#!/bin/bash
# A network card behind user-mode address translation: DHCP, ping, TCP both ways and through a forwarded port,
# with one and several queues; then address, filters and MTU as a stock driver sets them.
. "$(dirname "$0")/lib.sh"
here=$(dirname "$0")
command -v python3 >/dev/null || skip "python3 is not installed"

coproc PEER { exec "$here/net-peer"; }
trap 'kill $PEER_PID; rm -rf "$WORK"' EXIT
read -r port <&"${PEER[0]}" || fail "net-peer does not start"
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# net_initrd SCRIPT: with the network up and the functions "ask" (a line to net-peer).
net_initrd() {
    initrd "ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -s /udhcpc >/tmp/dhcp 2>&1 || { cat /tmp/dhcp; exit 1; }
grep ^dhcp: /tmp/dhcp
ask() { echo \"\$@\" | nc 10.0.2.2 $port; }
$1" "${@:2}" --file "$here/udhcpc-script:/udhcpc" --module virtio_pci --module virtio_net --module 8021q
    chmod +x "$here/udhcpc-script"
}

transfers='ping -c 3 -s 1000 10.0.2.2 || exit 1
for size in 1 1460 1000000 16000000; do
    [ "$(ask get $size 7 | sha256sum | cut -c-64)" = "$(ask digest $size 7)" ] || echo "wrong: get $size"
done
ask get 16000000 8 >/tmp/data
[ "$( (echo put; cat /tmp/data) | nc 10.0.2.2 '$port' )" = "$(sha256sum </tmp/data | cut -c-64)" ] || echo "wrong: put"
for i in 1 2 3 4 5 6 7 8; do
    (ask get 3000000 $i | sha256sum | cut -c-64 >/tmp/got$i) &
    ( (echo put; head -c 3000000 /tmp/data) | nc 10.0.2.2 '$port' >/tmp/put$i) &
done
wait
for i in 1 2 3 4 5 6 7 8; do
    [ "$(cat /tmp/got$i)" = "$(ask digest 3000000 $i)" ] || echo "wrong: get in parallel"
    [ "$(cat /tmp/put$i)" = "$(head -c 3000000 /tmp/data | sha256sum | cut -c-64)" ] || echo "wrong: put in parallel"
done
nc -ll -p 7 -e cat &
until nc 127.0.0.1 7 </dev/null; do :; done
echo "forwarded: $(ask call FORWARD 1000000)"'

for options in "queues=1" "queues=2"; do
    forward=$(free_port)
    net_initrd "${transfers/FORWARD/$forward}
ls -1 /sys/class/net/eth0/queues
exit 0"
    boot 200 0 --cpus "${options#queues=}" --net "user,host-loopback=on,hostfwd=tcp:$forward-:7,$options"
    expect '^dhcp: eth0 has 10.0.2.15/24 via 10.0.2.2, dns 10.0.2.3'
    expect ' 0% packet loss'
    expect '^forwarded: same'
    expect "^rx-$((${options#queues=} - 1))"
    reject '^wrong'
    expect_clean_log
done

# What the driver sets: address, promiscuous mode, many addresses of groups, a VLAN; the MTU and address given.
net_initrd 'cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu
cd /sys/class/net/eth0
echo "carrier: $(cat carrier)"
ip link set eth0 promisc on && ip link set eth0 allmulticast on 2>/dev/null
ip link set eth0 promisc off
ip link add link eth0 name eth0.5 type vlan id 5 && ip link set eth0.5 up && ip link del eth0.5 && echo "vlan: done"
i=0; while [ $i -lt 100 ]; do ip maddr add 33:33:00:00:01:$(printf %02x $i) dev eth0 2>/dev/null; i=$((i+1)); done
ip link set eth0 address 52:54:00:aa:bb:cc && cat address
ip addr flush dev eth0
udhcpc -i eth0 -n -q -s /udhcpc >/tmp/dhcp 2>&1 && grep ^dhcp /tmp/dhcp
ping -c 1 10.0.2.2 || exit 1
exit 0'
boot 120 0 --net user,mac=52:54:00:01:02:03,mtu=1400
expect '^52:54:00:01:02:03'
expect '^1400'
expect '^carrier: 1'
expect '^vlan: done'
expect '^52:54:00:aa:bb:cc'
expect_clean_log

# A reset with frames on their way both ways; the second time it runs through.
head -c 1048576 /dev/zero >"$WORK/flag"
net_initrd 'if [ "$(head -c 1 /dev/vda)" = 1 ]; then
    [ "$(ask get 3000000 1 | sha256sum | cut -c-64)" = "$(ask digest 3000000 1)" ] && echo "after the reset: good"
    exit 0
fi
printf 1 | dd of=/dev/vda conv=notrunc 2>/dev/null; sync
ask get 100000000 2 >/dev/null & (echo put; cat /dev/zero) | nc 10.0.2.2 '"$port"' >/dev/null &
until [ "$(cat /sys/class/net/eth0/statistics/rx_bytes)" -gt 2000000 ] &&
    [ "$(cat /sys/class/net/eth0/statistics/tx_bytes)" -gt 2000000 ]; do :; done
exit 1' --module virtio_blk
boot 120 0 --net user,host-loopback=on --disk "$WORK/flag,format=raw"
[ "$(grep -c '^dhcp: eth0' "$LOG")" = 2 ] || fail "there were not two starts"
expect '^after the reset: good'
expect_clean_log

# Two cards without an address given have two; one whose cable is out has no carrier.
initrd 'ip link set eth0 up; ip link set eth1 up
cat /sys/class/net/eth0/address /sys/class/net/eth1/address | sort -u | sed "s/^/card: /"
echo "carriers: $(cat /sys/class/net/eth0/carrier) $(cat /sys/class/net/eth1/carrier)"
exit 0' --module virtio_pci --module virtio_net
boot 120 0 --net null --net null,link=down
[ "$(grep -cE '^card: 52:54:00:..:..:..' "$LOG")" = 2 ] || fail "the cards' addresses are not two"
expect '^carriers: 1 0'
