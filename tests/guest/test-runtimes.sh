#!/bin/bash
# Programs that write the code that they run: LuaJIT, Node.js, Java and Guile compute in the guest what they compute
# on the host, and collect their garbage meanwhile.
ROOTFS_NAME=runtimes
ROOTFS_SIZE=4G
ROOTFS_PACKAGES="luajit nodejs openjdk-17-jre-headless guile-3.0 stress-ng gcc libc6-dev"
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/rootfs.sh"

cat >"$WORK/compute" <<'SCRIPT'
cd /tmp
cat >a.lua <<'LUA'
local bit = require "bit"
local h, n = 5381, 0
local function mix(s) for i = 1, #s do h = bit.bxor(bit.lshift(h, 5) + h, s:byte(i)) end end
for round = 1, 30 do
    local t = {}
    for i = 1, 20000 do t[i] = { i * round, tostring(i / 7) } end
    table.sort(t, function(a, b) return a[1] % 1009 * 100000 + a[1] < b[1] % 1009 * 100000 + b[1] end)
    for i = 1, #t, 97 do mix(t[i][2]); n = n + t[i][1] end
end
local x = 0.5
for i = 1, 5000000 do x = 3.7 * x * (1 - x) end
print("luajit", jit.status() and "jit", h, n, string.format("%.17g", x))
LUA
luajit a.lua
luajit -joff a.lua
cat >a.js <<'JS'
const crypto = require("crypto");
const h = crypto.createHash("sha256");
class P { constructor(x, y) { this.x = x; this.y = y; } add(o) { return new P(this.x + o.x, this.y ^ o.y); } }
for (let r = 0; r < 20; r++) {
  let a = [];
  for (let i = 0; i < 20000; i++) a.push(new P(Math.sin(i * r), (i * 2654435761) | 0));
  h.update(a.reduce((p, q) => p.add(q)).x.toString());
  const m = new Map(a.map((p, i) => ["k" + (p.y >>> 20), i]));
  h.update(JSON.stringify([...m].sort().slice(0, 500)));
}
let b = 1n;
for (let i = 1n; i < 800n; i++) b *= i;
h.update(b.toString());
const re = /(\d+)([a-f]+)/g;
let s = "";
for (let i = 0; i < 5000; i++) s += (i * 7919).toString(16) + " ";
h.update([...s.matchAll(re)].map(m => m[2]).join(""));
const w = new Float64Array(1 << 16);
for (let k = 0; k < 50; k++) for (let i = 1; i < w.length; i++) w[i] = (w[i - 1] * 0.999 + i * k) % 1000.5;
h.update(Buffer.from(w.buffer));
console.log("node", h.digest("hex"));
JS
node a.js
node --jitless a.js 2>/dev/null
cat >a.scm <<'SCM'
(define (sieve n)
  (let ((v (make-vector n #t)))
    (let loop ((i 2) (sum 0))
      (if (= i n) sum
          (if (vector-ref v i)
              (begin (do ((j (* i i) (+ j i))) ((>= j n)) (vector-set! v j #f)) (loop (+ i 1) (+ sum i)))
              (loop (+ i 1) sum))))))
(define (fib n) (if (< n 2) n (+ (fib (- n 1)) (fib (- n 2)))))
(define (fact n) (if (= n 0) 1 (* n (fact (- n 1)))))
(display (list "guile" (sieve 300000) (fib 25) (string-length (number->string (fact 2000)))
               (let loop ((i 0) (l '())) (if (= i 400000) (length l) (loop (+ i 1) (if (= 0 (modulo i 1000)) '() (cons (* 1.5 i) l)))))))
(newline)
SCM
guile --no-auto-compile a.scm
keytool -genkeypair -alias a -keyalg RSA -keysize 3072 -dname CN=a -keystore k.p12 -storepass secret -validity 9 2>/dev/null
for c in "" -Xint "-Xcomp -XX:TieredStopAtLevel=1"; do
    keytool $(for o in $c; do echo -J$o; done) -list -v -keystore k.p12 -storepass secret 2>/dev/null | grep -E 'Owner|algorithm|Entry type'
done
cat >p.c <<'C'
/* Rewrites a function before each call, runs it through two addresses, and lets two threads do so. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static uint64_t run(unsigned char *w, unsigned char *x, unsigned seed)
{
    uint64_t sum = 0;
    for (unsigned n = 0; n < 60000; n++) {
        unsigned v = n * seed;
        w[0] = 0xb8; memcpy(w + 1, &v, 4); w[5] = 0xc3;           /* mov eax, v; ret */
        sum += ((unsigned (*)(void))x)();
    }
    return sum;
}
static unsigned char *w, *x;
static volatile int ready, done;
/* The manual's protocol for code of another processor: data first, then a flag, then a serialising instruction. */
static void *writer(void *p)
{
    for (int n = 1; n <= 20000; n++) {
        while (done != n - 1) sched_yield();
        memcpy(w + 65, &n, 4);
        __atomic_store_n(&ready, n, __ATOMIC_SEQ_CST);
    }
    return p;
}
static uint64_t reader(void)
{
    uint64_t sum = 0;
    for (int n = 1; n <= 20000; n++) {
        unsigned a = 0, b, c = 0, d;
        while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) != n) sched_yield();
        asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
        unsigned v = ((unsigned (*)(void))(x + 64))();
        if (v != (unsigned)n) printf("round %d ran the code of round %u\n", n, v);
        sum += v;
        done = n;
    }
    return sum;
}
int main(void)
{
    int fd = memfd_create("code", 0);
    pthread_t t;
    ftruncate(fd, 4096);
    w = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED, fd, 0);
    x = mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    printf("patched %lx %lx\n", run(w, w, 3), run(w, x, 5));
    w[64] = 0xb8; w[69] = 0xc3;
    pthread_create(&t, 0, writer, 0);
    printf("cross-modified %lx\n", reader());
    pthread_join(t, 0);
}
C
gcc -O1 -pthread p.c -o p && ./p
SCRIPT
rootfs_host
for cpus in ${CPUS:-1 2}; do
    rootfs_boot 3000 --cpus "$cpus"
    expect_clean_log
    diff "$WORK/host-results" "$WORK/guest-results" || fail "results differ from the host's with $cpus processors"
    lines=$(wc -l <"$WORK/host-results")
    [ "$lines" -ge 18 ] || { cat "$WORK/host-results"; fail "just $lines results to compare"; }
    echo "$cpus processors: $lines lines of results are equal"
done
