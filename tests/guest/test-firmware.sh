#!/bin/bash
# A disk without a kernel on the command line boots through SeaBIOS: a boot sector of our own, which says so by a
# BIOS call and powers off, from raw and qcow2 disks; then the order of disks and what is refused.
. "$(dirname "$0")/lib.sh"
[ -r /usr/share/seabios/bios-256k.bin ] || skip "the package seabios is not installed"

# boot_disk FILE TEXT: prints TEXT by int 0x10, waits some clock ticks (SeaBIOS sends with them what it held back),
# then writes S5 to PM1a_CNT.
boot_disk() {
    {
        printf '\x31\xc0\x8e\xd8\xbe\x23\x7c\xac\x84\xc0\x74\x06\xb4\x0e\xcd\x10\xeb\xf5'
        printf '\xb9\x05\x00\xfb\xf4\xe2\xfc\xba\x04\x06\xb8\x00\x34\xef\xf4\xeb\xfd%s\r\n\0' "$2"
    } >"$1"
    truncate -s 510 "$1"
    printf '\x55\xaa' >>"$1"
    truncate -s 1M "$1"
}

# run_disks STATUS ARG...: with the console in $LOG
run_disks() {
    local want=$1 status=0
    shift
    timeout 120 "$TRAPEZE" run --memory 128M "$@" </dev/null >"$LOG" 2>&1 || status=$?
    [ $status = "$want" ] || { tail -5 "$LOG"; fail "trapeze run $* ended with status $status, not $want"; }
}

boot_disk "$WORK/first" "sector of the first disk"
boot_disk "$WORK/second" "sector of the second disk"
truncate -s 1M "$WORK/empty"

run_disks 0 "$WORK/first,format=raw"
expect 'SeaBIOS'
expect 'sector of the first disk'

run_disks 0 --cpus 2 --engine interpret --disk "$WORK/second,format=raw" --disk "$WORK/first,format=raw"
expect 'sector of the second disk'

run_disks 0 --memory 5G "$WORK/second,format=raw" "$WORK/empty,format=raw"
expect 'sector of the second disk'

"$TRAPEZE" image convert -O qcow2 "$WORK/first" "$WORK/first.qcow2"
run_disks 0 --firmware /usr/share/seabios/bios-256k.bin "$WORK/first.qcow2"
expect 'sector of the first disk'

run_disks 1 --firmware "$WORK/nowhere" "$WORK/first,format=raw"
expect "cannot open firmware.*nowhere"
printf x >"$WORK/odd"
run_disks 1 --firmware "$WORK/odd" "$WORK/first,format=raw"
expect "no multiple of 64 KiB"
truncate -s 17M "$WORK/large"
run_disks 1 --firmware "$WORK/large" "$WORK/first,format=raw"
expect "firmware '$WORK/large' is larger than 16 MiB"
