/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings/spsc.h: labels S1, C1, S2, C2. A ring of N slots, K elements of two words each, credit published at any moment
 * that laziness allows. Shown: each element arrives once, in order, whole; none is overwritten before it was read; a
 * correct producer never looks like an overrun; nobody waits for ever (an invalid end state).
 *
 * -DREAD_ONLY: the consumer may not write slots (no ownership store). Mutants: the M_ macros below, each one bug.
 */
#define N 2
#ifndef K
#define K 5
#endif
#define WORDS 7 /* N * (payload, payload, seq), head */
#define SB 4
#define W0(pos) (((pos) % N) * 3)
#define W1(pos) (((pos) % N) * 3 + 1)
#define SEQ(pos) (((pos) % N) * 3 + 2)
#define HEAD (N * 3)
#define PROD 0
#define CONS 1
#include "storebuf.pml"

#ifdef M_S1_RELAXED
#define S1 0 /* flag may become visible before the payload */
#else
#define S1 1
#endif
#ifdef M_C2_RELAXED
#define C2 0 /* credit may become visible before the ownership store */
#else
#define C2 1
#endif
#ifdef M_CAPACITY_OFF_BY_ONE
#define CAPACITY (N + 1)
#else
#define CAPACITY N
#endif

inline wait_for_room()
{
    if
    :: pos < limit
    :: true -> /* S2: reads the credit because it must, or because it likes to */
#ifndef M_NO_CREDIT
        atomic {
            mem[HEAD] + CAPACITY > pos;
            limit = mem[HEAD] + CAPACITY
        }
#endif
        assert(limit - pos <= CAPACITY || limit < pos)
    fi
}

proctype producer()
{
    byte pos = 0, limit = CAPACITY;

    do
    :: pos == K -> break
    :: else ->
#ifdef M_WRITE_BEFORE_CREDIT
        store(PROD, W0(pos), pos + 1, 0);
        wait_for_room();
#else
        wait_for_room();
        store(PROD, W0(pos), pos + 1, 0);
#endif
        store(PROD, W1(pos), pos + 1, 0);
        store(PROD, SEQ(pos), pos + 1, S1); /* S1: payload before flag */
        pos++
    od
}

inline publish()
{
    if
    :: published != pos ->
        store(CONS, HEAD, pos, C2); /* C2: slots read before credit */
        published = pos
    :: else
    fi
}

proctype consumer()
{
    byte pos = 0, published = 0, seq = 0, w0 = 0, w1 = 0;

    do
    :: pos == K -> break
    :: else ->
#ifdef M_C1_RELAXED
        load(CONS, W0(pos), w0); /* payload read before the flag */
        load(CONS, W1(pos), w1);
#endif
        load(CONS, SEQ(pos), seq); /* C1 */
        assert(seq <= pos + 1); /* vgpu_cons_overrun() */
        if
#ifdef M_NO_LAP
        :: seq != 0 -> /* a flag that only says "full", not of which lap */
#else
        :: seq == pos + 1 ->
#endif
#ifdef M_CREDIT_BEFORE_READ
            store(CONS, HEAD, pos + 1, C2);
            published = pos + 1;
#endif
#ifndef M_C1_RELAXED
            load(CONS, W0(pos), w0);
            load(CONS, W1(pos), w1);
#endif
            assert(w0 == pos + 1 && w1 == pos + 1);
            w0 = 0;
            w1 = 0;
#ifndef READ_ONLY
            store(CONS, SEQ(pos), 0, 0); /* ownership store */
#endif
            pos++;
            if
            :: publish()
            :: skip /* lazily: later */
            fi
        :: else ->
#ifndef M_NO_IDLE_CREDIT
            publish();
#endif
            /* Polls until the flag is there. */
            sb[CONS].n == 0 && mem[SEQ(pos)] == pos + 1
        fi;
        seq = 0
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
