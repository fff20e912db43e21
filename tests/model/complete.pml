/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exactly one completion for each descriptor, although the executor dies at any point: labels J1, J2, J3, J4
 * (pmd-gpu/xchg.h, pmd-gpu/exec.c, and vgpud's recovery). K descriptors are dispatched, at most IN_FLIGHT outstanding;
 * the executor completes them (-DANY_ORDER: in any order) and may be killed before each single store, CRASHES times. Then
 * vgpud writes the journal's uncounted records again, completes the rest as lost, and starts the next executor.
 *
 * A killed process has made all stores before its last instruction and none after, so there are no store buffers here:
 * program order is what counts, and each store is one step. What a live reader may see is ring.pml's matter.
 *
 * Shown: the guest sees no descriptor twice (assertion) and misses none (else an invalid end state).
 * Mutants: the M_ macros, each one bug or one broken rule of sizing.
 */
#ifndef K
#define K 5
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#define IN_FLIGHT 2
#ifdef M_SMALL_JOURNAL
#define JOURNAL 1 /* fewer slots than may be in flight */
#else
#define JOURNAL 2
#endif
#ifdef M_SMALL_CQ
#define CQ 1 /* the same of the completion ring: a record may be written again over a newer one */
#else
#define CQ 2
#endif

/* The exchange: survives the executor. A record's seq is its completion position + 1, sq the descriptor. */
byte journal_sq[JOURNAL], journal_seq[JOURNAL];
byte inflight[JOURNAL]; /* J3: descriptor + 1; what recovery needs to complete it */
byte done[JOURNAL];     /* J4: descriptor + 1 */
byte completed;         /* J2 */
byte dispatched;        /* the feed ring's end */

/* The completion ring in guest memory, and the guest's credit. */
byte cq_sq[CQ], cq_seq[CQ];
byte consumed;

bit kill_sent, killed, dead; /* a signal, the death, and the pidfd that tells */
bit paused, paused_seen;     /* the poll core stands still during recovery */
byte first_sq, first_cq;     /* where the next executor starts */

inline cq_write(pos, d)
{
    cq_sq[(pos) % CQ] = d;
    cq_seq[(pos) % CQ] = pos + 1 /* S1 */
}

inline journal_write(pos, d)
{
#ifdef M_SEQ_FIRST
    journal_seq[(pos) % JOURNAL] = pos + 1;
    journal_sq[(pos) % JOURNAL] = d
#else
    journal_sq[(pos) % JOURNAL] = d;
    journal_seq[(pos) % JOURNAL] = pos + 1 /* J1 */
#endif
}

inline finish(d)
{
#ifdef M_DONE_FIRST
    done[d % JOURNAL] = d + 1;
#endif
#ifdef M_PUBLISH_FIRST
    cq_write(cq_pos, d);
#endif
#ifdef M_COUNT_FIRST
    completed = cq_pos + 1;
#endif
    journal_write(cq_pos, d);
#ifndef M_DONE_FIRST
    done[d % JOURNAL] = d + 1; /* J4 */
#endif
#ifndef M_PUBLISH_FIRST
    cq_write(cq_pos, d);
#endif
    cq_pos++
}

#ifdef ANY_ORDER
#define MAY_FINISH(d) (running[d])
#else
#define MAY_FINISH(d) (running[d] && d == cq_pos) /* in order: as many completed as came before it */
#endif

proctype executor()
{
    byte next = first_sq, cq_pos = first_cq, d = 0;
    bit running[K];

    {
end:
        do
        :: next < dispatched ->
            d_step { running[next] = 1; next++ }
        :: atomic {
                if
                :: MAY_FINISH(0) -> d = 0
                :: MAY_FINISH(1) -> d = 1
                :: MAY_FINISH(2) -> d = 2
                :: MAY_FINISH(3) -> d = 3
                :: MAY_FINISH(4) -> d = 4
                fi;
                running[d] = 0
            }
            finish(d);
            d = 0
        :: completed != cq_pos ->
            completed = cq_pos /* J2: one count for a round's completions */
        od
    } unless {
        killed
    }
    dead = 1
}

/* May this descriptor take its place in inflight[] and done[]? Only when the one a lap before is completed. */
#ifdef M_NO_SPAN
#define PLACE_IS_FREE true
#else
#define PLACE_IS_FREE (dispatched < JOURNAL || done[dispatched % JOURNAL] == dispatched - JOURNAL + 1)
#endif

proctype poll_core()
{
end:
    do
    :: paused && !paused_seen -> paused_seen = 1
    :: !paused && dispatched < K && dispatched - completed < IN_FLIGHT && dispatched - consumed < CQ && PLACE_IS_FREE ->
        inflight[dispatched % JOURNAL] = dispatched + 1; /* J3 */
        dispatched++
    od
}

proctype killer()
{
    byte left = CRASHES;

end:
    do
    :: left > 0 && !kill_sent ->
        left--;
        kill_sent = 1;
        killed = 1
    od
}

/* Was it completed, as far as the exchange tells? */
#ifdef M_NO_DONE
#if JOURNAL != 2
#error M_NO_DONE looks at two records
#endif
#define COMPLETED(d) ((journal_seq[0] && journal_sq[0] == d) || (journal_seq[1] && journal_sq[1] == d))
#else
#define COMPLETED(d) (done[d % JOURNAL] == d + 1)
#endif

inline replay()
{
    do
    :: journal_seq[cq % JOURNAL] == cq + 1 ->
        d = journal_sq[cq % JOURNAL];
        cq_write(cq, d);
        done[d % JOURNAL] = d + 1; /* it may have died between J1 and J4 */
        cq++
    :: else -> break
    od;
    d = 0
}

inline lose_the_rest()
{
    d = (dispatched > JOURNAL -> dispatched - JOURNAL : 0);
    do
    :: d < dispatched && !COMPLETED(d) ->
        assert(inflight[d % JOURNAL] == d + 1);
        cq_write(cq, d);
        done[d % JOURNAL] = d + 1;
        cq++;
        d++
    :: d < dispatched && COMPLETED(d) -> d++
    :: d == dispatched -> break
    od;
    d = 0
}

proctype recovery()
{
    byte cq = 0, d = 0;

end:
    do
    :: kill_sent ->
#ifndef M_NO_WAIT
        dead; /* its last store is made */
#endif
        paused = 1;
        paused_seen;
        cq = completed;
#ifdef M_LOST_FIRST
        lose_the_rest();
        replay();
#else
#ifndef M_NO_REPLAY
        replay();
#endif
        lose_the_rest();
#endif
        completed = cq;
        atomic {
            first_sq = dispatched;
            first_cq = cq;
            dead; /* holds already, but for the mutant */
            dead = 0;
            killed = 0;
            kill_sent = 0;
            paused = 0;
            paused_seen = 0;
            cq = 0;
            run executor()
        }
    od
}

proctype guest()
{
    byte pos = 0, d = 0;
    bit seen[K];

    do
    :: pos == K -> break
    :: pos < K && cq_seq[pos % CQ] == pos + 1 ->
        d = cq_sq[pos % CQ];
        assert(!seen[d]);
        seen[d] = 1;
        cq_seq[pos % CQ] = 0; /* ownership store */
        pos++;
        consumed = pos;
        d = 0
    od
}

init
{
    atomic {
        run executor();
        run poll_core();
        run killer();
        run recovery();
        run guest()
    }
}
