#!/bin/bash
# What cannot work is refused in one line that names the file and the reason, with status 1.
. "$(dirname "$0")/lib.sh"

initrd 'exit 0'

# refused PATTERN [options of trapeze run]
refused() {
    local pattern=$1 status
    shift
    # auto might say first which engine it takes
    timeout 20 "$TRAPEZE" run --engine translate --console null "$@" >"$WORK/stdout" 2>"$WORK/stderr" </dev/null
    status=$?
    [ $status = 1 ] || fail "'$*': status $status, expected 1"
    [ "$(wc -l <"$WORK/stderr")" = 1 ] || { cat "$WORK/stderr"; fail "'$*': not one line"; }
    grep -qE "^trapeze: .*$pattern" "$WORK/stderr" || { cat "$WORK/stderr"; fail "'$*': no '$pattern'"; }
}
kernel=$GUEST/vmlinuz
head -c 100000 "$kernel" >"$WORK/short"
head -c 20 "$kernel" >"$WORK/tiny"
yes noise | head -c 200000 >"$WORK/noise"
: >"$WORK/empty"

refused 'missing.*No such file' --kernel "$WORK/missing"
refused 'short.*truncated' --kernel "$WORK/short"
refused 'tiny' --kernel "$WORK/tiny"
refused 'noise.*not a' --kernel "$WORK/noise"
refused 'empty' --kernel "$WORK/empty"
refused "$WORK.*directory" --kernel "$WORK"
refused 'missing.*No such file' --kernel "$kernel" --initrd "$WORK/missing"
refused 'empty' --kernel "$kernel" --initrd "$WORK/empty"
refused 'noise.*neither' --kernel "$kernel" --initrd "$WORK/noise"
(cd "$WORK" && find script | cpio -o -H newc --quiet >whole && head -c 200 whole >cut)
refused 'cut.*truncated' --kernel "$kernel" --initrd "$WORK/cut"
refused 'missing.*No such file' --kernel "$kernel" --disk "$WORK/missing"
refused 'empty' --kernel "$kernel" --disk "$WORK/empty"
refused 'noise.*qcow2' --kernel "$kernel" --disk "$WORK/noise,format=qcow2"
python3 - "$WORK/cut.qcow2" <<'PY'
import struct, sys
header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 64 << 20, 0, 1, 0x30000, 0x10000, 1, 0, 0)
open(sys.argv[1], "wb").write(header + struct.pack(">QQQII", 0, 0, 0, 4, 104) + bytes(70000))
PY
refused 'cut.qcow2.*(beyond|truncated|short)' --kernel "$kernel" --disk "$WORK/cut.qcow2"
refused "$WORK" --kernel "$kernel" --disk "$WORK"
refused 'memory' --kernel "$kernel" --memory 8M
refused 'memory|space' --kernel "$kernel" --memory 65G
refused 'RAM|space' --kernel "$kernel" --memory 64G
refused 'memory' --kernel "$kernel" --memory 12Q
refused "unknown option '--kernal'.*--kernel" --kernal "$kernel"
refused 'cpus' --kernel "$kernel" --cpus 0
refused 'cpus' --kernel "$kernel" --cpus 17
refused 'engine' --kernel "$kernel" --engine warp
refused 'cpu' --kernel "$kernel" --cpu z80
refused 'console' --kernel "$kernel" --console nonsense:1
refused "unknown network 'usr'.*user" --kernel "$kernel" --net usr
refused 'none takes nothing' --kernel "$kernel" --net none,mac=52:54:00:00:00:01
refused 'user takes no' --kernel "$kernel" --net user=eth0
refused 'tap=IF' --kernel "$kernel" --net tap
refused 'socket=PATH' --kernel "$kernel" --net socket=
refused "no 'fd'" --kernel "$kernel" --net user,fd=3
refused 'tap,fd=N takes no' --kernel "$kernel" --net tap=tap0,fd=3
refused 'fd' --kernel "$kernel" --net tap,fd=x
refused 'descriptor 99 is not a tap' --kernel "$kernel" --net tap,fd=99
refused 'a-name-too-long-for-it' --kernel "$kernel" --net tap=a-name-too-long-for-it
for mac in 1:2:3 52:54:00:12:34:5g 52:54:00:12:34:56:78 01:00:5e:00:00:01 00:00:00:00:00:00; do
    refused "mac '$mac'" --kernel "$kernel" --net "null,mac=$mac"
done
for forward in x tcp: tcp:1 tcp:0-:1 tcp:1-:0 tcp:65536-:1 tcp:a:1-:1 udp:1-a:1 sctp:1-:1; do
    refused "hostfwd '$forward'" --kernel "$kernel" --net "user,hostfwd=$forward"
done
for net in 10.0.0.0/28 10.0.0.0/x 10.0.0/24 0.0.0.0; do
    refused 'net' --kernel "$kernel" --net "user,net=$net"
done
refused "host '1.2'" --kernel "$kernel" --net user,host=1.2
refused "dns 'x'" --kernel "$kernel" --net user,dns=x
refused "dhcpstart" --kernel "$kernel" --net user,dhcpstart=
refused 'gateway 10.1.2.3.*network' --kernel "$kernel" --net user,host=10.1.2.3
refused 'DHCP.*10.0.2.240' --kernel "$kernel" --net user,dhcpstart=10.0.2.240
refused 'restrict' --kernel "$kernel" --net user,restrict=perhaps
refused 'ipv6' --kernel "$kernel" --net user,ipv6=7
refused 'host-loopback' --kernel "$kernel" --net user,host-loopback=yes
refused "missing.*TFTP" --kernel "$kernel" --net "user,tftp=$WORK/missing"
refused 'queues' --kernel "$kernel" --net null,queues=0
refused 'queues' --kernel "$kernel" --net null,queues=9
refused 'mtu' --kernel "$kernel" --net null,mtu=100
refused 'link' --kernel "$kernel" --net null,link=sideways
refused 'bps' --kernel "$kernel" --net null,bps=1
refused 'missing/capture' --kernel "$kernel" --net "null,pcap=$WORK/missing/capture"
refused 'noise' --kernel "$kernel" --net "socket=$WORK/noise"
refused 'missing/cable' --kernel "$kernel" --net "socket=$WORK/missing/cable"
refused 'more than 8 networks' --kernel "$kernel" --net null --net null --net null --net null --net null --net null \
    --net null --net null --net null
refused 'needs a value|missing' --kernel
refused '--append needs --kernel' --append quiet "$WORK/first-disk"
refused '--initrd needs --kernel' --initrd "$kernel" "$WORK/first-disk"
refused '--kernel'
refused 'missing.*No such file' --kernel "$kernel" --cdrom "$WORK/missing"
refused "'bus' of --cdrom" --kernel "$kernel" --cdrom "$kernel,bus=virtio"
refused "'media' of --cdrom" --kernel "$kernel" --cdrom "$kernel,media=disk"
refused "'bus' of --disk" --kernel "$kernel" --disk "$kernel,media=cdrom,bus=virtio"
head -c 1024 "$WORK/noise" >"$WORK/small"
refused "small.*too small" --kernel "$kernel" --cdrom "$WORK/small"
refused "two disks have bootindex=3" --disk a,bootindex=3 --disk b --cdrom c,bootindex=3
refused "'bootindex' of --disk" --disk "a,bootindex=0"
refused "'floppy'.*disk.*cdrom" "$kernel" --boot disk,floppy
refused "'2'.*number" "$kernel" --boot 2
refused "--boot.*--kernel" --kernel "$kernel" --boot disk
refused "'--uuid'" --kernel "$kernel" --uuid 1234
refused "missing.*No such file" --kernel "$kernel" --cloud-init "user-data=$WORK/missing"
refused "--cloud-init has no" --kernel "$kernel" --cloud-init "$WORK/missing"
refused "noise.*not a public key" --kernel "$kernel" --ssh-key "$WORK/noise"
echo "-----BEGIN OPENSSH PRIVATE KEY-----" >"$WORK/private"
refused "private.*is a private key.*pub" --kernel "$kernel" --ssh-key "$WORK/private"
refused 'missing.*No such file' --kernel "$kernel" --share "$WORK/missing,tag=x"
refused 'noise.*Not a directory' --kernel "$kernel" --share "$WORK/noise,tag=x"
refused "no tag=NAME" --kernel "$kernel" --share "$WORK"
refused "tag 'x' already" --kernel "$kernel" --share "$WORK,tag=x" --share "/,tag=x"
refused '1 to 32 bytes' --kernel "$kernel" --share "$WORK,tag=123456789012345678901234567890123"
refused '1 to 32 bytes' --kernel "$kernel" --share "$WORK,tag="
refused 'ownership' --kernel "$kernel" --share "$WORK,tag=x,ownership=mine"
truncate -s 1M "$WORK/disk"
exec 7>>"$WORK/disk"
python3 - "$WORK/disk" "$WORK/locked" <<'PY' &
import fcntl, os, struct, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))
open(sys.argv[2], 'w').close()
time.sleep(30)
PY
while [ ! -e "$WORK/locked" ]; do sleep 0.1; done
refused 'disk.*(in use|lock)' --kernel "$kernel" --disk "$WORK/disk"
kill %1
