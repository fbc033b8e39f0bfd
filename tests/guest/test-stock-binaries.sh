#!/bin/bash
# Debian's own programs compute in the guest what they compute on the host.
. "$(dirname "$0")/lib.sh"

programs='openssl xz zstd gzip sqlite3 python3 sha256sum bc perl'
args=()
for p in $programs; do
    command -v "$p" >/dev/null && args+=(--program "$p") || echo "without $p"
done
cat >"$WORK/compute" <<'SCRIPT'
cd /tmp
i=0; while [ $i -lt 2000 ]; do echo "line $i of a text that compresses well"; i=$((i+1)); done >t0
while [ "$(wc -c <t0)" -lt 4000000 ]; do cat t0 t0 >t1; mv t1 t0; done
have() { command -v "$1" >/dev/null 2>&1; }
if have openssl; then
    for d in md5 sha1 sha224 sha256 sha384 sha512 sha3-256 sha3-512 shake128 blake2b512 blake2s256 sm3 ripemd160; do
        echo "$d $(openssl dgst -$d <t0 2>/dev/null)"
    done
    for c in aes-128-cbc aes-256-ctr chacha20 camellia-128-cbc aria-128-cbc; do
        echo "$c $(openssl enc -$c -K 00112233445566778899aabbccddeeff -iv 00000000000000000000000000000001 <t0 2>/dev/null | openssl dgst -sha256)"
    done
fi
have xz && xz -T1 -2 -c t0 | sha256sum && xz -T1 -2 -c t0 | xz -dc | cmp - t0 && echo "xz round trip"
have zstd && zstd -q -3 -c t0 | sha256sum && zstd -q -3 -c t0 | zstd -q -dc | cmp - t0 && echo "zstd round trip"
have gzip && gzip -n -c t0 | sha256sum && gzip -c t0 | gzip -dc | cmp - t0 && echo "gzip round trip"
have sqlite3 && sqlite3 :memory: "with recursive n(i) as (select 1 union all select i+1 from n where i<20000) select sum(i*i), avg(i), group_concat(i%7,'') from n" | sha256sum
have bc && echo "scale=300; 4*a(1); e(1); sqrt(2)" | bc -l | sha256sum
echo end-of-results
SCRIPT
initrd "sh /compute
exit 0" --file "$WORK/compute:/compute" "${args[@]}"
boot 3000 0 --memory 1G
expect_clean_log
# The host runs the same script; both results side by side.
tr -d '\r' <"$LOG" | sed -n '/^md5 /,/^end-of-results/p' >"$WORK/guest-results"
(mkdir "$WORK/h" && sed "s#^cd /tmp#cd $WORK/h#" "$WORK/compute" | PATH=$PATH bash) 2>/dev/null |
    sed -n '/^md5 /,/^end-of-results/p' >"$WORK/host-results"
diff "$WORK/host-results" "$WORK/guest-results" || fail "results differ from the host's"
[ "$(wc -l <"$WORK/host-results")" -gt 20 ] || fail "too few results to compare"
