# SPDX-License-Identifier: Apache-2.0
# For scenarios in dom0: services, guests, commands that guests run, counts of Xen's resources.

export PATH=$PATH:/usr/lib/xen-4.17/bin

xen_services() {
    local module
    for module in xen-privcmd xenfs xen-evtchn xen-gntdev xen-gntalloc; do
        insmod "/mod/$module.ko" || return 1
    done
    mount -t xenfs xenfs /proc/xen || return 1
    rm -rf /var/run && ln -s /run /var/run
    mkdir -p /run/xen /run/xenstored
    {
        xenstored --pid-file /run/xenstored.pid
        wait_until 30 xenstore-exists / && xen-init-dom0 && xenconsoled --log=guest --log-dir=/var/log/xen/console
    } >/tmp/services.log 2>&1
}

# guest_create NAME [KEY=VALUE...]: memory, type, uuid, paused, args (of its kernel), grant_frames (at most).
guest_create() {
    local name=$1 memory=${GUEST_MEMORY:-96} type=${GUEST_TYPE:-pv} uuid= paused= args= frames= word
    shift
    for word; do
        case $word in
        memory=*) memory=${word#*=} ;;
        type=*) type=${word#*=} ;;
        uuid=*) uuid=${word#*=} ;;
        paused=*) paused=-p ;;
        args=*) args=${word#*=} ;;
        grant_frames=*) frames=${word#*=} ;;
        *) echo "guest_create: what is $word?"; return 2 ;;
        esac
    done
    {
        printf 'name = "%s"\ntype = "%s"\nkernel = "/boot/vmlinux"\nramdisk = "/boot/domu.cpio"\n' "$name" "$type"
        printf 'memory = %s\nvcpus = 1\n' "$memory"
        printf 'extra = "console=hvc0 quiet rdinit=/init lab.patience=%s %s"\n' "$PATIENCE" "$args"
        printf 'on_poweroff = "destroy"\non_crash = "destroy"\n'
        if [ -n "$frames" ]; then printf 'max_grant_frames = %s\n' "$frames"; fi
        if [ -n "$uuid" ]; then printf 'uuid = "%s"\n' "$uuid"; fi
    } >"/etc/xen/$name.cfg"
    xl create -q $paused "/etc/xen/$name.cfg" >"/tmp/create.$name" 2>&1 </dev/null || { cat "/tmp/create.$name"; return 1; }
}
# Its number, which changes with a reboot or a restore.
guest_id() { vgpu-lab-agent id "$1"; }
# nodes_up SECONDS NODE...: all these are there.
nodes_up() {
    local seconds=$(($1 * ${PATIENCE:-1}))
    shift
    vgpu-lab-agent await $seconds "$@" || { echo "lab: waited in vain for $*" >&2; return 1; }
}
guest_up() { # NAME [SECONDS]: its init waits for commands
    local id
    id=$(guest_id "$1") && nodes_up "${2:-60}" "/local/domain/$id/data/ready"
}
device() { echo "/local/domain/$(guest_id "$1")/device/vgpu/0"; }
device_up() { nodes_up "${2:-20}" "$(device "$1")/state"; } # NAME [SECONDS]: it has a device
guest_log() { tail -n "${2:-20}" "/var/log/xen/console/guest-$1.log"; }

# guest_start NAME COMMAND: the guest's init runs it in its shell; at most 3000 bytes. guest_wait NAME SECONDS: its exit
# status, its last line of output in REPLY.
guest_start() { vgpu-lab-agent start "$1" "$2"; }
guest_answer() { # STATUS OF THE AGENT, ITS ANSWER
    REPLY='no answer'
    [ "$1" -eq 0 ] || { echo "lab: no answer ($1)" >&2; return 124; }
    REPLY=${2#* }
    return "${2%% *}"
}
guest_wait() {
    local answer
    answer=$(vgpu-lab-agent wait "$1" $(($2 * ${PATIENCE:-1})))
    guest_answer $? "$answer"
}
guest_run() { # NAME SECONDS COMMAND
    local answer
    answer=$(vgpu-lab-agent run "$1" $(($2 * ${PATIENCE:-1})) "$3")
    guest_answer $? "$answer"
}
# A command that goes on while others run.
guest_background() { # NAME COMMAND
    guest_run "$1" 60 "($2) </dev/null >/dev/null 2>&1 &"
}
guests_up() {
    local name
    for name; do guest_up "$name" || return 1; done
}
no_domain() { ! xl list | awk -v id="$1" '$2 == id { found = 1 } END { exit !found }'; }
guest_destroy() {
    local id
    id=$(guest_id "$1")
    xl destroy "$1" && wait_until 20 no_domain "$id"
}

# ---- what Xen itself counts: its debug keys print to its console ring ----
xen_key() {
    xl dmesg -c >/dev/null
    xl debug-keys "$1"
    xl dmesg -c
}
# Grants of a domain to others, a line each: REFERENCE PIN FLAGS as numbers. A pin that is not 0: mapped. Flag 4: read-only.
grants() {
    xen_key g | sed 's/\[\(0x[0-9a-f]*\)\]/\1/g' | awk -v dom="d$1" '
        /grant-table for remote/ { mine = $5 == dom }
        mine && $2 ~ /^0x/ { printf "%d %d %d\n", $2, $5, $NF }'
}
grants_used() { grants "$1" | wc -l; }
# Event channels of a domain that are connected or offered.
channels_used() {
    xen_key e | awk -v dom="$1:" '/for domain/ { mine = $NF == dom } mine && /s=[23] / { n++ } END { print n + 0 }'
}
free_mib() { xl info | awk '/^free_memory/ { print $3 }'; }
