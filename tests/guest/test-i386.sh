#!/bin/bash
# Debian's kernels for i386 boot, and 32-bit programs compute under them and under a 64-bit kernel what they
# compute on the host, with the translator as it is and under those torture switches that are quick: tests/system
# and tests/isa have all of them. TORTURE: which ones.
. "$(dirname "$0")/lib.sh"
ENGINE=${TRAPEZE_ENGINE:-translate}
WIDE=$GUEST
[ -s "$GUEST/i386/vmlinuz" ] && [ -s "$GUEST/i386-no-pae/vmlinuz" ] ||
    skip "no kernels in $GUEST/i386 and $GUEST/i386-no-pae (tools/fetch-kernel)"
BUSYBOX=$GUEST/i386/busybox
"$BUSYBOX" true || skip "the host runs no 32-bit programs"

cat >"$WORK/compute" <<'SCRIPT'
seq 1 8000 >text
for sum in md5sum sha1sum sha256sum sha512sum sha3sum; do echo "$sum $($sum <text)"; done
for pack in gzip bzip2; do
    $pack -c <text | tee packed | md5sum
    $pack -dc <packed | cmp - text && echo "$pack: round trip"
done
awk '{s += $1 / 7 * s / 3 + 1 / $1; t += $1 / 3; u[$1 % 97] += t / $1; if (s > 1e9) s /= 1e12} END {printf "%.17g %.17g %.17g\n", s, t, u[5]}' <text
awk 'function f(n) {return n < 2 ? n : f(n - 1) + f(n - 2)} BEGIN {print f(14)}'
sort -r <text | sed 's/7/seven/g; y/123/abc/' | tr a-c x-z | grep -v 99 | md5sum
factor 600851475143
echo '2^777 % 10^40; scale=60; sqrt(2); 355/113' | bc
i=0 s=0; while [ $i -lt 1000 ]; do i=$((i + 1)) s=$(((s * 31 + i * i) % 65521)); done; echo $s
for n in $(seq 12); do (exit $n); echo $? | cat; done | md5sum
SCRIPT
mkdir "$WORK/bin"
"$BUSYBOX" --install -s "$WORK/bin"
mkdir "$WORK/dir"
(cd "$WORK/dir" && PATH=$WORK/bin "$BUSYBOX" sh <"$WORK/compute") >"$WORK/host" 2>&1

right() { # right WHAT: after boot()
    expect 'script: status 0'
    expect_clean_log
    tr -d '\r' <"$LOG" | sed -n '/^begin-results/,/^end-results/p' | grep -vE '^\[ *[0-9]+\.[0-9]+\]|^(begin|end)-results' |
        diff "$WORK/host" - || fail "$1: results differ from the host's"
    echo "$1: right"
}
script='cd /tmp; echo begin-results; sh /compute 2>&1; echo end-results; exit 0'
kernel() { # kernel FOLDER [options of make-initramfs]
    GUEST=$1
    shift
    initrd "$script" --file "$WORK/compute:/compute" "$@"
}

kernel "$WIDE" --file "$BUSYBOX:/bin/busybox"
boot 200 0
right "32-bit programs under a 64-bit kernel"
kernel "$WIDE/i386-no-pae"
boot 200 0
right "a kernel without PAE"
kernel "$WIDE/i386"
boot 200 0 --memory 3G
right "a kernel with PAE"
[ "$ENGINE" = translate ] || exit 0
for words in ${TORTURE:-hot flush=1000,fail no-chaining no-returns live-flags lockstep=100}; do
    TRAPEZE_TRANSLATE=$words boot 600 0
    right "$words"
done
