/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the hardware can do: a counter handed on from line to line, each line with one writer and one reader. A line is
 * nearer to one core than to the other, by where its address lies in the last-level cache, so after every STAY round
 * trips the next set of lines takes over and the median is that of SETS places, as it is for the slots of a ring.
 */
#include "bench/rings/rings.h"

#define SETS 64u
#define STAY 64u

struct line {
    uint64_t number VGPU_ALIGNED(128);
};
struct set {
    struct line line[3];
};

static void setup(struct ring_bed *bed)
{
    bed->state = bench_mem_take(bed->mem, SETS * sizeof(struct set));
}

static inline struct line *lines(struct set *sets, uint64_t number)
{
    return sets[number / STAY % SETS].line;
}

static void ask(struct ring_bed *bed, int out, int in)
{
    struct set *sets = bed->state;
    uint64_t number = 0, from = vgpu_ticks(), last = from;

    while (last - from < bed->ticks) {
        struct line *line = lines(sets, ++number);
        vgpu_store_release(&line[out].number, number);
        while (vgpu_load_acquire(&line[in].number) != number)
            ;
        uint64_t now = vgpu_ticks();
        bench_hist_add(bed->hist, now - last);
        last = now;
    }
    bed->count = number;
    vgpu_store_release(&bed->stop, 1);
}

static void pass_on(struct ring_bed *bed, int in, int out)
{
    struct set *sets = bed->state;
    uint64_t number = 1;
    struct line *line = lines(sets, number);

    for (uint32_t idle = 1;; idle++) {
        if (vgpu_load_acquire(&line[in].number) == number) {
            vgpu_store_release(&line[out].number, number);
            line = lines(sets, ++number);
        } else if (idle % 64 == 0 && vgpu_load_acquire(&bed->stop)) {
            return;
        }
    }
}

static void two_client(void *arg)
{
    ask(arg, 0, 1);
}

static void two_server(void *arg)
{
    pass_on(arg, 0, 1);
}

static void three_guest(void *arg)
{
    ask(arg, 0, 2);
}

static void three_poll(void *arg)
{
    pass_on(arg, 0, 1);
}

static void three_exec(void *arg)
{
    pass_on(arg, 1, 2);
}

const struct ring_subject ring_floor = {
    .name = "floor",
    .what = "no ring: two cache lines back and forth, three in the relay",
    .kind = RING_FLOOR,
    .setup = setup,
    .rtt_client = two_client,
    .rtt_server = two_server,
    .hop_guest = three_guest,
    .hop_poll = three_poll,
    .hop_exec = three_exec,
};
