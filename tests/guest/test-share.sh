#!/bin/bash
# Directories of the host in a guest with a stock kernel: files are what POSIX says, the host sees them, a
# read-only share stays as it is, and nothing outside is reached.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/share.sh"

share=$WORK/share
fresh() { rm -rf "$share" && mkdir "$share"; }
# What POSIX says, with the client's caches in several ways. Without a cache it cannot map files for writing.
fresh
initrd "for c in none mmap loose; do
    mount -t 9p -o $OPTIONS,cache=\$c host /mnt && mkdir /mnt/\$c || exit 1
    skip=; [ \$c = none ] && skip=mappings
    echo cache \$c; posix-checks /mnt/\$c \$skip || exit 1
    umount /mnt || exit 1
done" $SHARE_MODULES --file "$POSIX_CHECKS:/bin/posix-checks"
boot 300 0 --cpus 2 --share "$share,tag=host"
[ "$(grep -c 'posix-checks: 0 of' "$LOG")" = 3 ] || fail "not three caches without a failed check"
expect_clean_log
# Owners are not kept without the mapping; of root's own the rest must hold.
fresh
initrd "mount -t 9p -o $OPTIONS,cache=mmap host /mnt || exit 1
posix-checks /mnt modes_and_owners permissions device_nodes symbolic_links; s=\$?
umount /mnt && exit \$s" $SHARE_MODULES --file "$POSIX_CHECKS:/bin/posix-checks"
boot 200 0 --share "$share,tag=host,ownership=none"
expect 'posix-checks: 0 of 18'
if [ "$(id -u)" = 0 ]; then
    fresh
    initrd "mount -t 9p -o $OPTIONS,cache=mmap host /mnt || exit 1
posix-checks /mnt device_nodes; s=\$?
umount /mnt && exit \$s" $SHARE_MODULES --file "$POSIX_CHECKS:/bin/posix-checks"
    boot 200 0 --share "$share,tag=host,ownership=passthrough"
    expect 'posix-checks: 0 of 21'
fi

# Both sides see what the other writes; two shares at once, one of them read-only.
fresh
mkdir -p "$WORK/other/dir"
echo 'from the host' >"$share/host"
echo constant | tee "$WORK/other/file" >"$WORK/other/dir/file"
chmod 1755 "$WORK/other"
dd if=/dev/urandom of="$share/big" bs=1M count=20 2>/dev/null
before=$(cd "$WORK/other" && find . -printf '%p %s %m %T@ %C@\n' | sort)
initrd "mkdir /ro && mount -t 9p -o $OPTIONS host /mnt && mount -t 9p -o $OPTIONS,cache=loose other /ro || exit 1
cat /mnt/host && sha256sum </mnt/big && cp /mnt/big /mnt/copy && echo 'from the guest' >/mnt/guest || exit 1
cat /ro/file /ro/dir/file || exit 1
for attempt in 'touch /ro/new' 'rm /ro/file' 'mkdir /ro/d' 'rmdir /ro/dir' 'mv /ro/file /ro/f' 'ln /ro/file /ro/f' \
    'ln -s x /ro/l' 'chmod 777 /ro/file' 'chown 1 /ro/file' 'truncate -s 0 /ro/file' 'mknod /ro/p p' 'touch /ro/file' \
    'dd if=/dev/zero of=/ro/file count=1'; do
    \$attempt 2>/tmp/why && echo \"worked: \$attempt\"
    grep -q 'Read-only' /tmp/why || { echo \"strange: \$attempt\"; cat /tmp/why; }
done
umount /ro /mnt" $SHARE_MODULES
boot 200 0 --share "$share,tag=host,ownership=none" --share "$WORK/other,tag=other,readonly"
reject 'worked|strange'
expect '^from the host'
expect "^$(sha256sum <"$share/big" | cut -d' ' -f1)"
cmp "$share/big" "$share/copy" || fail "the copy differs"
[ "$(cat "$share/guest")" = 'from the guest' ] || fail "the host does not see what the guest wrote"
[ "$before" = "$(cd "$WORK/other" && find . -printf '%p %s %m %T@ %C@\n' | sort)" ] || fail "a read-only share was changed"

# A guest that wants out, while the host swaps a directory with a link that leads out.
fresh
mkdir "$share/swap" "$share/deep" "$WORK/secret" && chmod 755 "$WORK/secret"
echo 'not for guests' >"$WORK/secret/file"
ln -s .. "$share/out"; ln -s "$WORK/secret/file" "$share/link"; ln -s / "$share/slash"; ln -s ../secret "$share/near"
mkfifo "$share/fifo"
python3 - "$share/swap" "$share/out" <<'PY' &
import ctypes, os, sys
libc = ctypes.CDLL(None)
a, b = (os.fsencode(x) for x in sys.argv[1:])
while os.path.isdir(os.path.dirname(a)):
    libc.renameat2(-100, a, -100, b, 2)
PY
swapper=$!
initrd "mount -t 9p -o $OPTIONS host /mnt && cd /mnt || exit 1
cat link near/file slash$WORK/secret/file ../secret/file deep/../../secret/file
escape 2000
[ -p fifo ] && cat out/secret/file
cd / && umount /mnt; exit 0" $SHARE_MODULES --file "$ESCAPE:/bin/escape"
boot 400 0 --share "$share,tag=host,ownership=none"
kill $swapper
reject '^not for guests|leak'
expect '^escape: tried'
[ "$(cat "$WORK/secret/file")" = 'not for guests' ] && [ "$(stat -c %a "$WORK/secret")" = 755 ] && [ "$(ls "$WORK/secret")" = file ] || fail "the guest got out"
for name in new d e l taken hard; do
    [ ! -e "$WORK/$name" ] && [ ! -L "$WORK/$name" ] || fail "the guest made $name outside"
done
