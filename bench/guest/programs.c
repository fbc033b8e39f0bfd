/* Programs from Debian's packages, each run by dash with $n as the count; the checksum is over what they
 * print. Inputs lie in /bench/data, made by the harness from a fixed seed. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "item.h"

uint64_t program_run(const struct item *item, uint64_t count)
{
    char n[32], buffer[4096], script[4096];
    uint64_t sum = 0, length = 0;
    size_t got;
    FILE *out;

    snprintf(n, sizeof(n), "%llu", (unsigned long long)count);
    setenv("n", n, 1);
    setenv("PATH", "/bench/bin:/bin:/usr/bin", 1);
    setenv("LC_ALL", "C", 1);
    setenv("TMPDIR", "/tmp", 1);
    setenv("PYTHONHASHSEED", "0", 1);
    setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
    setenv("PERL_HASH_SEED", "0", 1);
    bench_start();
    snprintf(script, sizeof(script), "set -e; %s", item->script);
    out = popen(script, "re");
    if (!out)
        bench_fail("popen");
    while ((got = fread(buffer, 1, sizeof(buffer), out)) > 0)
        for (size_t i = 0; i < got; i++, length++)
            sum = bench_mix(sum, (uint8_t)buffer[i]);
    if (pclose(out))
        bench_fail(item->script);
    return bench_mix(sum, length);
}

#define TIMES(command) "i=0; while [ $i -lt $n ]; do i=$((i + 1)); " command "; done"
#define DATA "/bench/data/"

static const char openssl_sha256[] = TIMES("set -- \"$@\" " DATA "text") "; openssl dgst -sha256 \"$@\"";
static const char openssl_md5[] = TIMES("set -- \"$@\" " DATA "text") "; openssl dgst -md5 \"$@\"";

/* The last block of CBC depends on all that went before. */
static const char openssl_aes[] =
    TIMES("openssl enc -aes-256-cbc -in " DATA "text -out /tmp/aes -iv 00000000000000000000000000000001 "
          "-K 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f; tail -c 32 /tmp/aes");

/* 2^1279 - 1 is prime. */
static const char openssl_prime[] =
    "set -- $(echo 2^1279-1 | BC_LINE_LENGTH=0 bc);" TIMES("openssl prime $1 | cksum");

static const char gzips[] =
    "head -c $((n * 1024)) " DATA "text >/tmp/plain; gzip -nc /tmp/plain >/tmp/packed; cksum </tmp/packed;"
    "gzip -dc /tmp/packed | cksum";
static const char xzs[] = "head -c $((n * 1024)) " DATA
                          "text >/tmp/plain; xz -3 -T1 -c /tmp/plain >/tmp/packed; cksum </tmp/packed;"
                          "xz -dc /tmp/packed | cksum";
static const char zstds[] =
    "head -c $((n * 1024)) " DATA "text >/tmp/plain; zstd -q -6 --single-thread -c /tmp/plain >/tmp/packed;"
    "cksum </tmp/packed; zstd -q -dc /tmp/packed | cksum";

static const char sorts[] = "head -n $((n * 1000)) " DATA "lines | sort | cksum; head -n $((n * 1000)) " DATA
                            "lines | sort -t, -k3n -k2 | cksum";

static const char mawks[] = "head -c $((n * 1024)) " DATA
                            "text | mawk '{ for (i = 1; i <= NF; i++) { count[$i]++; size += length($i) } }\n"
                            "/[aeiou][^aeiou ]+a/ { sub(/[aeiou]+/, \"-\"); hits += length($0) }\n"
                            "END { for (w in count) { total += count[w] * count[w]; s += sin(count[w]) } "
                            "printf \"%d %d %d %.9f\\n\", "
                            "size, total, hits, s }'";

static const char bcs[] = "echo \"scale=$n; 4*a(1); e(1); sqrt(2); l(3)\" | BC_LINE_LENGTH=0 bc -l";

static const char sqlites[] =
    "sqlite3 :memory: \"create table t(a integer primary key, b text, c real); begin;"
    "with recursive n(i) as (select 1 union all select i+1 from n where i < $((n * 1000)))"
    "  insert into t select i, hex(i * 2654435761), i / 7.0 from n;"
    "commit; create index u on t(b);"
    "select count(*), sum(a), round(avg(c), 3), min(b), max(b) from t where b like '%3A%';"
    "select sum(x.a * y.a) from t x join t y on y.b = hex((x.a + 1) * 2654435761);"
    "update t set c = c + 1 where a % 7 = 0; delete from t where a % 5 = 1;"
    "select group_concat(a) from (select a from t order by b limit 40); pragma integrity_check;\"";

/* One of the benchmark's own sources, preprocessed. */
static const char cc1s[] =
    TIMES("cc1 -quiet -fpreprocessed -O2 -w " DATA "branches.i -o /tmp/cc1.s; cksum </tmp/cc1.s");

static const char shell_loop[] =
    "i=0 s=0 t=; while [ $i -lt $n ]; do i=$((i + 1)); s=$(((s * 31 + i) % 65521));"
    "case $s in *7*) t=${t#?}x ;; *3) t=$t$s ;; *) [ ${#t} -gt 40 ] && t= ;; esac; done; echo $s $t";

/* What configure does all day: small programs, pipes, here-documents, substitutions. */
static const char configure_like[] = "mkdir -p /tmp/conf; cd /tmp/conf;" TIMES(
    "cat >conftest.c <<EOF\n"
    "#include <stdio.h>\n"
    "int value = $i;\n"
    "int main(void) { return value; }\n"
    "EOF\n"
    "if grep -q 'value = '$i';' conftest.c >/dev/null 2>&1; then r=yes; else r=no; fi\n"
    "name=`echo \"have_header_$i.h\" | sed 'y%abcdefghijklmnopqrstuvwxyz./%ABCDEFGHIJKLMNOPQRSTUVWXYZ__%'`\n"
    "n2=`expr $i \\* 3 + 1`\n"
    "echo \"#define $name $n2 /* $r */\" >>config.h\n"
    "cp conftest.c conftest.2; mv conftest.2 conftest.3; rm -f conftest.c conftest.3\n"
    "dir=`dirname /usr/lib/$name`; base=`basename /usr/include/$name .H`\n"
    "(echo $dir; echo $base) | sort | tr A-Z a-z >>config.log\n"
    "test -f config.h && test ! -d conftest.dir || echo bad") "; cksum <config.h; cksum <config.log; rm -f "
                                                              "config.*";

#define PROGRAM(NAME, SCRIPT, COUNT)                                        \
    {                                                                       \
        .group = "programs", .name = NAME, .script = SCRIPT, .count = COUNT \
    }

const struct item program_items[] = {
    PROGRAM("openssl-sha256", openssl_sha256, 20),
    PROGRAM("openssl-md5", openssl_md5, 10),
    PROGRAM("openssl-aes", openssl_aes, 10),
    PROGRAM("openssl-prime", openssl_prime, 3),
    PROGRAM("gzip", gzips, 2500),
    PROGRAM("xz", xzs, 900),
    PROGRAM("zstd", zstds, 6000),
    PROGRAM("sort", sorts, 70),
    PROGRAM("mawk", mawks, 5000),
    PROGRAM("bc", bcs, 500),
    PROGRAM("sqlite3", sqlites, 60),
    PROGRAM("python3", "python3 /bench/data/work.py $n", 150),
    PROGRAM("perl", "perl /bench/data/work.pl $n", 100),
    PROGRAM("cc1", cc1s, 4),
    PROGRAM("shell-loop", shell_loop, 70000),
    PROGRAM("configure-like", configure_like, 25),
    {0},
};
