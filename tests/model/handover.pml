/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM that changes its queue while it has work everywhere: core/poller.c (move_ask, moves_finish), pmd-gpu/exec.c
 * (moves_serve, dispatch); labels M1, M2. The poll core accepts K descriptors, keeps some in the VM's FIFO and sends some
 * to the feed ring of the queue where the VM is; up to C times, at any moment, the VM is to be in the other queue. The
 * executor looks at both queues as it likes. Shown: each descriptor is started once, in order; nobody waits for ever.
 *
 * Feed rings are as long as all there is (ring.pml shows laps), and their flag and payload are one word.
 */
#ifndef K
#define K 4
#endif
#ifndef C
#define C 3
#endif
#define MOVE (2 * K)      /* number * 2 + queue */
#define MOVED (2 * K + 1) /* number */
#define WORDS (2 * K + 2)
#define SB 4
#define POLL 0
#define EXEC 1
#include "storebuf.pml"

bit over;

#ifdef M_M1_RELAXED
#define M1 0 /* the request may be seen before the items that were sent before it */
#else
#define M1 1
#endif

inline send()
{
    store(POLL, here * K + sent[here], fifo_head + 1, 1); /* S1 */
    sent[here] = sent[here] + 1;
    fifo_head++
}

inline ask()
{
    number++;
    to = want;
    moving = 1;
    store(POLL, MOVE, number * 2 + to, M1)
}

proctype poll_core()
{
    byte accepted = 0, fifo_head = 0, number = 0, changes = 0, seen = 0;
    byte sent[2];
    bit here = 0, want = 0, to = 0, moving = 0;

    do
    :: accepted < K -> accepted++ /* into the FIFO */
#ifdef M_SEND_WHILE_MOVING
    :: fifo_head < accepted -> send()
#else
    :: fifo_head < accepted && !moving -> send()
#endif
    :: changes < C && !moving ->
        changes++;
        want = 1 - here;
        ask();
#ifdef M_NO_WAIT
        here = to;
        moving = 0
#endif
    :: changes < C && moving -> /* changed again before the answer */
        changes++;
        want = 1 - want
    :: moving && mem[MOVED] == number -> /* M2 */
        here = to;
        if
        :: want != here -> ask()
        :: else -> moving = 0
        fi
    :: accepted == K && fifo_head == K && !moving -> break
    od;
    over = 1
}

inline start(item)
{
    assert(item == started + 1);
    started++
}

/* What the ring of this queue holds goes to the end of the list. */
inline gather(q)
{
    do
    :: taken[q] < K && mem[q * K + taken[q]] != 0 ->
        list[list_tail] = mem[q * K + taken[q]];
        list_tail++;
        taken[q] = taken[q] + 1
    :: else -> break
    od
}

proctype executor()
{
    byte started = 0, served = 0, list_head = 0, list_tail = 0, move = 0;
    byte taken[2], list[K];
    bit list_queue = 0;

    do
    :: mem[MOVE] / 2 != served ->
        atomic {
            load(EXEC, MOVE, move); /* M1 */
            served = move / 2
        }
#ifdef M_ANSWER_FIRST
        store(EXEC, MOVED, served, 1);
        sb[EXEC].n == 0;
#endif
        atomic {
            gather(0);
            gather(1);
            list_queue = move % 2
        }
#ifndef M_ANSWER_FIRST
        store(EXEC, MOVED, served, 1) /* M2 */
#endif
    :: list_head < list_tail -> /* of either queue */
        atomic {
            start(list[list_head]);
            list_head++
        }
#ifdef M_RING_FIRST
    :: taken[0] < K && mem[taken[0]] != 0 ->
#else
    :: taken[0] < K && mem[taken[0]] != 0 && !(list_head < list_tail && list_queue == 0) ->
#endif
        atomic {
            start(mem[taken[0]]);
            taken[0] = taken[0] + 1
        }
#ifdef M_RING_FIRST
    :: taken[1] < K && mem[K + taken[1]] != 0 ->
#else
    :: taken[1] < K && mem[K + taken[1]] != 0 && !(list_head < list_tail && list_queue == 1) ->
#endif
        atomic {
            start(mem[K + taken[1]]);
            taken[1] = taken[1] + 1
        }
#ifdef M_LEAVE_BEHIND
    :: mem[MOVE] / 2 != served -> /* answers, and leaves what it has where it is */
        served = mem[MOVE] / 2;
        store(EXEC, MOVED, served, 1)
#endif
    :: over && started == K -> break /* else it waits for ever */
    od
}

init
{
    atomic {
        run poll_core();
        run executor();
        run drain(POLL);
        run drain(EXEC)
    }
}
