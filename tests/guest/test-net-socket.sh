#!/bin/bash
# Two machines joined by a socket ping each other and pass a gigabyte without a bad checksum; when one of them
# ends, the other's cable is out, and in again with the next.
. "$(dirname "$0")/lib.sh"
SIZE=${SIZE:-1024} # MiB one way, and a quarter of it the other way

head -c 1048576 /dev/urandom >"$WORK/noise"
digest() { for _ in $(seq "$1"); do cat "$WORK/noise"; done | sha256sum | cut -c-64; }

# cable_initrd ADDRESS SCRIPT
cable_initrd() {
    initrd "noise() { i=0; while [ \$i -lt \$1 ]; do cat /noise; i=\$((i+1)); done; }
carrier() { until [ \"\$(cat /sys/class/net/eth0/carrier)\" = \$1 ]; do usleep 10000; done; }
ip link set lo up; ip link set eth0 up; ip addr add $1/24 dev eth0
$2
grep -E '^(Tcp|Udp|Ip|Icmp):' /proc/net/snmp
exit 0" --module virtio_pci --module virtio_net --file "$WORK/noise:/noise"
}

cable_initrd 10.1.1.1 "carrier 1
echo 'i=0; while [ \$i -lt $SIZE ]; do cat /noise; i=\$((i+1)); done' >/tmp/send
nc -ll -p 1 -e sh /tmp/send &
nc -ll -p 2 -e sha256sum &
nc -l -p 3
carrier 0; echo 'unplugged'
carrier 1; echo 'plugged'
nc -l -p 3"
mv "$WORK/initrd.img" "$WORK/first.img"
timeout -k 5 500 "$TRAPEZE" run --engine "$ENGINE" --kernel "$GUEST/vmlinuz" --initrd "$WORK/first.img" \
    --append console=ttyS0 --console "file:$WORK/first.log" --net "socket=$WORK/cable" </dev/null &
first=$!
trap 'kill $first 2>/dev/null; rm -rf "$WORK"' EXIT

meet='carrier 1
until ping -c 1 -W 1 10.1.1.1 >/dev/null; do :; done'
cable_initrd 10.1.1.2 "$meet
ping -c 5 -s 1400 10.1.1.1
ping -c 2 -s 20000 10.1.1.1
until nc 10.1.1.1 1 </dev/null | head -c 1 >/tmp/first && [ -s /tmp/first ]; do :; done
echo got \$(nc 10.1.1.1 1 </dev/null | sha256sum)
until nc 10.1.1.1 2 </dev/null >/dev/null; do :; done
echo sent \$(noise $((SIZE / 4)) | nc 10.1.1.1 2)
until echo bye | nc 10.1.1.1 3; do :; done"
boot 400 0 --net "socket=$WORK/cable"
expect '^5 packets transmitted, 5 packets received'
expect '^2 packets transmitted, 2 packets received'
expect "^got $(digest "$SIZE")"
expect "^sent $(digest $((SIZE / 4)))"
expect_clean_log
cp "$LOG" "$WORK/second.log"

cable_initrd 10.1.1.3 "$meet
until echo bye | nc 10.1.1.1 3; do :; done"
boot 100 0 --net "socket=$WORK/cable"
wait "$first" || fail "the first machine ended with status $?"
LOG=$WORK/first.log
expect '^unplugged'
expect '^plugged'
expect_clean_log

# Columns of errors: of checksums, and of segments that came in broken.
python3 - "$WORK/first.log" "$WORK/second.log" <<'PY' || fail "a checksum was bad"
import sys
for path in sys.argv[1:]:
    rows = [line.split() for line in open(path, errors="replace") if line.split(":")[0] in ("Tcp", "Udp", "Ip", "Icmp")]
    counts = {(names[0] + name): int(value) for names, values in zip(rows[::2], rows[1::2])
              for name, value in zip(names[1:], values[1:])}
    bad = {k: v for k, v in counts.items() if k.split(":")[1] in ("InCsumErrors", "InErrs", "InHdrErrors", "InErrors") and v}
    print(path.rsplit("/", 1)[1], "segments in:", counts["Tcp:InSegs"], "errors:", bad or "none")
    sys.exit(1) if bad else None
PY
