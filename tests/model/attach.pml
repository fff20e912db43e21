/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM attaches, is polled, detaches, and another one takes its slot and its addresses: core/attach.c (vgpud_tables_publish,
 * vgpud_detach_begin), core/poller.c (vgpu_poller_step), pmd-gpu/exec.c (detach); label T1, and the grace period of
 * liburcu's QSBR as the poll core takes part in it. The control thread maps a region, makes the VM's data, publishes a table
 * with it; to take it away it publishes one without, waits for a grace period, asks the executor, which finishes what it
 * has, and unmaps only when that has answered. Shown: nobody touches a region that is not mapped, or another VM's; what
 * was accepted is completed once; and everybody comes to an end.
 *
 * Messages between control thread and executor go through a socket: they order everything.
 */
#ifndef K
#define K 3 /* descriptors, of all attachments together */
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#define DATA 0        /* what the poll core knows of the VM */
#define TABLE 1       /* the VM that is listed; 0: none */
#define GP 2          /* number of the grace period that is asked for */
#define QS 3          /* the last one that the poll core has seen */
#define FEED 4        /* K slots: the VM whose descriptor it is */
#define WORDS (FEED + K)
#define SB 4
#define CTRL 0
#define POLL 1
#include "storebuf.pml"

byte mapped;                /* whose region stands at the address; 0: nobody's */
byte exec_has;              /* whom the executor serves */
byte accepted, completed;
bit over;
chan to_exec = [0] of { byte };  /* VM to map; 0: let go of the one you have */
chan from_exec = [0] of { byte };

#ifdef M_T1_RELAXED
#define T1 0
#else
#define T1 1
#endif

proctype control()
{
    byte vm = 0, gp = 0, seen = 0;

    do
    :: vm < ROUNDS ->
        vm++;
        mapped = vm;
#ifdef M_TABLE_FIRST
        store(CTRL, TABLE, vm, T1);
        store(CTRL, DATA, vm, 0);
        to_exec ! vm;
        from_exec ? seen;
#else
        store(CTRL, DATA, vm, 0);
        to_exec ! vm;
        from_exec ? seen;
        store(CTRL, TABLE, vm, T1);
#endif
        /* here it runs, for as long as it likes */
        store(CTRL, TABLE, 0, 1);
#ifndef M_NO_GRACE
        full_fence(CTRL);
        gp++;
        store(CTRL, GP, gp, 1);
        mem[QS] == gp;
#endif
#ifdef M_UNMAP_FIRST
        mapped = 0;
#endif
        to_exec ! 0;
        from_exec ? seen;
        mapped = 0
    :: vm == ROUNDS -> break
    od;
    over = 1
}

inline quiescent()
{
#ifndef M_NO_FENCE
    full_fence(POLL);
#endif
    load(POLL, GP, gp);
    if
    :: gp != told ->
        told = gp;
#ifdef M_NO_FENCE
        store(POLL, QS, gp, 0)
#else
        store(POLL, QS, gp, 1)
#endif
    :: else
    fi
}

proctype poll_core()
{
    byte vm = 0, data = 0, gp = 0, told = 0;

    do
    :: over -> break
    :: !over ->
        load(POLL, TABLE, vm); /* T1 */
#ifdef M_QS_INSIDE
        quiescent();
#endif
        if
        :: vm != 0 ->
            load(POLL, DATA, data);
            assert(data == vm);   /* the VM's data is complete */
            assert(mapped == vm); /* its ring is looked at */
            if
            :: accepted < K ->
                store(POLL, FEED + accepted, vm, 1); /* S1 */
                accepted++
            :: true
            fi
        :: else
        fi;
        vm = 0;
#ifndef M_QS_INSIDE
        quiescent()
#endif
    od
}

inline take()
{
    item = mem[FEED + taken];
    taken++;
    assert(item == exec_has); /* a descriptor of whom it serves */
    in_flight++
}

inline finish()
{
    assert(exec_has != 0 && mapped == exec_has); /* the completion goes into this region */
    in_flight--;
    completed++
}

proctype executor()
{
    byte taken = 0, in_flight = 0, item = 0, what = 0;

end:
    do
    :: taken < K && mem[FEED + taken] != 0 -> atomic { take() }
    :: in_flight > 0 -> atomic { finish() }
    :: to_exec ? what ->
        if
        :: what != 0 -> exec_has = what
        :: else ->
#ifndef M_NO_DRAIN
            do
            :: taken < K && mem[FEED + taken] != 0 -> atomic { take() }
            :: else -> break
            od;
#endif
#ifndef M_EARLY_ANSWER
            do
            :: in_flight > 0 -> atomic { finish() }
            :: else -> break
            od;
#endif
            exec_has = 0
        fi;
        from_exec ! 1
    :: over && sb[POLL].n == 0 && in_flight == 0 && (taken == K || mem[FEED + taken] == 0) ->
        assert(completed == accepted);
        break
    od
}

init
{
    atomic {
        run control();
        run poll_core();
        run executor();
        run drain(CTRL);
        run drain(POLL)
    }
}
