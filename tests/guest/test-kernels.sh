#!/bin/bash
# Small kernels of the kinds that people write: Multiboot (ELF and flat) and PVH, with modules.
. "$(dirname "$0")/lib.sh"
command -v gcc >/dev/null || skip "no gcc"
source=$(dirname "$0")/kernels/boot.S
printf 'first module' >"$WORK/one"
printf 'second' >"$WORK/two"

# build NAME LINKER-EMULATION FLAGS...
build() {
    local name=$1 emulation=$2
    shift 2
    gcc -c "$@" -o "$WORK/$name.o" "$source" &&
        ld --no-warn-rwx-segments -m "$emulation" -N -Ttext 0x200000 -e _start -o "$WORK/$name" "$WORK/$name.o" || fail "build $name"
}
build multiboot elf_i386 -m32 -DMULTIBOOT
build pvh elf_x86_64 -m64 -DPVH
build flat.elf elf_i386 -m32 -DFLAT
objcopy -O binary "$WORK/flat.elf" "$WORK/flat" || fail "objcopy"

# kernel NAME MAGIC COMMAND-LINE ARGUMENTS...
kernel() {
    local name=$1
    shift
    timeout 20 "$TRAPEZE" run --engine "$ENGINE" --memory 16M --kernel "$WORK/$name" --append "hello world" \
        --initrd "$WORK/one,args=a=1,,b=2" --initrd "$WORK/two" --device isa-debug-exit --console "file:$LOG" \
        </dev/null >"$WORK/stderr" 2>&1
    local status=$?
    [ $status = 85 ] || { cat "$WORK/stderr"; fail "$name: exit status $status, expected 85"; }
    printf '%s\n' "$@" | cmp - "$LOG" || fail "$name: the above was expected"
}
kernel multiboot 2badb002 "$WORK/multiboot hello world" "$WORK/one a=1,b=2" "first module" "$WORK/two" second
kernel flat 2badb002 "$WORK/flat hello world" "$WORK/one a=1,b=2" "first module" "$WORK/two" second
kernel pvh 336ec578 "hello world" "a=1,b=2" "first module" "" second
