#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run bench: suites rings, path, hops, scale, transport and control unless others are named; rows and a report beside the
# program unless --json says where rows go. `compare`, `plan`, --list and --help are passed on as they are.
set -u
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd) || exit 1
bench=$root/build/bench/vgpu-bench
case ${1:-} in compare | plan) exec "$bench" "$@" ;; esac
suites=no
skip=no
for argument in "$@"; do
    [ "$skip" = yes ] && { skip=no; continue; }
    case $argument in
    --list | --help | -h | --json | --json=*) exec "$bench" "$@" ;;
    --*=* | --gpu-small | --refuse-noisy) ;;
    --*) skip=yes ;; # its value comes next
    -*) ;;
    *) suites=yes ;;
    esac
done
[ "$suites" = yes ] || set -- rings path hops scale transport control "$@"
place=$root/build/bench
[ -w "$place" ] || place=${TMPDIR:-/tmp}
"$bench" "$@" --json="$place/rows.jsonl"
code=$?
if command -v python3 >/dev/null 2>&1 && [ -s "$place/rows.jsonl" ]; then
    python3 "$root/bench/report.py" "$place/rows.jsonl" --html "$place/report.html" --csv "$place/rows.csv" &&
        echo "report: $place/report.html (rows: rows.jsonl, rows.csv)"
fi
exit "$code"
