#!/bin/bash
# iasl disassembles every ACPI table and compiles it again without an error or a warning.
. "$(dirname "$0")/lib.sh"
command -v iasl >/dev/null || skip "no iasl"

initrd 'exit 0'
mkdir "$WORK/acpi"
"$TRAPEZE" run --kernel "$GUEST/vmlinuz" --initrd "$WORK/initrd.img" --cpus 4 --memory 5G --dump-acpi "$WORK/acpi" \
    --console null </dev/null >"$WORK/stdout" 2>&1 || { cat "$WORK/stdout"; fail "--dump-acpi"; }
cd "$WORK/acpi" || fail "no tables"
for table in facp apic mcfg hpet dsdt; do
    file=$(find . -iname "$table*" | head -1)
    [ -n "$file" ] || fail "no $table table"
    iasl -d "$file" >"$LOG" 2>&1 || fail "$table does not disassemble"
    iasl -vw 3150 "${file%.*}.dsl" >"$LOG" 2>&1 || fail "$table does not compile"
    grep -q ' 0 Errors, 0 Warnings' "$LOG" || grep -q 'Compilation successful. 0 Errors, 0 Warnings' "$LOG" ||
        fail "$table: iasl complains"
done
