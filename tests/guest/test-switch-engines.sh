#!/bin/bash
# A stock kernel computes running checksums while its machine gets another engine again and again. Nothing
# but time tells the guest: the sums come out right, and the kernel has nothing to say.
. "$(dirname "$0")/lib.sh"

SECONDS_EACH=${SWITCH_SECONDS:-4}

# Each CPU chains checksums, which makes a process each, until time is up; says how many and the last one.
work() {
    echo "cat > /chain <<'END'
x=\$1 n=0
while [ \$(cut -d. -f1 /proc/uptime) -lt \$2 ]; do
    x=\$(echo \$x | sha256sum | cut -d' ' -f1)
    n=\$((n + 1))
done
echo chain \$1 \$n \$x
END
end=\$((\$(cut -d. -f1 /proc/uptime) + $SECONDS_EACH))
for cpu in \$(seq $1); do sh /chain \$cpu \$end & done
wait
echo all done
exit 0"
}

check_chain() {
    local x=$1 i
    for ((i = 0; i < $2; i++)); do
        x=$(echo "$x" | sha256sum | cut -d' ' -f1)
    done
    [ "$x" = "$3" ] || fail "the checksum of chain $1 is wrong after $2 steps: $3 instead of $x"
}

# juggle ENGINES MILLISECONDS CPUS
juggle() {
    local seed count sum chains=0
    initrd "$(work "$3")"
    rm -f "$LOG"
    "$SWITCH_ENGINES" "$1" "$2" "$3" "$GUEST/vmlinuz" "$WORK/initrd.img" "console=ttyS0 ${APPEND:-}" "file:$LOG" \
        >"$WORK/stdout" 2>"$WORK/stderr" </dev/null || { cat "$WORK/stderr"; fail "$1 with $3 CPUs: status $?"; }
    ! grep 'VT-x would not enter' "$WORK/stderr" || fail "no processor would take that"
    expect 'all done'
    expect_clean_log
    while read -r _ seed count sum; do
        check_chain "$seed" "$count" "$sum"
        echo "$1, $3 CPUs: $(cat "$WORK/stdout"), $count right checksums"
        chains=$((chains + 1))
    done < <(tr -d '\r' <"$LOG" | grep '^chain ')
    [ $chains = "$3" ] || fail "$chains chains ended, not $3"
}

for cpus in 1 2; do
    juggle interpret,translate "${SWITCH_MS:-50}" $cpus
done
if [ -n "${SWITCH_KVM:-}" ] && [ -w /dev/kvm ]; then
    export SWITCH_TRACE=kvm
    APPEND=nosoftlockup # a KVM that emulates, on a busy host
    for irqchip in none split kernel; do
        export SWITCH_IRQCHIP=$irqchip
        for cpus in 1 2; do
            echo "irqchip=$irqchip:"
            juggle translate,kvm,interpret 300 $cpus
        done
    done
fi
