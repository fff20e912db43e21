/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory that is weaker than Promela's: each process writes into a store buffer of its own, and `drain` makes the
 * stores visible later, in any order that the labels allow:
 *   - stores to one address stay in order;
 *   - a release store becomes visible only after all stores before it (those after it may pass it);
 *   - a full fence waits until the buffer is empty.
 * A process sees its own pending stores. Loads happen in program order; a mutant that reads too early does so in its
 * text. This is weaker than x86 (whose buffer is first in, first out) and covers Arm's plain stores and STLR.
 *
 * The including model defines WORDS (size of memory) and SB (stores a buffer can hold).
 */
typedef store_buffer {
    byte n;
    byte addr[SB];
    byte val[SB];
    bit release[SB]
};
byte mem[WORDS];
store_buffer sb[2];
byte ld_i; /* 0 but inside an atomic step of load and drain */

inline store(me, a, v, is_release)
{
    d_step {
        sb[me].n < SB ->
        sb[me].addr[sb[me].n] = a;
        sb[me].val[sb[me].n] = v;
        sb[me].release[sb[me].n] = is_release;
        sb[me].n++
    }
}

inline load(me, a, out)
{
    d_step {
        out = mem[a];
        ld_i = 0;
        do
        :: ld_i < sb[me].n ->
            if
            :: sb[me].addr[ld_i] == (a) -> out = sb[me].val[ld_i]
            :: else
            fi;
            ld_i++
        :: else -> break
        od;
        ld_i = 0
    }
}

inline full_fence(me)
{
    sb[me].n == 0
}

#define same_addr(me, i, j) (i > j && sb[me].addr[i] == sb[me].addr[j])
#define earlier_to_same(me, i) (same_addr(me, i, 0) || same_addr(me, i, 1) || same_addr(me, i, 2))
/* Store number i of the buffer becomes visible, if it may by now. */
inline drain_one(me, i)
{
    d_step {
        i < sb[me].n && (!sb[me].release[i] || i == 0) && !earlier_to_same(me, i) ->
        mem[sb[me].addr[i]] = sb[me].val[i];
        ld_i = i;
        do
        :: ld_i + 1 < sb[me].n ->
            sb[me].addr[ld_i] = sb[me].addr[ld_i + 1];
            sb[me].val[ld_i] = sb[me].val[ld_i + 1];
            sb[me].release[ld_i] = sb[me].release[ld_i + 1];
            ld_i++
        :: else -> break
        od;
        sb[me].n--;
        sb[me].addr[sb[me].n] = 0;
        sb[me].val[sb[me].n] = 0;
        sb[me].release[sb[me].n] = 0;
        ld_i = 0
    }
}

proctype drain(bit me)
{
end:
    do
    :: drain_one(me, 0)
    :: drain_one(me, 1)
    :: drain_one(me, 2)
    :: drain_one(me, 3)
    od
}
