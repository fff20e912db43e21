/* SPDX-License-Identifier: Apache-2.0 */
/* What the hardware can do: a counter handed on from line to line, each line with one writer and one reader. */
#include "bench/rings/rings.h"

struct line {
    uint64_t number VGPU_ALIGNED(128);
};

static void setup(struct ring_bed *bed)
{
    bed->state = bench_mem_take(bed->mem, 4096); /* lines of one page: nothing else is in the way */
}

static void ask(struct ring_bed *bed, struct line *out, struct line *in)
{
    uint64_t number = 0, from = vgpu_ticks(), last = from;

    while (last - from < bed->ticks) {
        number++;
        vgpu_store_release(&out->number, number);
        while (vgpu_load_acquire(&in->number) != number)
            ;
        uint64_t now = vgpu_ticks();
        bench_hist_add(bed->hist, now - last);
        last = now;
    }
    bed->count = number;
    vgpu_store_release(&bed->stop, 1);
}

static void pass_on(struct ring_bed *bed, struct line *in, struct line *out)
{
    uint64_t seen = 0;

    for (uint32_t idle = 1;; idle++) {
        uint64_t number = vgpu_load_acquire(&in->number);
        if (number != seen) {
            vgpu_store_release(&out->number, number);
            seen = number;
        } else if (idle % 64 == 0 && vgpu_load_acquire(&bed->stop)) {
            return;
        }
    }
}

static void two_client(void *arg)
{
    struct ring_bed *bed = arg;
    struct line *line = bed->state;

    ask(bed, &line[0], &line[1]);
}

static void two_server(void *arg)
{
    struct ring_bed *bed = arg;
    struct line *line = bed->state;

    pass_on(bed, &line[0], &line[1]);
}

static void three_guest(void *arg)
{
    struct ring_bed *bed = arg;
    struct line *line = bed->state;

    ask(bed, &line[0], &line[2]);
}

static void three_poll(void *arg)
{
    struct ring_bed *bed = arg;
    struct line *line = bed->state;

    pass_on(bed, &line[0], &line[1]);
}

static void three_exec(void *arg)
{
    struct ring_bed *bed = arg;
    struct line *line = bed->state;

    pass_on(bed, &line[1], &line[2]);
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
