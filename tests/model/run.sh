#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh [MODEL]: checks each model completely (no fault may be found) and each of its mutants (a fault must be found).
# One line each. Exit 0, 1 when anything is otherwise, 77 without spin or a C compiler.
here=$(cd "$(dirname "$0")" && pwd)
only=${1:-}
for tool in spin cc; do
    if ! command -v $tool >/dev/null; then
        echo "skipped: $tool is not installed"
        exit 77
    fi
done
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check WANT MODEL [MACRO...]: WANT is ok or fault
check() {
    want=$1 model=$2
    shift 2
    [ -z "$only" ] || [ "$only" = "$model" ] || return 0
    defines=
    for macro; do
        defines="$defines -D$macro"
    done
    rm -rf "$work/run" && mkdir "$work/run" && cp "$here"/*.pml "$work/run" && cd "$work/run" || exit 1
    # A mutant's fault is found among a few states, long before optimizing its search would pay.
    [ "$want" = ok ] && optimize=-O1 || optimize=-O0
    if ! { spin $defines -a "$model.pml" && cc $optimize -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -DMEMLIM=3000 -o pan pan.c; } \
        >build 2>&1; then
        cat build
        result='does not build'
    else
        ./pan -m200000 >out 2>&1
        states=$(awk '/states, stored/ { print $1; exit }' out)
        fault=$(awk '/^pan:[0-9]*: / { sub(/^pan:[0-9]*: /, ""); sub(/ \(at depth.*/, ""); print; exit }' out)
        if grep -Eq 'max search depth too small|out of memory|memory limit|VECTORSZ' out; then
            result='was not searched completely'
        elif grep -q 'errors: 0$' out && [ -z "$fault" ]; then
            result=ok
        elif echo "$fault" | grep -Eq '^(assertion violated|invalid end state)'; then
            result=fault
        else
            tail -5 out
            result='ended strangely'
        fi
    fi
    if [ "$result" = "$want" ]; then
        verdict=PASS passed=$((passed + 1))
    else
        verdict=FAIL failed=$((failed + 1))
    fi
    case $result in
    ok) result="no fault in $states states" ;;
    fault) result="found: $fault" ;;
    esac
    printf '%s  %-9s %-36s %s\n' "$verdict" "$model" "$*" "$result"
}

check ok ring
check ok ring READ_ONLY
check ok ring K=7
for m in S1_RELAXED C1_RELAXED C2_RELAXED CREDIT_BEFORE_READ NO_CREDIT CAPACITY_OFF_BY_ONE WRITE_BEFORE_CREDIT \
    NO_IDLE_CREDIT; do
    check fault ring M_$m
done
# Without the consumer's mark in the slot only the lap tells a new element from an old one.
for m in S1_RELAXED C1_RELAXED CREDIT_BEFORE_READ NO_LAP; do
    check fault ring READ_ONLY M_$m
done

check ok doorbell
check ok doorbell ARMED_FLAG
for m in NO_PRODUCER_FENCE NO_CONSUMER_FENCE NO_LAST_LOOK LOOK_BEFORE_ARM CHECK_BEFORE_PUBLISH; do
    check fault doorbell M_$m
    check fault doorbell ARMED_FLAG M_$m
done
check fault doorbell M_LAST_ONLY
check fault doorbell M_ARM_ONCE
check fault doorbell ARMED_FLAG M_ARM_ONCE
check fault doorbell ARMED_FLAG M_CLEAR_AFTER_BELL

check ok complete
check ok complete M_NO_SPAN # in order nothing more is needed
check ok complete ANY_ORDER
for m in SEQ_FIRST DONE_FIRST PUBLISH_FIRST COUNT_FIRST NO_REPLAY LOST_FIRST NO_WAIT NO_DONE SMALL_CQ; do
    check fault complete ANY_ORDER M_$m
done
check fault complete ANY_ORDER M_NO_SPAN
check fault complete ANY_ORDER M_NO_SPAN M_SMALL_JOURNAL

check ok handover
for m in M1_RELAXED SEND_WHILE_MOVING NO_WAIT RING_FIRST ANSWER_FIRST LEAVE_BEHIND; do
    check fault handover M_$m
done

check ok attach
check ok attach K=4 ROUNDS=3
for m in T1_RELAXED TABLE_FIRST NO_GRACE UNMAP_FIRST NO_FENCE QS_INSIDE NO_DRAIN EARLY_ANSWER; do
    check fault attach M_$m
done

echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed -gt 0 ]
