#!/bin/bash
# Debian's own programs compute in the guest what they compute on the host.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/rootfs.sh"

cat >"$WORK/compute" <<'SCRIPT'
cd /tmp
python3 - <<'PY' >text
import random
random.seed(1)
words = ["".join(chr(97 + random.randrange(26)) for _ in range(random.randrange(2, 11))) for _ in range(4000)]
n = 0
while n < 64 << 20:
    line = " ".join(random.choice(words) for _ in range(200))
    print(line * 20)
    n += len(line) * 20
PY
head -c 67108864 text >big; head -c 1000000 big >small
for d in $(openssl list -digest-commands); do
    echo "$d $(openssl dgst -$d <small 2>&1)"
done
for c in aes-128-cbc aes-256-ctr chacha20 camellia-128-cbc aria-128-cbc; do
    echo "$c $(openssl enc -$c -K 00112233445566778899aabbccddeeff -iv 00000000000000000000000000000001 <small 2>/dev/null | openssl dgst -sha256)"
done
for tool in "xz -0 -T1" "zstd -q -1" "gzip -n -1" "bzip2 -1"; do
    [ "$tool" = "bzip2 -1" ] && f=small || f=big
    $tool -c $f >packed; sha256sum packed
    ${tool%% *} -dc packed | cmp - $f && echo "$tool: round trip of $(wc -c <$f) bytes"
done
sqlite3 :memory: "pragma integrity_check; create table t(a integer primary key, b text, c real);
with recursive n(i) as (select 1 union all select i+1 from n where i<30000) insert into t select i, hex(i*2654435761), i/7.0 from n;
create index u on t(b); select count(*), sum(a), avg(c), min(b), max(b) from t where b like '%A%';
select group_concat(a) from (select a from t order by b limit 40); pragma integrity_check;"
python3 - <<'PY'
import decimal, fractions, hashlib, json, math, random, re, struct, zlib
random.seed(7)
h = hashlib.sha256()
for i in range(3000):
    x = random.gauss(0, 100)
    h.update(repr((x, math.sin(x), math.exp(x / 100), math.gamma(abs(x) % 50 + 1), math.hypot(x, i), x ** 3, x // 7)).encode())
    h.update(struct.pack("<dfq", x, x, int(x * 1e9)))
decimal.getcontext().prec = 200
h.update(str(decimal.Decimal(2).sqrt() + decimal.Decimal(3).ln()).encode())
h.update(str(sum(fractions.Fraction(1, n) for n in range(1, 300))).encode())
h.update(str(pow(3, 10**5, 10**60 + 7) * math.factorial(600)).encode())
data = {str(i): [random.random() for _ in range(5)] for i in range(500)}
assert json.loads(json.dumps(data)) == data
assert zlib.decompress(zlib.compress(repr(data).encode(), 9)) == repr(data).encode()
h.update(",".join(sorted(re.findall(r"\d\.\d{3}", repr(data)))).encode())
print("python", h.hexdigest())
PY
echo "scale=400; 4*a(1); e(1); sqrt(2); l(10); s(1)" | bc -l | sha256sum
perl -e '$s=1; for(1..200000){$s=($s*1103515245+12345)%2147483648; $h{$s%1000}.=chr(65+$s%26)} print join("",map{substr($h{$_},0,9)}sort keys %h)' | sha256sum
mawk 'BEGIN{for(i=0;i<100000;i++){s=(s*75+74)%65537; a[s%97]+=sin(s)} for(i=0;i<97;i++)printf "%.10f ",a[i]}' | sha256sum
sort -u small | sha256sum
SCRIPT
rootfs_host
rootfs_boot 3300
expect_clean_log
diff "$WORK/host-results" "$WORK/guest-results" || fail "results differ from the host's"
lines=$(wc -l <"$WORK/host-results")
[ "$lines" -gt 30 ] || { cat "$WORK/host-results"; fail "just $lines results to compare"; }
echo "$lines lines of results are equal"
