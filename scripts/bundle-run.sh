#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The one command of an unpacked bundle (./run of the folder). ./run help lists what it does.
set -u
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" && pwd) || exit 1
export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1

usage() {
    cat <<'TEXT'
usage: ./run COMMAND [ARGUMENTS]

  demo [--backend B] [--json] ...    ten guest processes share the device; checks every result
  demo --tour [--backend B] ...      every feature live, step by step, each with a verdict
  test conformance [CASE...]         the cpu backend's conformance cases
  test gpu [PART...] [--list]        the cuda backend on this machine's GPU; ends with "N passed, N failed"
  bench [SUITE...] [--json[=FILE]]   measure, and write build/bench/report.html; --list names the suites
  help                               this text

bin/ holds the programs themselves, include/ and lib/ libvgpu, config/ a configuration to start from, docs/ the rest.
TEXT
}

# cuBLAS belongs to the machine. Where the loader does not find it, look where toolkits and Python packages put it.
find_cublas() {
    local place
    ls "$root"/lib/libcublas.so.* >/dev/null 2>&1 && return
    ldconfig -p 2>/dev/null | grep -qE 'libcublas\.so\.1[23]' && return
    for place in ${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH//:/ }} "${CUDA_HOME:-/usr/local/cuda}/lib64" \
        /usr/local/cuda-1[23]*/lib64 /opt/cuda/lib64 \
        /usr/lib/python3*/site-packages/nvidia/cu*/lib /usr/local/lib/python3*/*-packages/nvidia/cu*/lib \
        /opt/*/lib/python3*/site-packages/nvidia/cu*/lib; do
        if ls "$place"/libcublas.so.1[23] >/dev/null 2>&1; then
            export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$place
            return
        fi
    done
}

need_python() {
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1 </dev/null && return
    echo "vgpu: error: this needs python3, 3.9 or later (its standard library, nothing more)" >&2
    exit 1
}

find_cublas
command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
help | -h | --help) usage ;;
demo)
    need_python
    exec python3 "$root/scripts/demo.py" "$@"
    ;;
bench)
    exec "$root/scripts/bench.sh" "$@"
    ;;
test)
    case ${1:-} in
    conformance)
        shift
        exec "$root/build/tests/unit/pmd-gpu/conformance" cpu "$@"
        ;;
    gpu)
        shift
        need_python
        exec python3 "$root/tests/gpu/gpu_test.py" "$@"
        ;;
    *)
        echo "vgpu: error: a bundle has these suites: conformance, gpu" >&2
        exit 2
        ;;
    esac
    ;;
*)
    echo "vgpu: error: unknown command '$command'" >&2
    usage >&2
    exit 2
    ;;
esac
