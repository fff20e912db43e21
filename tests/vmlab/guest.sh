# SPDX-License-Identifier: Apache-2.0
# Sourced by a machine's init (busybox sh): mounts, results in the form of results.py, the end of the run.

vmlab_mounts() {
    /bin/busybox mkdir -p /proc /sys /dev /tmp /run /usr/bin /usr/sbin /sbin
    /bin/busybox mount -t proc proc /proc
    /bin/busybox mount -t sysfs sys /sys
    /bin/busybox mount -t devtmpfs dev /dev
    /bin/busybox --install -s /bin
    export PATH=/bin:/sbin:/usr/bin:/usr/sbin LD_LIBRARY_PATH=/lib
    mkdir -p /dev/pts /dev/shm
    mount -t devpts devpts /dev/pts
    mount -t tmpfs -o size=50% shm /dev/shm
    echo 1 >/proc/sys/kernel/printk
}

vmlab_argument() { # NAME [DEFAULT]: from the kernel's command line
    local word
    for word in $(cat /proc/cmdline); do
        case $word in "$1="*) echo "${word#*=}"; return 0 ;; esac
    done
    echo "${2:-}"
}

# Counts live in a file: checks are also made in subshells.
vmlab_say() { # VERDICT NAME TEXT
    # An empty line first: what somebody else left unfinished on the console must not take this one with it.
    printf '\n@vmlab %s %s | %s\n' "$1" "$2" "$(printf '%s' "$3" | tr '\n' ' ' | cut -c 1-300)"
    [ "$1" = INFO ] || echo "$2" >>/tmp/vmlab.count
}
pass() { vmlab_say PASS "$1" "${2:-}"; }
fail() { vmlab_say FAIL "$1" "${2:-}"; }
skip() { vmlab_say SKIP "$1" "${2:-}"; }
info() { vmlab_say INFO "$1" "${2:-}"; }
# check NAME DETAIL COMMAND...: by the command's exit status.
check() {
    local name=$1 detail=$2
    shift 2
    if "$@"; then pass "$name" "$detail"; else fail "$name" "$detail (failed: $*)"; fi
}
# wait_until SECONDS COMMAND...: asks less often the longer it takes, and starts no program of its own but sleep: an emulated
# machine pays dearly for each, and what it waits for needs the processor.
wait_until() {
    local now until pause=1
    read -r now _ </proc/uptime
    until=$((${now%.*} + $1 * ${PATIENCE:-1}))
    shift
    until "$@" >/dev/null 2>&1; do
        read -r now _ </proc/uptime
        [ "${now%.*}" -lt "$until" ] || { echo "lab: waited in vain: $*" >&2; return 1; }
        sleep 0.$pause
        [ $pause -ge 5 ] || pause=$((pause + 1))
    done
}
mark() { echo "@mark $* at $(cut -d' ' -f1 /proc/uptime)"; }
# The end: 16 to port 0xf4 makes QEMU exit 33. Only after this line has left the machine.
vmlab_end() {
    printf '\n@vmlab END %s\n' "$(cat /tmp/vmlab.count 2>/dev/null | wc -l)"
    sleep 0.2
    printf '\020' | dd of=/dev/port bs=1 seek=244 count=1 conv=notrunc 2>/dev/null
    poweroff -f
}
