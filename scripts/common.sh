# SPDX-License-Identifier: Apache-2.0
# Shell functions behind ./run: messages, tools, and the two steps that every command starts with.
# Sourced by ./run, which sets VGPU_ROOT. Status lines go to stderr: stdout belongs to the command's result.

# The distribution's own tools first: version managers put shims for python3 in front that may not run here.
export PATH=/usr/bin:/bin:/usr/sbin:/sbin:$PATH
# A build must not change with the caller's language, and nothing here may wait for an answer.
export LC_ALL=C.UTF-8
VGPU_LOG_DIR=$VGPU_ROOT/build/log

say() { printf 'vgpu: %s\n' "$*" >&2; }
complain() { printf 'vgpu: error: %s\n' "$*" >&2; }

no_arguments() {
    local name=$1
    shift
    [ $# -eq 0 ] && return 0
    complain "$name takes no arguments, got: $*"
    exit 2
}

# step NAME LOG COMMAND... : runs with output in LOG; one status line; the log's tail where it fails.
step() {
    local name=$1 log=$2 start=$SECONDS rc
    shift 2
    if [ -t 2 ]; then printf 'vgpu: %s ...' "$name" >&2; fi
    "$@" >"$log" 2>&1 </dev/null
    rc=$?
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
    if [ $rc -eq 0 ]; then
        say "$name: done in $((SECONDS - start)) s"
    else
        complain "$name failed (exit $rc). The end of ${log#"$VGPU_ROOT"/}:"
        tail -n 30 "$log" | sed 's/^/    /' >&2
    fi
    return $rc
}

# Sets PYTHON to one that runs. 3.9 is the oldest that the scripts are written for.
vgpu_find_python() {
    local candidate
    for candidate in /usr/bin/python3 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 9))' >/dev/null 2>&1 </dev/null; then
            PYTHON=$(command -v "$candidate")
            export PYTHON
            return 0
        fi
    done
    return 1
}

. "$VGPU_ROOT/scripts/setup.sh"
. "$VGPU_ROOT/scripts/build.sh"
