#!/bin/bash
# Debian's cloud kernel boots under KVM, whatever kind of KVM it is: the interpreter rescues what that
# cannot do. The kernel says the same as under the interpreter, but for times, addresses and what CPUID has
# under each. On a KVM that emulates this takes a quarter of an hour, although the options spare the
# kernel what such a KVM is slowest at and what only says that the machine is slow.
. "$(dirname "$0")/lib.sh"

[ -w /dev/kvm ] || skip "no /dev/kvm"
initrd 'uname -r
cat /sys/devices/system/clocksource/clocksource0/current_clocksource
exit 0'

# Not without SMAP: the CLAC at the beginning of each handler is where what such a KVM does to SYSCALL is mended
# (docs/kvm.md, K9).
APPEND="nosoftlockup lpj=4000000 tsc=reliable cryptomgr.notests mitigations=off panic=-1"
APPEND+=" audit=0 random.trust_cpu=on clearcpuid=cx16,erms,fsrm"

# What the kernel said, without times and numbers, each line once: threads print in another order. That a task
# waits for long, the kernel says until the first program could tell it not to.
said() {
    tr -d '\r' <"$1" | sed '/INFO: task .* blocked for more/,/<\/TASK>/d' | sed -E 's/^\[ *[0-9.]+\] //; s/0x[0-9a-f]+|[0-9a-f]{8,}/X/g; s/[0-9]+/N/g; s/ +/ /g' |
        grep -vE 'KASLR|GB pages|N.N GiB page|Hyper-Threading|Spectre|Speculat|SRSO|Retbleed|Mitigation|hrtimer|kprobe' |
        sort -u
}

ENGINE=kvm,irqchip=none
boot 7000 0 --stats --memory 256M --no-reboot
grep -E 'kvm_|insns|executed for KVM' "$WORK/stderr"
expect '^6\.[0-9]+.*-cloud-amd64'
expect 'script: status 0'
said "$LOG" >"$WORK/kvm"
ENGINE=interpret
boot 300 0 --memory 256M
said "$LOG" >"$WORK/interpret"
diff "$WORK/interpret" "$WORK/kvm" || fail "the kernel said something else under KVM"
