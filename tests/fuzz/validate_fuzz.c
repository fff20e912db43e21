/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The validator and the memory space against a model: an input is limits and a sequence of descriptors. The model knows
 * which buffers there are and decides with 128-bit arithmetic whether a descriptor is to be accepted; where a buffer
 * comes to lie it finds by looking at all the others instead of a list of gaps.
 */
#include "fuzz.h"
#include "rings/opcode.h"

typedef unsigned __int128 wide;

#define HANDLES_MAX 12u

struct model {
    uint64_t arena_bytes, base, bytes;
    uint32_t max_handles;
    bool debug_ops;
    struct {
        uint64_t off, bytes; /* bytes 0: none */
    } buffer[HANDLES_MAX + 1];
};

static uint64_t grains(uint64_t bytes)
{
    return (bytes + VGPU_MEM_GRAIN - 1) / VGPU_MEM_GRAIN * VGPU_MEM_GRAIN;
}

static bool inside(const struct model *m, uint64_t ref, wide bytes, uint64_t align, wide *at)
{
    uint64_t handle = ref >> 48, off = ref & ((UINT64_C(1) << 48) - 1), size = m->arena_bytes;

    if (handle) {
        if (handle > m->max_handles || m->buffer[handle].bytes == 0)
            return false;
        size = m->buffer[handle].bytes;
    }
    /* Arena and device memory are far apart. */
    *at = handle ? ((wide)1 << 100) + m->buffer[handle].off + off : off;
    return (wide)off + bytes <= size && off % align == 0;
}

static bool apart(wide a, wide a_bytes, wide b, wide b_bytes)
{
    return a_bytes == 0 || b_bytes == 0 || a + a_bytes <= b || b + b_bytes <= a;
}

/* First fit: the lowest place where it overlaps no other buffer. */
static bool place(const struct model *m, uint64_t bytes, uint64_t *off)
{
    wide at = m->base, end = (wide)m->base + m->bytes, need;

    if (bytes > m->bytes)
        return false;
    need = grains(bytes);
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t h = 1; h <= m->max_handles; h++)
            if (m->buffer[h].bytes && !apart(at, need, m->buffer[h].off, grains(m->buffer[h].bytes))) {
                at = (wide)m->buffer[h].off + grains(m->buffer[h].bytes);
                moved = true;
            }
    }
    *off = (uint64_t)at;
    return at + need <= end;
}

static bool fields_good(const struct model *m, const struct vgpu_desc *d)
{
    static const struct {
        uint8_t refs, args, dtype_max, sub_max;
    } use[] = {{0, 0, 0, 0}, {1, 1, 0, 0}, {3, 0, 0, 0}, {1, 0, 0, 0}, {1, 0, 0, 0},
               {7, 0, 0, 0}, {3, 1, 0, 0}, {3, 0, 0, 2}, {7, 4, 1, 7}, {0, 0, 0, 0}};
    uint8_t refs = 0, args = 1, dtype_max = 0, sub_max = 4;

    if (d->opcode < 10) {
        refs = use[d->opcode].refs;
        args = use[d->opcode].args;
        dtype_max = use[d->opcode].dtype_max;
        sub_max = use[d->opcode].sub_max;
    } else if (d->opcode != VGPU_OP_DEBUG || !m->debug_ops) {
        return false;
    }
    for (uint32_t i = args; i < 4; i++)
        if (d->arg[i])
            return false;
    return d->flags <= 1 && d->dtype <= dtype_max && d->sub <= sub_max && (refs & 1 || !d->dst) &&
           (refs & 2 || !d->src0) && (refs & 4 || !d->src1);
}

static bool in_arena(const struct model *m, uint64_t ref, wide bytes, uint64_t align)
{
    wide at;

    return ref >> 48 == 0 && inside(m, ref, bytes, align, &at);
}

static bool no_flags(const struct vgpu_desc *d, uint8_t dtype_max, uint8_t sub_max, uint32_t arg0_max)
{
    return d->flags <= 1 && d->dtype <= dtype_max && d->sub <= sub_max && d->arg[0] <= arg0_max && !d->arg[1] && !d->arg[2] &&
           !d->arg[3];
}

/* The same for the opcodes of programs: where it is good, `w` has to say this. */
static bool expect_program(const struct model *m, const struct vgpu_desc *d, struct vgpu_work *w)
{
    uint64_t dst = d->dst >> 48, src0 = d->src0 >> 48, dst_off = d->dst << 16 >> 16, src0_off = d->src0 << 16 >> 16;
    const wide end = (wide)1 << 47;

    *w = (struct vgpu_work){.n = d->n};
    switch (d->opcode) {
    case VGPU_OP_PROGRAM_LOAD:
        w->arg[0] = (uint32_t)dst, w->src0 = src0_off;
        return no_flags(d, 0, 1, 0) && dst && !dst_off && d->n && d->n <= 1u << 30 && !d->src1 && in_arena(m, d->src0, d->n, 1);
    case VGPU_OP_PROGRAM_INFO:
        w->arg[0] = (uint32_t)src0, w->dst = dst_off;
        return no_flags(d, 0, 2, 0) && (d->sub ? !d->src0 : src0 && !src0_off) && !d->src1 && in_arena(m, d->dst, d->n, 8);
    case VGPU_OP_EXECUTE:
        w->arg[0] = (uint32_t)src0, w->arg[1] = d->arg[0], w->src1 = d->src1;
        return no_flags(d, 0, 0, 65535) && src0 && !src0_off && !d->dst && d->n <= 65535 && d->arg[0] <= d->n &&
               in_arena(m, d->src1, (wide)d->n * 2, 2);
    case VGPU_OP_BUFFER_PUT:
        w->arg[0] = (uint32_t)dst, w->arg[1] = d->arg[0], w->dst = dst_off, w->src0 = src0_off, w->src1 = d->src1;
        return no_flags(d, 14, 0, 8) && dst && (wide)dst_off + d->n < end && in_arena(m, d->src0, d->n, 1) &&
               (d->arg[0] && !dst_off ? in_arena(m, d->src1, d->arg[0] * (wide)8, 8) : !d->src1 && !d->arg[0]);
    case VGPU_OP_BUFFER_GET:
        w->arg[0] = (uint32_t)src0, w->dst = dst_off, w->src0 = src0_off;
        return no_flags(d, 0, 0, 0) && src0 && (wide)src0_off + d->n < end && !d->src1 && in_arena(m, d->dst, d->n, 1);
    default: /* the two that free */
        w->arg[0] = (uint32_t)dst;
        return no_flags(d, 0, 0, 0) && dst && !dst_off && !d->src0 && !d->src1 && !d->n;
    }
}

static void check_program(const struct vgpu_desc *d, const struct vgpu_work *w, const struct vgpu_work *want)
{
    fuzz_check(w->dst == want->dst && w->src0 == want->src0 && w->src1 == want->src1 && w->n == want->n &&
                   w->arg[0] == want->arg[0] && w->arg[1] == want->arg[1],
               "opcode %u: the item is not what was asked for", d->opcode);
}

/* Would a good host accept it? Applies what it does to the model. */
static bool expect(struct model *m, const struct vgpu_desc *d)
{
    wide dst, src0, src1 = 0, n = d->n, a, b, c;
    uint64_t handle = d->dst >> 48, off;

    if (!fields_good(m, d))
        return false;
    switch (d->opcode) {
    case VGPU_OP_FILL:
        return d->n % 4 == 0 && inside(m, d->dst, n, 4, &dst);
    case VGPU_OP_COPY:
        return inside(m, d->dst, n, 1, &dst) && inside(m, d->src0, n, 1, &src0) && apart(dst, n, src0, n);
    case VGPU_OP_MEM_ALLOC:
        if (d->dst << 16 || d->n == 0 || handle == 0 || handle > m->max_handles || m->buffer[handle].bytes ||
            !place(m, d->n, &off))
            return false;
        m->buffer[handle].off = off;
        m->buffer[handle].bytes = d->n;
        return true;
    case VGPU_OP_MEM_FREE:
        if (d->dst << 16 || d->n || handle == 0 || handle > m->max_handles || !m->buffer[handle].bytes)
            return false;
        m->buffer[handle].bytes = 0;
        return true;
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
        if (!inside(m, d->dst, n * 4, 4, &dst) || !inside(m, d->src0, n * 4, 4, &src0) ||
            (d->opcode == VGPU_OP_VECTOR_ADD && !inside(m, d->src1, n * 4, 4, &src1)))
            return false;
        return (dst == src0 || apart(dst, n * 4, src0, n * 4)) &&
               (d->opcode == VGPU_OP_AXPY || dst == src1 || apart(dst, n * 4, src1, n * 4));
    case VGPU_OP_REDUCE:
        return (d->n || d->sub == 0) && inside(m, d->dst, 4, 4, &dst) && inside(m, d->src0, n * 4, 4, &src0) &&
               apart(dst, 4, src0, n * 4);
    case VGPU_OP_GEMM:
        if (d->n > 1u << 20 || d->arg[0] > 1u << 20 || d->arg[1] > 1u << 20)
            return false;
        a = (wide)d->arg[0] * d->arg[1] * (d->dtype ? 2 : 4);
        b = (wide)d->arg[1] * n * (d->dtype ? 2 : 4);
        c = (wide)d->arg[0] * n * 4;
        return inside(m, d->dst, c, 4, &dst) && inside(m, d->src0, a, d->dtype ? 2 : 4, &src0) &&
               inside(m, d->src1, b, d->dtype ? 2 : 4, &src1) && apart(dst, c, src0, a) && apart(dst, c, src1, b);
    case VGPU_OP_DEBUG:
        return d->n == 0 && (d->sub || d->arg[0] <= 60000000);
    default:
        return d->n == 0;
    }
}

/* What the work item says must be where the model has it. */
static void check_refs(const struct model *m, const struct vgpu_desc *d, const struct vgpu_work *w, uint8_t refs)
{
    const uint64_t in[3] = {d->dst, d->src0, d->src1}, out[3] = {w->dst, w->src0, w->src1};

    for (int i = 0; i < 3; i++) {
        uint64_t handle = in[i] >> 48, off = in[i] & ((UINT64_C(1) << 48) - 1), want = 0;
        if (refs >> i & 1)
            want = handle ? (m->buffer[handle].off + off) | VGPU_WREF_DEVICE : off;
        fuzz_check(out[i] == want, "opcode %u: reference %d is %llx, not %llx", d->opcode, i,
                   (unsigned long long)out[i], (unsigned long long)want);
    }
}

static void check_space(const struct model *m, const struct vgpu_memspace *ms)
{
    uint64_t used = 0, gaps = 0;

    for (uint32_t h = 1; h <= m->max_handles; h++) {
        fuzz_check(ms->handles[h].bytes == m->buffer[h].bytes, "buffer %u", h);
        fuzz_check(!m->buffer[h].bytes || ms->handles[h].off == m->buffer[h].off, "buffer %u lies at %llx, not %llx", h,
                   (unsigned long long)ms->handles[h].off, (unsigned long long)m->buffer[h].off);
        used += grains(m->buffer[h].bytes);
    }
    fuzz_check(ms->n_free <= m->max_handles + 1, "%u gaps", ms->n_free);
    for (uint32_t i = 0; i < ms->n_free; i++) {
        gaps += ms->free[i].bytes;
        fuzz_check(ms->free[i].bytes && (i == 0 || ms->free[i - 1].off + ms->free[i - 1].bytes < ms->free[i].off),
                   "gap %u", i);
    }
    fuzz_check(used == ms->used && used + gaps == ms->bytes, "%llu used, %llu free, of %llu", (unsigned long long)used,
               (unsigned long long)gaps, (unsigned long long)ms->bytes);
}

static uint64_t small_ref(struct feed *f)
{
    return feed_int(f, 1) % (HANDLES_MAX + 2) << 48 | feed_int(f, 2);
}

/* Half of the inputs' descriptors are as they lie, half are built so that they are nearly right. */
static void next_desc(struct feed *f, struct vgpu_desc *d)
{
    uint8_t how = (uint8_t)feed_int(f, 1);

    memset(d, 0, sizeof(*d));
    if (how & 0x80) {
        feed_bytes(f, d, 56);
        return;
    }
    d->opcode = how % 18 < 10 ? how % 18 : how % 18 == 10 ? VGPU_OP_DEBUG : 21 + how % 18;
    d->tag = 77;
    if (d->opcode >= 32 && d->opcode < 39) { /* a few values that may be good in each field */
        d->dst = small_ref(f);
        d->src0 = small_ref(f);
        d->src1 = d->opcode == VGPU_OP_EXECUTE || d->opcode == VGPU_OP_BUFFER_PUT ? feed_int(f, 2) : 0;
        d->n = d->opcode == VGPU_OP_PROGRAM_FREE || d->opcode == VGPU_OP_BUFFER_FREE ? 0 : feed_int(f, 2);
        d->arg[0] = d->src1 ? (uint32_t)feed_int(f, 1) % 10 : 0;
        d->sub = (uint8_t)feed_int(f, 1) & 1;
        uint64_t keep = (uint64_t)(how & 0x40 ? 0xffff : 0) << 48; /* of a handle only the number */
        d->dst &= d->opcode == VGPU_OP_PROGRAM_INFO || d->opcode == VGPU_OP_BUFFER_GET ? 0xfff8 : keep ? keep : d->dst;
        d->src0 = d->opcode == VGPU_OP_PROGRAM_INFO || d->opcode == VGPU_OP_EXECUTE ? d->src0 & keep
                  : d->opcode == VGPU_OP_BUFFER_GET                                ? d->src0
                                                                                   : d->src0 & 0xffff;
    }
    bool alloc = d->opcode == VGPU_OP_MEM_ALLOC || d->opcode == VGPU_OP_MEM_FREE;
    if (d->opcode >= 1 && d->opcode <= 8)
        d->dst = alloc ? feed_int(f, 1) % (HANDLES_MAX + 2) << 48 : small_ref(f);
    if (d->opcode == 2 || (d->opcode >= 5 && d->opcode <= 8))
        d->src0 = small_ref(f);
    if (d->opcode == 5 || d->opcode == 8)
        d->src1 = small_ref(f);
    if (d->opcode == VGPU_OP_GEMM) {
        d->arg[0] = (uint32_t)feed_int(f, 1);
        d->arg[1] = (uint32_t)feed_int(f, 1);
        d->dtype = (uint8_t)feed_int(f, 1) & 1;
        d->sub = (uint8_t)feed_int(f, 1) & 7;
        d->n = feed_int(f, 1);
    } else if (d->opcode < VGPU_OP_COUNT && d->opcode != VGPU_OP_NOP && d->opcode != VGPU_OP_FENCE &&
               d->opcode != VGPU_OP_MEM_FREE) {
        d->n = how & 0x40 ? feed_edge(f) : feed_int(f, 2);
    }
    if (how & 0x20) { /* bent in one place */
        uint8_t at = (uint8_t)feed_int(f, 1) % 56;
        ((uint8_t *)d)[at] ^= (uint8_t)feed_int(f, 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, bytes};
    struct model m = {0};
    struct vgpu_memspace space;

    m.debug_ops = feed_int(&f, 1) & 1;
    m.max_handles = (uint32_t)feed_int(&f, 1) % (HANDLES_MAX + 1);
    m.arena_bytes = feed_edge(&f) % (VGPU_ARENA_BYTES_MAX + 1);
    m.base = feed_edge(&f) % (UINT64_C(1) << 40) / VGPU_MEM_GRAIN * VGPU_MEM_GRAIN;
    m.bytes = feed_edge(&f) % (UINT64_C(1) << 42) / VGPU_MEM_GRAIN * VGPU_MEM_GRAIN;
    if (vgpu_memspace_init(&space, m.base, m.bytes, m.max_handles))
        abort();
    const struct vgpu_vm_view view = {.arena_bytes = m.arena_bytes, .space = &space, .debug_ops = m.debug_ops};
    while (f.left) {
        struct vgpu_desc d;
        struct vgpu_work w;
        next_desc(&f, &d);
        const struct model before = m;
        struct vgpu_work program;
        bool is_program = d.opcode >= 32 && d.opcode < 39;
        bool want = is_program ? expect_program(&m, &d, &program) : expect(&m, &d);
        uint16_t status = vgpu_validate(&d, &view, &w);
        fuzz_check((status == VGPU_OK) == want, "opcode %u: status %s, the model says %s", d.opcode,
                   vgpu_status_name(status), want ? "good" : "bad");
        fuzz_check(w.opcode == d.opcode && w.tag == d.tag, "opcode and tag");
        if (want) {
            const struct model *at = d.opcode == VGPU_OP_MEM_FREE ? &before : &m;
            bool none = d.opcode == VGPU_OP_MEM_FREE;
            const struct vgpu_opcode_info *info = vgpu_opcode_info(d.opcode);
            fuzz_check(info && vgpu_work_status(&w) == 0 && vgpu_work_vm(&w) == 0, "status or VM in a good item");
            if (is_program)
                check_program(&d, &w, &program);
            else
                check_refs(at, &d, &w, none ? 0 : info->refs);
            vgpu_work_bytes(&w);
        } else {
            fuzz_check(status < VGPU_STATUS_COUNT && vgpu_work_status(&w) == status, "a refused item says %u of %u",
                       vgpu_work_status(&w), status);
            fuzz_check(w.dst == 0 && VGPU_WORK_LOW(w.src0) == 0 && w.src1 == 0 && w.n == 0,
                       "a refused item holds something");
        }
        check_space(&m, &space);
    }
    vgpu_memspace_fini(&space);
    return 0;
}
