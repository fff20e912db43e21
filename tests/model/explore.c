/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/explore.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define LOCATIONS 96u
#define STORES    24u /* of one location in one execution */
#define CHOICES   4096u
#define STACK     65536u

struct message {
    uint64_t value;
    uint8_t view[LOCATIONS]; /* what whoever acquires it may not see older than */
    bool carries;
};
static struct location {
    const void *address;
    struct message store[STORES];
    uint8_t count;
} loc[LOCATIONS];
static unsigned locations;

static struct thread {
    ucontext_t context;
    uint8_t view[LOCATIONS];
    bool ended, waiting;
    uint64_t saw; /* number of stores when it began to wait */
    char stack[STACK];
    void (*body)(void);
} thread[2];
/* Loads that have not happened yet, each with the oldest store that it may see. */
#define LATE 64u
static struct late {
    uint64_t value;
    uint8_t location, oldest, by;
    bool happened;
} late[LATE];
static unsigned late_count;
static uint8_t fence_view[LOCATIONS];
static ucontext_t home;
static int running;
static uint64_t stores;
static bool bell;

/* The path of choices: replayed up to `depth`, then extended with zeros. */
static struct choice {
    uint8_t taken, of;
} path[CHOICES];
static unsigned depth, at;
static const char *fault;

static unsigned choose(unsigned of)
{
    if (of <= 1)
        return 0;
    if (at == CHOICES) {
        fprintf(stderr, "explore: an execution has more than %u choices\n", CHOICES);
        abort();
    }
    if (at == depth)
        path[depth++] = (struct choice){0, (uint8_t)of};
    return path[at++].taken;
}

static unsigned location_of(const void *address)
{
    for (unsigned i = 0; i < locations; i++)
        if (loc[i].address == address)
            return i;
    if (locations == LOCATIONS) {
        fprintf(stderr, "explore: more than %u words\n", LOCATIONS);
        abort();
    }
    loc[locations].address = address;
    loc[locations].count = 1; /* all words are 0 before */
    memset(&loc[locations].store[0], 0, sizeof(loc[0].store[0]));
    return locations++;
}

static void view_join(uint8_t *to, const uint8_t *from)
{
    for (unsigned i = 0; i < locations; i++)
        if (from[i] > to[i])
            to[i] = from[i];
}

static void pass_on(void)
{
    int from = running;

    running = !running;
    swapcontext(&thread[from].context, &thread[running].context);
}

static bool can_run(int t)
{
    return !thread[t].ended && !(thread[t].waiting && stores == thread[t].saw);
}

/* Someone may go on here: both are tried. */
static void turn(void)
{
    if (can_run(!running) && choose(2))
        pass_on();
}

uint64_t explore_load(const void *address, int order)
{
    turn(); /* what the other one has not stored yet cannot be seen: it may go first */
    unsigned l = location_of(address);
    struct thread *me = &thread[running];
    unsigned oldest = me->view[l], pick = loc[l].count - 1u - choose(loc[l].count - oldest); /* the newest first */
    const struct message *m = &loc[l].store[pick];

    me->view[l] = (uint8_t)pick;
    if (order == EXPLORE_ORDERED && m->carries)
        view_join(me->view, m->view);
    return m->value;
}

static void late_happen(struct late *one)
{
    if (one->happened)
        return;
    struct location *l = &loc[one->location];
    one->value = l->store[l->count - 1u - choose(l->count - one->oldest)].value;
    one->happened = true;
}

/* What comes now is ordered after all loads of this thread. */
static void late_end(void)
{
    for (unsigned i = 0; i < late_count; i++)
        if (late[i].by == running)
            late_happen(&late[i]);
}

uint64_t explore_load_later(const void *address)
{
    unsigned l = location_of(address);

    if (late_count == LATE) {
        fprintf(stderr, "explore: more than %u late loads\n", LATE);
        abort();
    }
    late[late_count] = (struct late){.location = (uint8_t)l, .oldest = thread[running].view[l], .by = (uint8_t)running};
    return late_count++;
}

uint64_t explore_value(uint64_t token)
{
    turn(); /* it may be used much later: the other one goes on meanwhile */
    late_happen(&late[token]);
    return late[token].value;
}

static void view_shift(uint8_t *view, unsigned l, unsigned from)
{
    if (view[l] >= from)
        view[l]++;
}

/* A place for a store before others of its location: all that named those by number follows. */
static void place_make(unsigned l, unsigned from)
{
    memmove(&loc[l].store[from + 1], &loc[l].store[from], (loc[l].count - from) * sizeof(loc[0].store[0]));
    for (unsigned i = 0; i < locations; i++)
        for (unsigned j = 0; j < loc[i].count; j++)
            view_shift(loc[i].store[j + (i == l && j >= from)].view, l, from);
    view_shift(thread[0].view, l, from);
    view_shift(thread[1].view, l, from);
    view_shift(fence_view, l, from);
    for (unsigned i = 0; i < late_count; i++)
        if (late[i].location == l && late[i].oldest >= from)
            late[i].oldest++;
}

void explore_store(void *address, uint64_t value, int order)
{
    /* Needs no turn: a store that comes early can be overlooked by whoever is to see it late. */
    unsigned l = location_of(address);
    struct thread *me = &thread[running];

    if (loc[l].count == STORES) {
        fprintf(stderr, "explore: more than %u stores to one word\n", STORES);
        abort();
    }
    if (order == EXPLORE_ORDERED)
        late_end();
    unsigned place = loc[l].count - choose((unsigned)loc[l].count - me->view[l]);
    if (place < loc[l].count)
        place_make(l, place);
    struct message *m = &loc[l].store[place];
    *m = (struct message){.value = value, .carries = order == EXPLORE_ORDERED};
    loc[l].count++;
    me->view[l] = (uint8_t)place;
    if (m->carries)
        memcpy(m->view, me->view, sizeof(m->view));
    stores++;
}

void explore_fence(void)
{
    turn();
    late_end();
    view_join(thread[running].view, fence_view);
    view_join(fence_view, thread[running].view);
}

bool explore_wait(void)
{
    struct thread *me = &thread[running];

    if (thread[!running].ended) {
        /* All that was stored becomes visible some time. */
        for (unsigned i = 0; i < locations; i++)
            me->view[i] = (uint8_t)(loc[i].count - 1);
        return false;
    }
    me->waiting = true;
    me->saw = stores;
    if (!can_run(!running)) { /* neither has anything to see: time passes, all becomes visible to both */
        for (unsigned i = 0; i < locations; i++)
            thread[0].view[i] = thread[1].view[i] = (uint8_t)(loc[i].count - 1);
        thread[!running].saw = UINT64_MAX;
    }
    pass_on();
    me->waiting = false;
    return true;
}

void explore_bell(void)
{
    bell = true;
    stores++;
}

bool explore_bell_take(void)
{
    turn();
    bool was = bell;
    bell = false;
    return was;
}

void explore_fail(const char *what)
{
    fault = what;
    setcontext(&home);
    abort();
}

static void enter(void)
{
    thread[running].body();
    thread[running].ended = true;
    stores++; /* the end is something to see */
    if (thread[!running].ended)
        setcontext(&home);
    running = !running;
    setcontext(&thread[running].context);
}

static void begin(void (*first)(void), void (*second)(void))
{
    for (int t = 0; t < 2; t++) {
        getcontext(&thread[t].context);
        thread[t].context.uc_stack.ss_sp = thread[t].stack;
        thread[t].context.uc_stack.ss_size = STACK;
        thread[t].context.uc_link = NULL;
        makecontext(&thread[t].context, enter, 0);
        memset(thread[t].view, 0, sizeof(thread[t].view));
        thread[t].ended = thread[t].waiting = false;
        thread[t].body = t ? second : first;
    }
    running = 0;
}

/* The next path in order; false: there is none. */
static bool path_next(void)
{
    while (depth && path[depth - 1].taken + 1u == path[depth - 1].of)
        depth--;
    if (depth == 0)
        return false;
    path[depth - 1].taken++;
    return true;
}

struct explore_result explore(void (*setup)(void), void (*first)(void), void (*second)(void), void (*verdict)(void),
                              uint64_t most)
{
    struct explore_result r = {0};
    volatile bool there;

    depth = 0;
    fault = NULL;
    do {
        locations = 0;
        stores = 0;
        bell = false;
        at = 0;
        late_count = 0;
        memset(fence_view, 0, sizeof(fence_view));
        running = 0;
        begin(first, second);
        setup();
        there = false;
        getcontext(&home);
        if (!there) {
            there = true;
            setcontext(&thread[0].context);
        }
        if (!fault)
            verdict();
        r.executions++;
    } while (!fault && r.executions < most && path_next());
    r.fault = fault;
    r.complete = !fault && depth == 0;
    return r;
}
