/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile guest does with its rings, its region, its doorbells. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base/atomic.h"
#include "core/base/fdpass.h"
#include "hostile.h"

uint64_t hostile_edge(struct hostile *x)
{
    static const uint64_t edges[] = {0,
                                     4,
                                     8,
                                     56,
                                     64,
                                     255,
                                     4096,
                                     65536,
                                     UINT64_C(1) << 31,
                                     UINT64_C(1) << 32,
                                     UINT64_C(1) << 46,
                                     UINT64_C(1) << 47,
                                     UINT64_C(1) << 48,
                                     UINT64_C(1) << 62,
                                     UINT64_C(1) << 63,
                                     UINT64_MAX};
    uint64_t v = edges[hostile_below(x, sizeof(edges) / sizeof(edges[0]))];

    switch (hostile_below(x, 4)) {
    case 0:
        return v + hostile_below(x, 9) - 4;
    case 1:
        return e2e_next(&x->rng) >> hostile_below(x, 64);
    default:
        return v;
    }
}

/* ---- its memory ---- */

static struct vgpu_desc *slot_at(struct hostile *x, uint64_t pos)
{
    struct vgpu_desc *slots = (void *)(x->mem + x->g.header.sq_off);
    return &slots[pos % x->g.header.sq_slots];
}

static struct vgpu_guest_ctrl *ctrl_of(struct hostile *x)
{
    return (void *)(x->mem + x->g.header.guest_ctrl_off);
}

static uint64_t *any_word(struct hostile *x, uint64_t r)
{
    const struct vgpu_region_header *h = &x->g.header;
    const struct {
        uint64_t off, bytes;
    } part[] = {{0, 4096},
                {h->guest_ctrl_off, 256},
                {h->host_ctrl_off, 256},
                {h->sq_off, (uint64_t)h->sq_slots * 64},
                {h->cq_off, (uint64_t)h->cq_slots * 64},
                {h->arena_off, h->arena_bytes}};
    unsigned i = (unsigned)(r >> 32) % 6;

    if (part[i].bytes == 0)
        i = 0;
    return (uint64_t *)(void *)(x->mem + part[i].off + ((uint64_t)(uint32_t)r * (part[i].bytes / 8) >> 32) * 8);
}

static void flip_word(struct hostile *x, uint64_t *rng)
{
    uint64_t r = e2e_next(rng), *word = any_word(x, r);

    switch (r >> 62) {
    case 0:
        vgpu_store_relaxed(word, e2e_next(rng));
        break;
    case 1: /* close to a position */
        vgpu_store_relaxed(word, x->pos + (r >> 55) % 64 - 16);
        break;
    case 2:
        vgpu_store_relaxed(word, 0);
        break;
    default:
        vgpu_store_relaxed(word, vgpu_load_relaxed(word) ^ UINT64_C(1) << (r >> 55) % 64);
    }
}

static void *flip(void *arg)
{
    struct hostile *x = arg;

    while (!__atomic_load_n(&x->flipper_stop, __ATOMIC_RELAXED)) {
        for (int i = 0; i < 1000; i++)
            flip_word(x, &x->flipper_rng);
        __atomic_fetch_add(&x->shared->flips, 1000, __ATOMIC_RELAXED);
        sched_yield();
    }
    return NULL;
}

/* ---- descriptors ---- */

static uint64_t any_ref(struct hostile *x, uint64_t *room)
{
    uint64_t handle = hostile_below(x, 3) ? 0 : hostile_below(x, 6);
    uint64_t size = handle ? 4096 : x->g.header.arena_bytes;
    uint64_t off = size ? hostile_below(x, size) & ~UINT64_C(63) : 0;

    if (size - off < *room)
        *room = size - off;
    return VGPU_REF(handle, off);
}

static void valid_desc(struct hostile *x, struct vgpu_desc *d)
{
    uint64_t room = 1u << hostile_below(x, 17);

    memset(d, 0, sizeof(*d));
    d->opcode = (uint8_t)hostile_below(x, VGPU_OP_COUNT);
    d->flags = hostile_below(x, 2) ? VGPU_DESC_INDEPENDENT : 0;
    d->tag = (uint32_t)x->pos;
    switch (d->opcode) {
    case VGPU_OP_FILL:
    case VGPU_OP_COPY:
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
    case VGPU_OP_REDUCE:
        d->dst = any_ref(x, &room);
        d->src0 = d->opcode == VGPU_OP_FILL ? 0 : any_ref(x, &room);
        d->src1 = d->opcode == VGPU_OP_VECTOR_ADD ? any_ref(x, &room) : 0;
        d->n = d->opcode <= VGPU_OP_COPY ? room & ~UINT64_C(3) : room / 4;
        d->arg[0] = d->opcode == VGPU_OP_FILL || d->opcode == VGPU_OP_AXPY ? (uint32_t)e2e_next(&x->rng) : 0;
        d->sub = d->opcode == VGPU_OP_REDUCE ? (uint8_t)hostile_below(x, 3) : 0;
        break;
    case VGPU_OP_MEM_ALLOC:
    case VGPU_OP_MEM_FREE:
        d->dst = VGPU_REF(1 + hostile_below(x, 6), 0);
        d->n = d->opcode == VGPU_OP_MEM_ALLOC ? 4096 : 0;
        break;
    case VGPU_OP_GEMM:
        d->dst = any_ref(x, &room);
        d->src0 = any_ref(x, &room);
        d->src1 = any_ref(x, &room);
        d->dtype = (uint8_t)hostile_below(x, 2);
        d->sub = (uint8_t)hostile_below(x, 8);
        d->n = hostile_below(x, 40);
        d->arg[0] = (uint32_t)hostile_below(x, 40);
        d->arg[1] = (uint32_t)hostile_below(x, 40);
        d->arg[2] = 0x3f800000;
        break;
    default:
        break;
    }
}

static void bend(struct hostile *x, struct vgpu_desc *d)
{
    for (uint64_t n = 1 + hostile_below(x, 3); n; n--) {
        uint64_t v = hostile_edge(x);
        switch (hostile_below(x, 10)) {
        case 0:
            d->opcode = (uint8_t)v;
            break;
        case 1:
            d->flags = (uint8_t)v;
            break;
        case 2:
            d->dtype = (uint8_t)v;
            break;
        case 3:
            d->sub = (uint8_t)v;
            break;
        case 4:
            d->dst = v;
            break;
        case 5:
            d->src0 = v;
            break;
        case 6:
            d->src1 = v;
            break;
        case 7:
            d->n = v;
            break;
        case 8:
            d->dst ^= UINT64_C(1) << hostile_below(x, 64);
            break;
        default:
            d->arg[hostile_below(x, 4)] = (uint32_t)v;
            break;
        }
    }
}

static void publish(struct hostile *x, const struct vgpu_desc *d)
{
    struct vgpu_desc *slot = slot_at(x, x->pos);
    uint64_t words[7];

    memcpy(words, d, sizeof(words));
    for (int i = 0; i < 7; i++)
        vgpu_store_relaxed(&((uint64_t *)(void *)slot)[i], words[i]);
    vgpu_store_release(&slot->seq, x->pos + 1);
    x->pos++;
    hostile_count(&x->shared->descriptors);
}

static uint64_t room(struct hostile *x)
{
    struct vgpu_host_ctrl *host = (void *)(x->mem + x->g.header.host_ctrl_off);
    uint64_t used = x->pos - vgpu_load_acquire(&host->sq_head);

    return used > x->g.header.sq_slots ? 0 : x->g.header.sq_slots - used;
}

static void ring(struct hostile *x)
{
    uint64_t one = 1;

    if (x->g.fds[1] < 0)
        return;
    fcntl(x->g.fds[1], F_SETFL,
          O_NONBLOCK); /* step_doorbell() may have left it otherwise: we would wait, not the host */
    e2e_check(write(x->g.fds[1], &one, sizeof(one)) > 0 || errno == EAGAIN, "doorbell: %s", strerror(errno));
}

/* ---- steps ---- */

static void step_submit(struct hostile *x, enum hostile_step kind)
{
    struct vgpu_desc d;
    uint64_t most = kind == HOSTILE_flood ? x->g.header.sq_slots : 1 + hostile_below(x, 16);

    for (uint64_t n = room(x) < most ? room(x) : most; n; n--) {
        valid_desc(x, &d);
        if (kind == HOSTILE_random) {
            for (int i = 0; i < 7; i++)
                ((uint64_t *)(void *)&d)[i] = e2e_next(&x->rng);
            d.opcode = hostile_below(x, 2) ? (uint8_t)hostile_below(x, 12) : d.opcode;
        } else if (kind == HOSTILE_mutated) {
            bend(x, &d);
        } else if (kind == HOSTILE_heap) {
            memset(&d, 0, sizeof(d));
            d.opcode = hostile_below(x, 2) ? VGPU_OP_MEM_ALLOC : VGPU_OP_MEM_FREE;
            d.dst = VGPU_REF(hostile_below(x, 4) ? hostile_below(x, 6) : hostile_edge(x), 0);
            d.n = d.opcode == VGPU_OP_MEM_FREE ? 0 : hostile_below(x, 3) ? hostile_below(x, 600000) : hostile_edge(x);
        }
        publish(x, &d);
    }
    if (hostile_below(x, 8))
        ring(x);
}

static void step_fetch(struct hostile *x)
{
    struct vgpu_cpl *cq = (void *)(x->mem + x->g.header.cq_off);

    for (uint32_t i = 0; i < x->g.header.cq_slots; i++) {
        struct vgpu_cpl *c = &cq[x->cpos % x->g.header.cq_slots];
        if (vgpu_load_acquire(&c->seq) != x->cpos + 1)
            break;
        x->cpos++;
    }
    vgpu_store_release(&ctrl_of(x)->cq_head, x->cpos);
}

static void step_sequence(struct hostile *x)
{
    static const int64_t jumps[] = {-1,        1,        2, 64, -64, 4096, INT64_C(1) << 32, -(INT64_C(1) << 32),
                                    INT64_MAX, INT64_MIN};
    uint64_t at = x->pos + hostile_below(x, 4);
    uint64_t seq = hostile_below(x, 4) ? at + 1 + (uint64_t)jumps[hostile_below(x, 10)] : e2e_next(&x->rng);

    vgpu_store_release(&slot_at(x, at)->seq, seq);
    ring(x);
}

static void step_credit(struct hostile *x)
{
    uint64_t head = hostile_below(x, 2) ? x->cpos + hostile_below(x, 200) - 100 : hostile_edge(x);

    vgpu_store_release(&ctrl_of(x)->cq_head, head);
}

static void step_replay(struct hostile *x)
{
    for (uint64_t n = 1 + hostile_below(x, x->g.header.sq_slots); n; n--) {
        uint64_t old = x->pos - n;
        vgpu_store_release(&slot_at(x, old)->seq, old + 1);
    }
    ring(x);
}

static void step_retract(struct hostile *x)
{
    struct vgpu_desc d;
    uint64_t from = x->pos;

    for (uint64_t n = room(x) < 8 ? room(x) : 8; n; n--) {
        valid_desc(x, &d);
        publish(x, &d);
    }
    for (uint64_t at = from; at < x->pos; at++) {
        if (hostile_below(x, 2))
            vgpu_store_relaxed(&slot_at(x, at)->n, hostile_edge(x));
        if (hostile_below(x, 2))
            vgpu_store_release(&slot_at(x, at)->seq, 0);
        if (hostile_below(x, 2)) /* and back again: else nothing behind it is ever seen */
            vgpu_store_release(&slot_at(x, at)->seq, at + 1);
    }
    ring(x);
}

static void step_doorbell(struct hostile *x)
{
    uint64_t most = UINT64_MAX - 1;
    int *fd = &x->g.fds[1 + hostile_below(x, 2)], small = 1, null = -1;
    char junk[256] = {0};

    switch (hostile_below(x, 7)) {
    case 0: /* a flood */
        for (int i = 0; i < 1000; i++)
            ring(x);
        break;
    case 1: /* full */
        fcntl(x->g.fds[1], F_SETFL, O_NONBLOCK);
        while (write(x->g.fds[1], &most, sizeof(most)) > 0)
            most = 1;
        break;
    case 2: /* blocking: whoever of the host reads or writes it now waits */
        fcntl(*fd, F_SETFL, 0);
        break;
    case 3: /* takes back what it rang; makes the guest's small */
        fcntl(x->g.fds[1], F_SETFL, O_NONBLOCK);
        (void)!read(x->g.fds[1], &most, sizeof(most));
        setsockopt(x->g.fds[2], SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
        break;
    case 4: /* the wrong way round, with something to close */
        null = open("/dev/null", O_RDONLY | O_CLOEXEC);
        vgpu_fd_send(x->g.fds[2], junk, sizeof(junk), &null, 1, MSG_DONTWAIT);
        close(null);
        break;
    case 5:
        shutdown(x->g.fds[2], (int)hostile_below(x, 3));
        break;
    default:
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
    }
}

static void step_punch(struct hostile *x)
{
    uint64_t bytes = x->g.header.region_bytes;
    uint64_t from = hostile_below(x, 4) ? hostile_below(x, bytes / 4096) * 4096 : 0;

    fallocate(x->g.region_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from,
              (off_t)(hostile_below(x, 2) ? 4096 : bytes));
}

static void step_seal(struct hostile *x)
{
    char path[64];

    /* The mapping of the daemon and of the executor stay writable. */
    if (hostile_below(x, 2))
        fcntl(x->g.region_fd, F_ADD_SEALS, hostile_below(x, 2) ? F_SEAL_FUTURE_WRITE : F_SEAL_WRITE);
    e2e_check(ftruncate(x->g.region_fd, 4096) < 0, "a sealed region shrank");
    snprintf(path, sizeof(path), "/proc/self/fd/%d", x->g.fds[0]);
    int props = open(path, O_RDWR | O_CLOEXEC);
    if (props < 0)
        return;
    e2e_check(pwrite(props, "x", 1, 0) < 0, "the properties page can be written");
    e2e_check(fallocate(props, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0,
              "the properties page can be punched out");
    e2e_check(ftruncate(props, 0) < 0 && ftruncate(props, 1 << 20) < 0, "the properties page can be resized");
    e2e_check(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, props, 0) == MAP_FAILED, "the properties page can be mapped");
    close(props);
}

static void flipper_end(struct hostile *x)
{
    if (!x->flipping)
        return;
    __atomic_store_n(&x->flipper_stop, true, __ATOMIC_RELAXED);
    pthread_join(x->flipper, NULL);
    x->flipping = false;
}

static void step_flipper(struct hostile *x)
{
    if (x->flipping) {
        flipper_end(x);
        return;
    }
    x->flipper_stop = false;
    x->flipper_rng = e2e_next(&x->rng);
    e2e_thread(flip, x, &x->flipper);
    x->flipping = true;
}

static void take_step(struct hostile *x, enum hostile_step kind)
{
    hostile_count(&x->shared->steps[kind]);
    switch (kind) {
    case HOSTILE_valid:
    case HOSTILE_random:
    case HOSTILE_mutated:
    case HOSTILE_heap:
    case HOSTILE_flood:
        step_submit(x, kind);
        break;
    case HOSTILE_fetch:
        step_fetch(x);
        break;
    case HOSTILE_sequence:
        step_sequence(x);
        break;
    case HOSTILE_credit:
        step_credit(x);
        break;
    case HOSTILE_replay:
        step_replay(x);
        break;
    case HOSTILE_retract:
        step_retract(x);
        break;
    case HOSTILE_scribble:
        for (int i = 0; i < 32; i++)
            flip_word(x, &x->rng);
        break;
    case HOSTILE_flipper:
        step_flipper(x);
        break;
    case HOSTILE_events:
        vgpu_store_relaxed(&ctrl_of(x)->cq_event, x->cpos + hostile_edge(x));
        break;
    case HOSTILE_doorbell:
        step_doorbell(x);
        break;
    case HOSTILE_punch:
        step_punch(x);
        break;
    case HOSTILE_seal:
        step_seal(x);
        break;
    case HOSTILE_half_open:
        hostile_half_open(x);
        break;
    case HOSTILE_bytes:
        hostile_bytes(x);
        break;
    case HOSTILE_wrong_fd:
        hostile_wrong_fd(x);
        break;
    case HOSTILE_header:
        hostile_header(x);
        break;
    case HOSTILE_storm:
        hostile_storm(x);
        break;
    case HOSTILE_STEP_COUNT:
        break;
    }
}

/* ---- a life ---- */

static bool attach(struct hostile *x)
{
    /* The one before may still be on its way out. */
    for (int i = 0; i < 400 && !x->attached; i++) {
        x->attached = hostile_attach(x, &x->g, x->vm_id);
        if (!x->attached)
            e2e_sleep_ms(5);
    }
    if (!x->attached)
        return false;
    x->mem = mmap(NULL, x->g.header.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, x->g.region_fd, 0);
    e2e_check(x->mem != MAP_FAILED, "mmap: %s", strerror(errno));
    x->pos = x->g.attached.sq_start;
    x->cpos = x->g.attached.cq_start;
    vgpu_store_release(&ctrl_of(x)->cq_head, x->cpos);
    return true;
}

static void note_state(struct hostile *x)
{
    const struct vgpu_props *p = mmap(NULL, VGPU_PAGE_BYTES, PROT_READ, MAP_SHARED, x->g.fds[0], 0);

    e2e_check(p != MAP_FAILED, "properties: %s", strerror(errno));
    uint32_t state = vgpu_load_relaxed(&p->state);
    e2e_check(state == VGPU_VM_RUNNING || state == VGPU_VM_BROKEN, "state %u", state);
    if (state == VGPU_VM_BROKEN)
        hostile_count(&x->shared->broken);
    munmap((void *)(uintptr_t)p, VGPU_PAGE_BYTES);
}

static void leave(struct hostile *x)
{
    note_state(x);
    if (hostile_below(x, 3) == 0) { /* in the middle of a burst */
        step_submit(x, HOSTILE_flood);
        if (hostile_below(x, 2)) {
            hostile_count(&x->shared->kills);
            raise(SIGKILL);
        }
    }
    if (hostile_below(x, 2))
        shutdown(x->g.sock, SHUT_WR);
    flipper_end(x);
    raw_close(&x->g); /* the mapping stays: a guest that still writes after it left */
    x->attached = false;
}

void hostile_live(struct hostile *x)
{
    signal(SIGPIPE, SIG_IGN);
    for (unsigned lives = 0; lives < 8 && !__atomic_load_n(&x->shared->stop, __ATOMIC_RELAXED); lives++) {
        e2e_check(attach(x), "VM %u cannot attach any more: %s", x->vm_id, x->g.error.text);
        x->enabled = (uint32_t)e2e_next(&x->rng) & (uint32_t)e2e_next(&x->rng) & ~(1u << HOSTILE_valid);
        x->enabled |= 1u << HOSTILE_valid | 1u << HOSTILE_fetch;
        for (uint64_t steps = 20 + hostile_below(x, 200); steps; steps--) {
            enum hostile_step kind;
            do
                kind = (enum hostile_step)hostile_below(x, HOSTILE_STEP_COUNT);
            while (!(x->enabled >> kind & 1));
            take_step(x, kind);
            if (hostile_below(x, 4) == 0) {
                struct timespec nap = {.tv_nsec = (long)hostile_below(x, 300000)};
                nanosleep(&nap, NULL);
            }
        }
        leave(x);
        munmap(x->mem, x->g.header.region_bytes);
    }
}
