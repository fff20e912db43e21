#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bench: suites rings, path and scale unless others are named; rows and a report beside the program unless --json says
# where rows go. `compare`, --list and --help are passed on as they are.
set -u
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd) || exit 1
bench=$root/build/bench/vgpu-bench
suites=no
skip=no
for argument in "$@"; do
    [ "$skip" = yes ] && { skip=no; continue; }
    case $argument in
    compare | --list | --help | -h | --json | --json=*) exec "$bench" "$@" ;;
    --filter | --reps | --seconds | --cores | --gpu-options) skip=yes ;;
    -*) ;;
    *) suites=yes ;;
    esac
done
[ "$suites" = yes ] || set -- rings path scale "$@"
place=$root/build/bench
[ -w "$place" ] || place=${TMPDIR:-/tmp}
"$bench" "$@" --json="$place/rows.jsonl"
code=$?
if command -v python3 >/dev/null 2>&1 && [ -s "$place/rows.jsonl" ]; then
    python3 "$root/bench/report.py" "$place/rows.jsonl" --html "$place/report.html" --csv "$place/rows.csv" &&
        echo "report: $place/report.html (rows: rows.jsonl, rows.csv)"
fi
exit "$code"
