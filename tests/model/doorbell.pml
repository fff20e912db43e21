/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doorbell: labels S3 and C3 (rings/spsc.h). K elements published in batches of one or two; the consumer polls, arms,
 * looks once more and sleeps. Both sides have store buffers, so a store may become visible long after the same side's
 * next load. Shown: nobody sleeps for ever with an element published (an invalid end state).
 *
 * -DARMED_FLAG: the executor's form (labels E1 and E2, pmd-gpu/exec.c and core's poller): a word that says "asleep"
 * instead of a position; whoever rings clears it, and so does the executor when it is awake. Mutants: the M_ macros below.
 */
#define K 4
#define EVENT K /* words 0..K-1: the flags of positions 0..K-1 */
#define WORDS (K + 1)
#define SB 4
#define PROD 0
#define CONS 1
#include "storebuf.pml"

bit bell; /* the eventfd: the kernel's, not buffered */

#ifdef ARMED_FLAG
#define ARM_VALUE 1
#define WANTED(event, from, to) (event == 1)
#else
/* Stored values are one higher than positions, so that 0 is "not asked for". */
#define ARM_VALUE (pos + 1)
#ifdef M_LAST_ONLY
#define WANTED(event, from, to) (event == to) /* looks for the batch's last position only */
#else
#define WANTED(event, from, to) (event >= from + 1 && event <= to)
#endif
#endif

proctype producer()
{
    byte from = 0, to = 0, event = 0;

    do
    :: from == K -> break
    :: else ->
#ifdef M_CHECK_BEFORE_PUBLISH
        load(PROD, EVENT, event);
#endif
        store(PROD, to, 1, 1);
        to++;
        if
        :: to < K -> store(PROD, to, 1, 1); to++ /* a batch of two */
        :: true
        fi;
#ifndef M_NO_PRODUCER_FENCE
        full_fence(PROD); /* S3: flags before the event is read */
#endif
#ifndef M_CHECK_BEFORE_PUBLISH
        load(PROD, EVENT, event);
#endif
        if
        :: WANTED(event, from, to) ->
#ifdef ARMED_FLAG
#ifndef M_CLEAR_AFTER_BELL
            store(PROD, EVENT, 0, 0); /* once is enough */
#endif
            full_fence(PROD); /* the kernel's lock: visible before anybody wakes by this bell */
#endif
            bell = 1
#ifdef M_CLEAR_AFTER_BELL
            ;
            store(PROD, EVENT, 0, 0)
#endif
        :: else
        fi;
        event = 0;
        from = to
    od
}

proctype consumer()
{
    byte pos = 0, flag = 0;
    bit armed = 0;

    do
    :: pos == K -> break
    :: else ->
        load(CONS, pos, flag);
        if
        :: flag -> pos++
        :: else ->
#ifdef M_LOOK_BEFORE_ARM
            load(CONS, pos, flag);
#endif
#ifdef M_ARM_ONCE
            if
            :: !armed -> armed = 1; store(CONS, EVENT, ARM_VALUE, 0)
            :: else
            fi;
#else
            store(CONS, EVENT, ARM_VALUE, 0); /* C3 */
#endif
#ifndef M_NO_CONSUMER_FENCE
            full_fence(CONS); /* C3: armed before the last look */
#endif
#ifndef M_LOOK_BEFORE_ARM
            load(CONS, pos, flag);
#endif
            if
#ifdef M_NO_LAST_LOOK
            :: true ->
#else
            :: flag
            :: else ->
#endif
                d_step { bell -> bell = 0 } /* sleeps */
            fi;
#ifdef ARMED_FLAG
            store(CONS, EVENT, 0, 0); /* relaxed: at worst one doorbell too many */
#endif
        fi;
        flag = 0
    od
}

init
{
    atomic {
        run producer();
        run consumer();
        run drain(PROD);
        run drain(CONS)
    }
}
