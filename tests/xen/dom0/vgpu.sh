# SPDX-License-Identifier: Apache-2.0
# For scenarios in dom0: the project's own daemon and its registry.

export VGPU_SOCKET=/run/vgpu/attach.sock
CTL="vgpu-ctl --socket /run/vgpu/control.sock"

vgpu_configure() { # further lines of the configuration on stdin
    mkdir -p /run/vgpu /var/lib/vgpu
    {
        printf 'paths:\n  executor: /bin/vgpu-exec\nmemory:\n  hugepages: false\n'
        cat
    } >/etc/vgpud.yaml
}
vgpu_start() { # sets VGPUD
    vgpud --config /etc/vgpud.yaml >>/tmp/vgpud.log 2>&1 </dev/null &
    VGPUD=$!
    wait_until 30 vgpu_answers || { tail -n 5 /tmp/vgpud.log; return 1; }
}
vgpu_answers() { $CTL list-pools >/dev/null 2>&1; }
# register NUMBER NAME...: rest as vgpu-ctl register-vm takes it.
register() {
    local id=$1
    shift
    $CTL register-vm --vm-id="$id" "$@" >/tmp/register 2>&1 || { cat /tmp/register; return 1; }
}
vgpu_stop() {
    kill "$VGPUD" 2>/dev/null
    wait "$VGPUD"
}
no_process() { ! pidof "$1" >/dev/null; }
vm_state() { # NUMBER STATE
    $CTL show-vm --vm-id="$1" --json 2>/dev/null | grep -q "\"state\": *\"$2\""
}
local_guest() { # NUMBER COMMAND...: a process of dom0 as that VM
    local id=$1
    shift
    VGPU_VM_ID=$id VGPU_TOKEN_FILE=/run/vgpu/tokens/vm-$id.token "$@" >/tmp/local 2>&1 || { cat /tmp/local; return 1; }
}

# ---- load in a domain: vgpu-lab-guest flow, whose completions are accounted for one by one ----
flow_start() { # NAME [calm]
    guest_background "$1" "rm -f /tmp/stop /tmp/stop.progress /tmp/flow /tmp/flow.status
        vgpu-lab-guest flow /tmp/stop $2 >/tmp/flow 2>&1; echo \$? >/tmp/flow.status"
}
flow_done() { guest_run "$1" 20 'cat /tmp/stop.progress' && echo "$REPLY"; }
flow_gets_on() { # NAME [TIMES]: was attached again as often, and works
    guest_run "$1" 20 "read a r </tmp/stop.progress && [ \$r -ge ${2:-0} ] && sleep 0.5 && read b r </tmp/stop.progress &&
        [ \$b -gt \$a ]"
}
flow_again() { flow_gets_on "$1" 1; }
# Ends it; its exit status, its account in REPLY. 98: it does not end; REPLY says how far it came and what it is doing.
flow_end() {
    guest_run "$1" 150 '. /vmlab.sh; touch /tmp/stop
        if wait_until 60 test -e /tmp/flow.status; then tail -n 1 /tmp/flow; s=$(cat /tmp/flow.status)
        else
            p=$(pidof vgpu-lab-guest)
            echo "did not end: $(cat /tmp/stop.progress) ($(cat /proc/$p/syscall /proc/$p/wchan)) $(tail -n 1 /tmp/flow)"
            s=98
        fi; rm -f /tmp/flow.status; exit $s'
}
# Ended well, lost nothing, was never away.
clean_flow() {
    case $2 in *'cancelled 0 lost 0 reattached 0,'*) [ "$1" -eq 0 ] ;; *) return 1 ;; esac
}
reattached_flow() {
    case $2 in *'reattached 0,'*) return 1 ;; *reattached*) [ "$1" -eq 0 ] ;; *) return 1 ;; esac
}
refused_unregistered() { # STATUS NAME: refused with a sentence, and no node was made for it
    [ "$1" -ne 0 ] && [ "$1" -ne 124 ] && ! xenstore-exists "$(device "$2")/state"
}
refused_naming() { # STATUS WORD...: the sentence in REPLY has the words
    local status=$1 word
    shift
    [ "$status" -ne 0 ] && [ "$status" -ne 124 ] || return 1
    for word; do
        case $REPLY in *"$word"*) ;; *) return 1 ;; esac
    done
}
