# SPDX-License-Identifier: Apache-2.0
# Sourced in dom0 and in domains: counts system calls of some threads by the kernel's own tracing.
#
# Not counted are sched_yield (24), which who finds nothing to do may call, and clock_gettime (228), which a domain's C
# library cannot answer by itself where the emulated clock is not stable. Both stay within the kernel.

T=/sys/kernel/tracing

trace_arm() { # THREAD...: ready; tracing_on begins it
    local thread filter=
    [ -e $T/tracing_on ] || mount -t tracefs tracefs $T
    echo 0 >$T/tracing_on
    echo >$T/trace
    for thread; do filter="$filter${filter:+ || }common_pid == $thread"; done
    echo "($filter) && id != 24 && id != 228" >$T/events/raw_syscalls/sys_enter/filter || return 1
    echo 1 >$T/events/raw_syscalls/sys_enter/enable
}
trace_start() { trace_arm "$@" && echo 1 >$T/tracing_on; }
trace_stop() { # prints how many; which, by number: count, to /tmp/trace.calls
    echo 0 >$T/tracing_on
    sed -n 's/.*sys_enter: NR \([0-9]*\).*/\1/p' $T/trace | sort -n | uniq -c | awk '{ print $2 ": " $1 }' | tr '\n' ' ' \
        >/tmp/trace.calls
    grep -c sys_enter: $T/trace
}
