# Sourced by the guest tests: boots stock kernels with small initramfses and looks at what comes out.
# Set by meson: TRAPEZE (the command), TOOLS (the project's tools), TRAPEZE_GUEST (kernel and modules).
set -u

GUEST=${TRAPEZE_GUEST:?set TRAPEZE_GUEST to the folder that tools/fetch-kernel filled}
ENGINE=${TRAPEZE_ENGINE:-auto}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
LOG=$WORK/console.log

skip() { echo "skipped: $*"; exit 77; }
fail() {
    echo "FAIL: $*"
    [ -s "$LOG" ] && { echo "--- end of the console:"; tail -40 "$LOG" | tr -d '\r'; }
    exit 1
}

[ -s "$GUEST/vmlinuz" ] || skip "no kernel in $GUEST (tools/fetch-kernel)"

# initrd SCRIPT [make-initramfs options]: writes $WORK/initrd.img whose /script is the text SCRIPT.
initrd() {
    printf '%s\n' "$1" >"$WORK/script"
    shift
    "$TOOLS/make-initramfs" "$GUEST" "$WORK/initrd.img" --file "$WORK/script:/script" "$@" || fail "make-initramfs"
}

# boot SECONDS EXPECTED_STATUS [options of trapeze run]: boots, the console goes to $LOG.
boot() {
    local limit=$1 expected=$2 status
    shift 2
    timeout -k 5 "$limit" "$TRAPEZE" run --engine "$ENGINE" --kernel "$GUEST/vmlinuz" --initrd "$WORK/initrd.img" \
        --append "console=ttyS0 ${APPEND:-}" --console "file:$LOG" "$@" >"$WORK/stdout" 2>"$WORK/stderr" </dev/null
    status=$?
    [ $status = "$expected" ] || { cat "$WORK/stderr"; fail "exit status $status, expected $expected"; }
}

expect() { grep -qE -- "$1" "$LOG" || fail "no line matches '$1'"; }
reject() { ! grep -iE -- "$1" "$LOG" || fail "the line above must not be there"; }

# A log without anything that a kernel says when its machine is wrong. Of what the host's processor leaks it
# warns under KVM, which shows that.
expect_clean_log() {
    sed -i '/Speculative Return Stack Overflow: WARNING/d' "$LOG"
    reject 'WARNING|BUG:|kernel BUG|Call Trace|spurious|\blost\b|unstable|clocksource.*(skew|wrong)|TSC.*(unsync|fail)|Oops|panic'
}
