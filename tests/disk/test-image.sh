#!/bin/bash
# "trapeze image" and qemu-img read and check what the other one wrote, over every feature.
# Set by meson: TRAPEZE.
set -u
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
dir=${TMPDIR:-/dev/shm} # many syncs: memory is faster, where there is room
[ -d "$dir" ] || dir=/tmp
WORK=$(mktemp -d -p "$dir")
trap 'rm -rf "$WORK"' EXIT
cd "$WORK" || exit 1

fail() { echo "FAIL: $*"; tail -5 out 2>/dev/null; exit 1; }
ours() { "$TRAPEZE" image "$@" >out 2>&1 || fail "trapeze image $* ($?)"; }
theirs() { qemu-img "$@" >out 2>&1 || fail "qemu-img $* ($?)"; }
io() { qemu-io "$@" >out 2>&1 || fail "qemu-io $*"; ! grep -qiE 'failed|error|mismatch|Pattern verification' out || fail "qemu-io $*"; }
status() { local want=$1 got; shift; "$@" >out 2>&1; got=$?; [ $got = "$want" ] || fail "'$*': status $got, expected $want"; }
# Both find the image sound, and that it holds what the other image does.
sound() { theirs check "$1"; ours check "$1"; }
same() { theirs compare "$1" "$2"; ours compare "$1" "$2"; }

# Data, zeroes, data that compress, a tail that is no whole cluster.
{ seq 1 200000; head -c 3000000 /dev/urandom; head -c 2000000 /dev/zero; seq 1 9999; } >data.raw
truncate -s 9000448 data.raw
seq 500000 900000 >other.raw
truncate -s 9000448 other.raw

echo "-- every cluster size and refcount width"
for cluster in 512 1k 4k 64k 512k 2M; do
    for bits in 1 4 64; do
        options=cluster_size=$cluster,refcount_bits=$bits
        ours convert -f raw -O qcow2 -o $options data.raw a.qcow2
        theirs convert -f raw -O qcow2 -o $options data.raw b.qcow2
        sound a.qcow2; sound b.qcow2; same a.qcow2 data.raw; same b.qcow2 data.raw
        # each goes on with the other's
        io -f qcow2 -c 'write -P 7 100k 300k' -c 'write -z 1M 200k' -c 'discard 4M 1M' -c 'read -P 7 100k 300k' a.qcow2
        sound a.qcow2; theirs convert -O raw a.qcow2 c.raw; same a.qcow2 c.raw
        ours convert -n -O qcow2 other.raw b.qcow2
        sound b.qcow2; same b.qcow2 other.raw
    done
done

echo "-- version 2, lazy refcounts, compression, preallocation"
for options in compat=0.10 lazy_refcounts=on compression_type=zstd preallocation=metadata preallocation=falloc \
    preallocation=full,cluster_size=512 preallocation=metadata,cluster_size=2M; do
    ours convert -O qcow2 -o $options data.raw a.qcow2
    theirs convert -O qcow2 -o $options data.raw b.qcow2
    sound a.qcow2; sound b.qcow2; same a.qcow2 data.raw; same b.qcow2 a.qcow2
done
for cluster in 512 4k 64k 2M; do
    for type in zlib zstd; do
        for bits in 1 16; do
            options=cluster_size=$cluster,compression_type=$type,refcount_bits=$bits
            ours convert -c -O qcow2 -o $options data.raw a.qcow2
            theirs convert -c -O qcow2 -o $options data.raw b.qcow2
            sound a.qcow2; sound b.qcow2; same a.qcow2 data.raw; same b.qcow2 data.raw
            ours map a.qcow2; ours info a.qcow2
            ours convert -n -O qcow2 other.raw a.qcow2 # overwrites compressed clusters
            sound a.qcow2; same a.qcow2 other.raw
        done
    done
done
theirs convert -O qcow2 data.raw plain.qcow2
[ "$(stat -c %b a.qcow2)" -gt 0 ] && ours convert -c -O qcow2 data.raw small.qcow2
[ "$(stat -c %s small.qcow2)" -lt "$(stat -c %s plain.qcow2)" ] || fail "compressed is not smaller"

echo "-- extended L2 entries are read, and not written"
theirs convert -O qcow2 -o extended_l2=on,cluster_size=128k data.raw ext.qcow2
io -f qcow2 -c 'write -P 9 6k 3k' -c 'write -z 40k 8k' -c 'discard 5M 12k' ext.qcow2
ours convert -O raw ext.qcow2 c.raw
same ext.qcow2 c.raw
status 1 "$TRAPEZE" image resize ext.qcow2 20M

echo "-- backing chains"
cp data.raw base.raw
ours create -f qcow2 -b base.raw -F raw one.qcow2
status 1 "$TRAPEZE" image create -f qcow2 -b base.raw none.qcow2
grep -q 'backing-format raw' out || fail "no hint at the format"
theirs create -f qcow2 -b one.qcow2 -F qcow2 -o cluster_size=4k two.qcow2 12M
ours create -f qcow2 -o cluster_size=512 -b two.qcow2 -F qcow2 three.qcow2
for i in one two three; do
    io -f qcow2 -c "write -P ${#i} 64k 7k" -c 'write -z 2M 100k' -c "discard ${#i}M 70k" $i.qcow2
    sound $i.qcow2
    theirs convert -O raw $i.qcow2 c.raw; same $i.qcow2 c.raw
done
mkdir deep; cp base.raw deep/0.raw; previous=0.raw format=raw
for i in $(seq 1 60); do
    ours create -f qcow2 -b "$previous" -F $format "deep/$i.qcow2"
    previous=$i.qcow2 format=qcow2
done
same deep/60.qcow2 base.raw
"$TRAPEZE" image info --backing-chain deep/60.qcow2 | grep -c '^image' >out; [ "$(cat out)" = 61 ] || fail "a chain of $(cat out)"
ours create -f qcow2 -u -b loop.qcow2 -F qcow2 loop.qcow2 1M
status 1 "$TRAPEZE" image map loop.qcow2
grep -q 'its own backing file' out || fail "the loop is not named"

echo "-- rebase and commit"
cp other.raw newbase.raw
ours create -f qcow2 -b base.raw -F raw top.qcow2
io -f qcow2 -c 'write -P 3 1M 1M' -c 'write -z 5M 64k' top.qcow2
ours convert -O raw top.qcow2 want.raw
ours rebase -b newbase.raw -F raw top.qcow2; sound top.qcow2; same top.qcow2 want.raw
ours rebase -b "" top.qcow2; sound top.qcow2; same top.qcow2 want.raw
[ -z "$("$TRAPEZE" image info top.qcow2 | grep backing)" ] || fail "still a backing file"
ours rebase -u -b base.raw -F raw top.qcow2; sound top.qcow2
theirs info top.qcow2; grep -q 'backing file: base.raw' out || fail "no backing file"
ours rebase -u -b "" top.qcow2
ours create -f qcow2 -b base.raw -F raw over.qcow2
io -f qcow2 -c 'write -P 5 2M 3M' -c 'write -z 8M 70k' over.qcow2
ours convert -O raw over.qcow2 want.raw
ours commit over.qcow2; sound over.qcow2; same base.raw want.raw; same over.qcow2 want.raw
ours create -f qcow2 -b plain.qcow2 -F qcow2 over.qcow2 20M
io -f qcow2 -c 'write -P 6 15M 1M' over.qcow2
ours commit over.qcow2; sound plain.qcow2; same plain.qcow2 over.qcow2

echo "-- resize"
for options in cluster_size=512 cluster_size=64k compat=0.10; do
    ours convert -O qcow2 -o $options data.raw a.qcow2
    cp data.raw c.raw
    for size in +100M 30M 5000192 9000448 +512; do
        ours resize --shrink a.qcow2 $size; ours resize --shrink -f raw c.raw $size
        sound a.qcow2; same a.qcow2 c.raw
    done
done
status 1 "$TRAPEZE" image resize a.qcow2 1M
status 1 "$TRAPEZE" image resize a.qcow2 -1M
ours resize --shrink a.qcow2 -1M
ours create -f qcow2 -b data.raw -F raw a.qcow2 1M
ours resize a.qcow2 9000448
theirs convert -O raw a.qcow2 c.raw; same a.qcow2 c.raw; [ "$(tail -c +1048577 c.raw | tr -d '\0' | wc -c)" = 0 ] || fail "the backing file shows"
ours create -f qcow2 -o preallocation=metadata a.qcow2 40M; sound a.qcow2
ours create -f qcow2 huge.qcow2 1T; sound huge.qcow2
ours create -f qcow2 -o cluster_size=512 a.qcow2 100G; sound a.qcow2

echo "-- snapshots"
ours create -f qcow2 s.qcow2 9000448
ours convert -n -O qcow2 data.raw s.qcow2
ours snapshot -c first s.qcow2; sound s.qcow2
ours convert -n -O qcow2 other.raw s.qcow2; sound s.qcow2
theirs snapshot -c second s.qcow2; sound s.qcow2
io -f qcow2 -c 'write -P 1 0 1M' s.qcow2
ours resize s.qcow2 20M; sound s.qcow2
ours snapshot -c third s.qcow2; sound s.qcow2
[ "$("$TRAPEZE" image snapshot -l s.qcow2 | awk 'NR > 2 {print $1, $2}' | tr '\n' ,)" = "1 first,2 second,3 third," ] || fail list
diff <("$TRAPEZE" image snapshot -l s.qcow2 | awk '{print $1, $2, $3, $4, $5, $6, $7}') \
    <(qemu-img snapshot -l s.qcow2 | awk '{print $1, $2, $3, $4, $5, $6, $7}') || fail "the lists differ"
ours convert -l first -O raw s.qcow2 c.raw; cmp c.raw data.raw || fail "snapshot first"
theirs convert -l second -O raw s.qcow2 c.raw; cmp -n 9000448 c.raw other.raw || fail "snapshot second"
ours snapshot -a first s.qcow2; sound s.qcow2; same s.qcow2 data.raw
theirs snapshot -a third s.qcow2; sound s.qcow2
ours snapshot -d second s.qcow2; sound s.qcow2
theirs snapshot -a first s.qcow2; same s.qcow2 data.raw
ours snapshot -d first s.qcow2; sound s.qcow2; same s.qcow2 data.raw
theirs snapshot -d third s.qcow2; sound s.qcow2; same s.qcow2 data.raw
status 1 "$TRAPEZE" image snapshot -a nowhere s.qcow2
ours convert -c -O qcow2 data.raw s.qcow2 # compressed clusters are shared as well
ours snapshot -c one s.qcow2; ours convert -n -O qcow2 other.raw s.qcow2; sound s.qcow2
ours snapshot -a one s.qcow2; sound s.qcow2; same s.qcow2 data.raw
ours snapshot -d one s.qcow2; sound s.qcow2

echo "-- check and repair"
leak() { printf '\0\1' | dd of="$1" bs=1 seek=$((131072 + 2 * $2)) conv=notrunc 2>/dev/null; } # cluster $2 is counted once
ours convert -O qcow2 data.raw a.qcow2
truncate -s 25M a.qcow2; leak a.qcow2 300; status 3 "$TRAPEZE" image check a.qcow2; status 3 qemu-img check a.qcow2
status 3 "$TRAPEZE" image check --json a.qcow2; grep -q '"leaks": 1' out || fail "no leak in JSON"
ours check -r leaks a.qcow2; sound a.qcow2
printf '\0\0' | dd of=a.qcow2 bs=1 seek=$((131072 + 2 * 20)) conv=notrunc 2>/dev/null # a cluster in use is counted as free
status 2 "$TRAPEZE" image check a.qcow2
ours check -r all a.qcow2; sound a.qcow2; same a.qcow2 data.raw
dd if=/dev/zero of=a.qcow2 bs=64k seek=1 count=1 conv=notrunc 2>/dev/null # no refcount table any more
status 2 "$TRAPEZE" image check a.qcow2
ours check -r all a.qcow2; sound a.qcow2; same a.qcow2 data.raw
theirs create -f qcow2 -o lazy_refcounts=on lazy.qcow2 10M
qemu-io -f qcow2 -c 'write -P 4 0 3M' -c flush -c 'sigraise 9' lazy.qcow2 >/dev/null 2>&1
"$TRAPEZE" image info lazy.qcow2 | grep -q dirty || fail "the dirty bit is not seen"
ours convert -n -O qcow2 other.raw lazy.qcow2 # opening for writing repairs it
sound lazy.qcow2; same lazy.qcow2 other.raw

echo "-- maps, comparison, locks"
for f in plain.qcow2 a.qcow2 data.raw; do
    diff <(qemu-img map --output json $f | python3 -c 'import json,sys; [print(sorted(e.items())) for e in json.load(sys.stdin)]') \
        <("$TRAPEZE" image map --json $f | python3 -c 'import json,sys
for e in json.load(sys.stdin):
    del e["compressed"]
    print(sorted(e.items()))') || fail "map of $f"
done
status 1 "$TRAPEZE" image compare data.raw other.raw; grep -q 'Content mismatch at offset 0' out || fail "no offset"
status 2 "$TRAPEZE" image compare data.raw nowhere
truncate -s 10M longer.raw; dd if=data.raw of=longer.raw conv=notrunc 2>/dev/null
ours compare data.raw longer.raw
status 1 "$TRAPEZE" image compare -s data.raw longer.raw
"$TRAPEZE" image info --json s.qcow2 | python3 -c 'import json,sys; d = json.load(sys.stdin); assert d["virtual-size"] == 9000448 and d["format"] == "qcow2", d' || fail "JSON"
mkfifo pipe
qemu-io -f qcow2 a.qcow2 <pipe >/dev/null 2>&1 & # holds the image until the pipe is closed
exec 8>pipe
for _ in $(seq 100); do "$TRAPEZE" image resize a.qcow2 +0 >out 2>&1 || break; done
grep -q 'in use' out || fail "a second writer is let in"
status 1 "$TRAPEZE" image convert -O qcow2 data.raw a.qcow2
ours info -U a.qcow2
exec 8>&-
wait
sound a.qcow2
echo "all passed"
