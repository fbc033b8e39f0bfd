#!/bin/bash
# What cannot work is refused in one line that names the file and the reason, with status 1.
. "$(dirname "$0")/lib.sh"

initrd 'exit 0'

# refused PATTERN [options of trapeze run]
refused() {
    local pattern=$1 status
    shift
    timeout 20 "$TRAPEZE" run --console null "$@" >"$WORK/stdout" 2>"$WORK/stderr" </dev/null
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
