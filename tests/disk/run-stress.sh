#!/bin/sh
# usage: run-stress.sh STRESS [options of stress]: in a directory of its own; skipped without qemu-img.
command -v qemu-img >/dev/null || { echo "skipped: no qemu-img"; exit 77; }
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
"$@" --dir "$dir"
