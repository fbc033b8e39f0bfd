#!/bin/bash
# Cables pulled out and plugged in by keys after Ctrl-a, as the guest sees them, and an announcement that it sends
# when it is asked to.
. "$(dirname "$0")/lib.sh"
here=$(dirname "$0")
command -v python3 >/dev/null || skip "python3 is not installed"

initrd 'ip link set eth0 up; ip link set eth1 up
ip addr add 192.0.2.7/24 dev eth0
carriers() { echo "$(cat /sys/class/net/eth0/carrier)$(cat /sys/class/net/eth1/carrier)"; }
for wanted in 10 00 10 11; do
    until [ "$(carriers)" = $wanted ]; do usleep 50000; done
    echo "carriers: $wanted"
done
until [ "$(cat /sys/class/net/eth0/operstate)" = up ]; do usleep 50000; done
echo "ready to send"
read -r line
echo "line: $line"
exit 0' --module virtio_pci --module virtio_net

python3 "$here/net-link-user" "$LOG" "$WORK/capture" "$TRAPEZE" run --engine "$ENGINE" --kernel "$GUEST/vmlinuz" \
    --initrd "$WORK/initrd.img" --append console=ttyS0 --net "null,pcap=$WORK/capture" --net null,link=down
sed -i 's/\r//g' "$LOG"
for wanted in 'carriers: 00' 'carriers: 11' 'ready to send' 'line: thanks' 'status: 0' \
    'announcements: 0 before, [1-9]'; do
    expect "^$wanted"
done
expect_clean_log
