/* SPDX-License-Identifier: Apache-2.0 */
#include "rings/opcode.h"

#include <errno.h>
#include <string.h>

/* Arithmetic here is 64-bit and overflow-checked before anything is compared (CVE-2020-10723, CVE-2020-10725). */

/*
 * An index below count, also while the processor runs ahead of the check before it: a guest must not be able to make
 * us read beyond a table speculatively (Spectre variant 1, CVE-2017-5753).
 */
static inline uint32_t index_within(uint32_t index, uint32_t count)
{
    uint64_t mask = (uint64_t)((int64_t)((uint64_t)index - count) >> 63);

    __asm__("" : "+r"(mask)); /* keeps the compiler from turning it back into a branch */
    return index & (uint32_t)mask;
}

/* A reference of `bytes` bytes, resolved to a work reference; address checked also when bytes is 0. */
static uint16_t resolve(uint64_t ref, uint64_t bytes, uint32_t align, const struct vgpu_vm_view *vm, uint64_t *out)
{
    uint32_t handle = VGPU_REF_HANDLE(ref);
    uint64_t offset = VGPU_REF_OFFSET(ref);
    uint64_t size;
    uint64_t base = 0;

    if (handle == VGPU_HANDLE_ARENA) {
        size = vm->arena_bytes;
    } else {
        if (handle > vm->space->max_handles)
            return VGPU_E_HANDLE;
        handle = index_within(handle, vm->space->max_handles + 1);
        if (vm->space->handles[handle].bytes == 0)
            return VGPU_E_HANDLE;
        size = vm->space->handles[handle].bytes;
        base = vm->space->handles[handle].off;
    }
    if (offset > size || bytes > size - offset)
        return VGPU_E_RANGE;
    if (offset & (align - 1))
        return VGPU_E_ALIGN;
    *out = (base + offset) | (handle == VGPU_HANDLE_ARENA ? 0 : VGPU_WREF_DEVICE);
    return VGPU_OK;
}

/* Do two resolved ranges share a byte? */
static bool overlaps(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
    if ((a ^ b) & VGPU_WREF_DEVICE)
        return false;
    uint64_t ao = a & VGPU_WREF_OFFSET_MASK, bo = b & VGPU_WREF_OFFSET_MASK;
    return a_bytes && b_bytes && ao < bo + b_bytes && bo < ao + a_bytes;
}

/* Bytes of n elements, or UINT64_MAX when that exceeds what any buffer can have. */
static uint64_t span(uint64_t n, uint32_t element_bytes)
{
    return n > VGPU_OFFSET_MASK / element_bytes ? UINT64_MAX : n * element_bytes;
}

static uint16_t check_none(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    return d->n == 0 ? VGPU_OK : VGPU_E_FLAGS;
}

static uint16_t check_fill(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    if (d->n & 3)
        return VGPU_E_ALIGN;
    out->arg[0] = d->arg[0];
    return resolve(d->dst, d->n, 4, vm, &out->dst);
}

static uint16_t check_copy(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = resolve(d->dst, d->n, 1, vm, &out->dst);

    if (status == VGPU_OK)
        status = resolve(d->src0, d->n, 1, vm, &out->src0);
    if (status == VGPU_OK && overlaps(out->dst, d->n, out->src0, d->n))
        status = VGPU_E_OVERLAP;
    return status;
}

static uint16_t check_alloc(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint32_t handle = VGPU_REF_HANDLE(d->dst);

    if (VGPU_REF_OFFSET(d->dst) != 0 || d->n == 0)
        return VGPU_E_ARG;
    switch (vgpu_memspace_alloc(vm->space, handle, d->n)) {
    case 0:
        out->dst = vm->space->handles[handle].off | VGPU_WREF_DEVICE;
        return VGPU_OK;
    case -EEXIST:
        return VGPU_E_EXISTS;
    case -EBADF:
        return VGPU_E_HANDLE;
    default:
        return VGPU_E_NOMEM;
    }
}

static uint16_t check_free(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint32_t handle = VGPU_REF_HANDLE(d->dst);

    if (VGPU_REF_OFFSET(d->dst) != 0 || d->n != 0)
        return VGPU_E_ARG;
    return vgpu_memspace_free(vm->space, handle) == 0 ? VGPU_OK : VGPU_E_HANDLE;
}

static uint16_t check_elementwise(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out,
                                  bool two_sources)
{
    uint64_t bytes = span(d->n, 4);
    uint16_t status = resolve(d->dst, bytes, 4, vm, &out->dst);

    if (status == VGPU_OK)
        status = resolve(d->src0, bytes, 4, vm, &out->src0);
    if (status == VGPU_OK && two_sources)
        status = resolve(d->src1, bytes, 4, vm, &out->src1);
    /* In place is fine, a shifted overlap is not: its result would depend on the order of the elements. */
    if (status == VGPU_OK && out->dst != out->src0 && overlaps(out->dst, bytes, out->src0, bytes))
        status = VGPU_E_OVERLAP;
    if (status == VGPU_OK && two_sources && out->dst != out->src1 && overlaps(out->dst, bytes, out->src1, bytes))
        status = VGPU_E_OVERLAP;
    return status;
}

static uint16_t check_vector_add(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    return check_elementwise(d, vm, out, true);
}

static uint16_t check_axpy(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    out->arg[0] = d->arg[0];
    return check_elementwise(d, vm, out, false);
}

static uint16_t check_reduce(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint64_t bytes = span(d->n, 4);

    if (d->n == 0 && d->sub != VGPU_REDUCE_SUM)
        return VGPU_E_ARG; /* no smallest or largest of nothing */
    uint16_t status = resolve(d->dst, 4, 4, vm, &out->dst);
    if (status == VGPU_OK)
        status = resolve(d->src0, bytes, 4, vm, &out->src0);
    if (status == VGPU_OK && overlaps(out->dst, 4, out->src0, bytes))
        status = VGPU_E_OVERLAP;
    return status;
}

static uint16_t check_gemm(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint64_t m = d->arg[0], n = d->n, k = d->arg[1];
    uint32_t element = d->dtype == VGPU_BF16 ? 2 : 4;

    if (m > VGPU_GEMM_DIM_MAX || n > VGPU_GEMM_DIM_MAX || k > VGPU_GEMM_DIM_MAX)
        return VGPU_E_ARG;
    uint64_t a = m * k * element, b = k * n * element, c = m * n * 4; /* below 2^42 each */
    uint16_t status = resolve(d->dst, c, 4, vm, &out->dst);
    if (status == VGPU_OK)
        status = resolve(d->src0, a, element, vm, &out->src0);
    if (status == VGPU_OK)
        status = resolve(d->src1, b, element, vm, &out->src1);
    if (status == VGPU_OK && (overlaps(out->dst, c, out->src0, a) || overlaps(out->dst, c, out->src1, b)))
        status = VGPU_E_OVERLAP;
    out->n = vgpu_gemm_pack((uint32_t)m, (uint32_t)n, (uint32_t)k);
    out->arg[0] = d->arg[2];
    out->arg[1] = d->arg[3];
    return status;
}

static uint16_t check_debug(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    if (d->sub == VGPU_DEBUG_STALL && d->arg[0] > 60u * 1000000u)
        return VGPU_E_ARG;
    out->arg[0] = d->arg[0];
    return d->n == 0 ? VGPU_OK : VGPU_E_FLAGS;
}

/* ---- Programs: what they name exists or does not in the VM's worker; here only addresses and forms are judged. ---- */

/* The handle of a program or a tensor, with nothing behind it. */
static uint16_t program_handle(uint64_t ref, uint32_t *out)
{
    *out = VGPU_REF_HANDLE(ref);
    if (VGPU_REF_OFFSET(ref) != 0)
        return VGPU_E_ARG;
    return *out != 0 ? VGPU_OK : VGPU_E_HANDLE;
}

/* A place inside a tensor: any tensor is below 2^47 bytes. */
static uint16_t tensor_place(uint64_t ref, uint64_t bytes, uint32_t *handle, uint64_t *offset)
{
    *handle = VGPU_REF_HANDLE(ref);
    *offset = VGPU_REF_OFFSET(ref);
    if (*handle == 0)
        return VGPU_E_HANDLE;
    return *offset < VGPU_WREF_DEVICE && bytes < VGPU_WREF_DEVICE - *offset ? VGPU_OK : VGPU_E_RANGE;
}

static uint16_t resolve_arena(uint64_t ref, uint64_t bytes, uint32_t align, const struct vgpu_vm_view *vm, uint64_t *out)
{
    return VGPU_REF_HANDLE(ref) == VGPU_HANDLE_ARENA ? resolve(ref, bytes, align, vm, out) : VGPU_E_HANDLE;
}

static uint16_t check_program_load(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = program_handle(d->dst, &out->arg[0]);

    if (status == VGPU_OK && (d->n == 0 || d->n > VGPU_PROGRAM_BYTES_MAX))
        status = VGPU_E_ARG;
    out->dst = 0;
    return status == VGPU_OK ? resolve_arena(d->src0, d->n, 1, vm, &out->src0) : status;
}

static uint16_t check_program_free(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = program_handle(d->dst, &out->arg[0]);

    out->dst = 0;
    return status == VGPU_OK && d->n != 0 ? VGPU_E_FLAGS : status;
}

static uint16_t check_program_info(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = VGPU_OK;

    if (d->sub == VGPU_PROGRAM_SIGNATURE)
        status = program_handle(d->src0, &out->arg[0]);
    else if (d->src0 != 0)
        status = VGPU_E_FLAGS;
    out->src0 = 0;
    return status == VGPU_OK ? resolve_arena(d->dst, d->n, 8, vm, &out->dst) : status;
}

static uint16_t check_execute(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = program_handle(d->src0, &out->arg[0]);

    if (status == VGPU_OK && (d->n > VGPU_HANDLE_MAX || d->arg[0] > d->n))
        status = VGPU_E_ARG;
    out->src0 = 0;
    out->arg[1] = d->arg[0];
    return status == VGPU_OK ? resolve_arena(d->src1, 2 * d->n, 2, vm, &out->src1) : status;
}

static uint16_t check_buffer_put(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = tensor_place(d->dst, d->n, &out->arg[0], &out->dst);

    if (status == VGPU_OK && d->arg[0] > VGPU_TENSOR_RANK_MAX)
        status = VGPU_E_ARG;
    /* The shape comes with the first piece; one without dimensions is a single element. */
    if (status == VGPU_OK && (out->dst != 0 || d->arg[0] == 0) && (d->src1 | d->arg[0]) != 0)
        status = VGPU_E_FLAGS;
    if (status == VGPU_OK)
        status = resolve_arena(d->src0, d->n, 1, vm, &out->src0);
    out->arg[1] = d->arg[0];
    return status == VGPU_OK && d->arg[0] ? resolve_arena(d->src1, UINT64_C(8) * d->arg[0], 8, vm, &out->src1) : status;
}

static uint16_t check_buffer_get(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    uint16_t status = tensor_place(d->src0, d->n, &out->arg[0], &out->src0);

    return status == VGPU_OK ? resolve_arena(d->dst, d->n, 1, vm, &out->dst) : status;
}

#define F32 (1u << VGPU_F32)
#define BF16 (1u << VGPU_BF16)
#define ANY ((1u << VGPU_DTYPE_COUNT) - 1)

static const struct vgpu_opcode_info table[VGPU_OP_COUNT] = {
    /*                   name          dtypes      subs                 mask   barrier refs args check */
    [VGPU_OP_NOP]        = {"nop",        F32,        0,                   false, false, 0, 0, check_none},
    [VGPU_OP_FILL]       = {"fill",       F32,        0,                   false, false, 1, 1, check_fill},
    [VGPU_OP_COPY]       = {"copy",       F32,        0,                   false, false, 3, 0, check_copy},
    [VGPU_OP_MEM_ALLOC]  = {"mem-alloc",  F32,        0,                   false, true,  1, 0, check_alloc},
    [VGPU_OP_MEM_FREE]   = {"mem-free",   F32,        0,                   false, true,  1, 0, check_free},
    [VGPU_OP_VECTOR_ADD] = {"vector-add", F32,        0,                   false, false, 7, 0, check_vector_add},
    [VGPU_OP_AXPY]       = {"axpy",       F32,        0,                   false, false, 3, 1, check_axpy},
    [VGPU_OP_REDUCE]     = {"reduce",     F32,        VGPU_REDUCE_MAX,     false, false, 3, 0, check_reduce},
    [VGPU_OP_GEMM]       = {"gemm",       F32 | BF16, VGPU_GEMM_SUB_KNOWN, true,  false, 7, 4, check_gemm},
    [VGPU_OP_FENCE]      = {"fence",      F32,        0,                   false, true,  0, 0, check_none},
};
static const struct vgpu_opcode_info program_table[VGPU_OP_PROGRAM_COUNT] = {
    /*                                               name      dtypes subs              mask   barrier refs args check */
    [VGPU_OP_PROGRAM_LOAD - VGPU_OP_PROGRAM_FIRST] = {"program-load", F32, VGPU_PROGRAM_HLO, false, false, 3, 0,
                                                      check_program_load},
    [VGPU_OP_PROGRAM_FREE - VGPU_OP_PROGRAM_FIRST] = {"program-free", F32, 0, false, false, 1, 0, check_program_free},
    [VGPU_OP_PROGRAM_INFO - VGPU_OP_PROGRAM_FIRST] = {"program-info", F32, VGPU_PROGRAM_HOST, false, false, 3, 0,
                                                      check_program_info},
    [VGPU_OP_EXECUTE - VGPU_OP_PROGRAM_FIRST] = {"execute", F32, 0, false, false, 6, 1, check_execute},
    [VGPU_OP_BUFFER_PUT - VGPU_OP_PROGRAM_FIRST] = {"buffer-put", ANY, 0, false, false, 7, 1, check_buffer_put},
    [VGPU_OP_BUFFER_GET - VGPU_OP_PROGRAM_FIRST] = {"buffer-get", F32, 0, false, false, 3, 0, check_buffer_get},
    [VGPU_OP_BUFFER_FREE - VGPU_OP_PROGRAM_FIRST] = {"buffer-free", F32, 0, false, false, 1, 0, check_program_free},
};
static const struct vgpu_opcode_info debug_info = {"debug", F32, VGPU_DEBUG_DEVICE_FAULT, false, false, 0, 1, check_debug};

const struct vgpu_opcode_info *vgpu_opcode_info(uint8_t opcode)
{
    if (opcode < VGPU_OP_COUNT)
        return &table[index_within(opcode, VGPU_OP_COUNT)];
    if (vgpu_opcode_is_program(opcode))
        return &program_table[index_within((uint32_t)opcode - VGPU_OP_PROGRAM_FIRST, VGPU_OP_PROGRAM_COUNT)];
    return opcode == VGPU_OP_DEBUG ? &debug_info : NULL;
}

/* Bits that are set in fields which this opcode does not use. They must be 0, so that a later version can give them a
 * meaning. */
static inline uint64_t unused_bits(const struct vgpu_desc *d, const struct vgpu_opcode_info *info)
{
    static const uint64_t unused_arg[5][2] = { /* by how many are used; in pairs, little endian as all on the wire */
        {UINT64_MAX, UINT64_MAX}, {UINT64_MAX << 32, UINT64_MAX}, {0, UINT64_MAX}, {0, UINT64_MAX << 32}, {0, 0}};
    uint64_t arg[2];

    memcpy(arg, d->arg, sizeof(arg));
    return (info->refs & 1 ? 0 : d->dst) | (info->refs & 2 ? 0 : d->src0) | (info->refs & 4 ? 0 : d->src1) |
           (arg[0] & unused_arg[info->args][0]) | (arg[1] & unused_arg[info->args][1]);
}
VGPU_STATIC_ASSERT(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "descriptors are read as they lie");

static inline uint16_t validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    const struct vgpu_opcode_info *info = vgpu_opcode_info(d->opcode);

    /* Where debugging is off its opcode does not exist, whatever the other fields hold. */
    if (vgpu_unlikely(!info || (info == &debug_info && !vm->debug_ops)))
        return VGPU_E_OPCODE;
    if (vgpu_unlikely(d->flags & ~VGPU_DESC_FLAGS_KNOWN))
        return VGPU_E_FLAGS;
    if (vgpu_unlikely(d->dtype >= VGPU_DTYPE_COUNT || !(info->dtypes & (1u << d->dtype))))
        return VGPU_E_DTYPE;
    if (vgpu_unlikely(info->sub_is_mask ? (d->sub & ~info->subs) != 0 : d->sub > info->subs))
        return VGPU_E_FLAGS;
    if (vgpu_unlikely(unused_bits(d, info)))
        return VGPU_E_FLAGS;
    out->n = d->n;
    return info->check(d, vm, out);
}

VGPU_STATIC_ASSERT(offsetof(struct vgpu_work, tag) == offsetof(struct vgpu_desc, tag) &&
                       offsetof(struct vgpu_work, dst) == offsetof(struct vgpu_desc, dst) &&
                       offsetof(struct vgpu_work, sub) == offsetof(struct vgpu_desc, sub),
                   "a descriptor and a work item begin alike");

uint16_t vgpu_validate(const struct vgpu_desc *d, const struct vgpu_vm_view *vm, struct vgpu_work *out)
{
    memset(out, 0, sizeof(*out));
    /* Opcode, flags, dtype, sub and tag, as one word: what follows copies words. */
    memcpy(out, d, offsetof(struct vgpu_work, dst));
    uint16_t status = validate(d, vm, out);
    if (vgpu_unlikely(status != VGPU_OK)) {
        out->dst = out->src0 = out->src1 = out->n = 0;
        vgpu_work_set_status(out, status);
    }
    return status;
}

uint64_t vgpu_work_bytes(const struct vgpu_work *w)
{
    uint32_t m, n, k;

    switch (w->opcode) {
    case VGPU_OP_FILL:
    case VGPU_OP_MEM_ALLOC:
        return w->n;
    case VGPU_OP_COPY:
        return 2 * w->n;
    case VGPU_OP_PROGRAM_LOAD:
    case VGPU_OP_BUFFER_PUT:
    case VGPU_OP_BUFFER_GET:
        return w->n;
    case VGPU_OP_VECTOR_ADD:
    case VGPU_OP_AXPY:
        return 12 * w->n;
    case VGPU_OP_REDUCE:
        return 4 * w->n + 4;
    case VGPU_OP_GEMM:
        vgpu_gemm_unpack(w->n, &m, &n, &k);
        return ((uint64_t)m * k + (uint64_t)k * n) * (w->dtype == VGPU_BF16 ? 2 : 4) + (uint64_t)m * n * 4;
    default:
        return 0;
    }
}

uint32_t vgpu_dtype_bytes(uint8_t dtype)
{
    static const uint8_t bytes[VGPU_DTYPE_COUNT] = {
        [VGPU_F32] = 4, [VGPU_BF16] = 2, [VGPU_F16] = 2, [VGPU_F64] = 8,  [VGPU_S8] = 1,
        [VGPU_S16] = 2, [VGPU_S32] = 4,  [VGPU_S64] = 8, [VGPU_U8] = 1,   [VGPU_U16] = 2,
        [VGPU_U32] = 4, [VGPU_U64] = 8,  [VGPU_PRED] = 1, [VGPU_C64] = 8, [VGPU_C128] = 16,
    };

    return dtype < VGPU_DTYPE_COUNT ? bytes[dtype] : 0;
}

static const struct {
    const char *name, *text;
} statuses[VGPU_STATUS_COUNT] = {
    [VGPU_OK] = {"ok", "done"},
    [VGPU_E_OPCODE] = {"bad-opcode", "unknown opcode: this host does not serve it"},
    [VGPU_E_FLAGS] = {"bad-flags", "an unknown flag is set, or a field that this opcode does not use is not zero"},
    [VGPU_E_DTYPE] = {"bad-dtype", "this opcode does not take this data type"},
    [VGPU_E_HANDLE] = {"bad-handle", "no buffer has this handle: it was never allocated, was freed, or is another VM's"},
    [VGPU_E_RANGE] = {"bad-range", "offset and length reach outside the buffer"},
    [VGPU_E_ALIGN] = {"bad-alignment", "offset or length is not a multiple of the element size"},
    [VGPU_E_ARG] = {"bad-argument", "an argument is outside what this opcode takes"},
    [VGPU_E_OVERLAP] = {"overlap", "source and destination overlap"},
    [VGPU_E_NOMEM] = {"no-memory", "device memory quota of this VM is used up, or no free range is large enough"},
    [VGPU_E_EXISTS] = {"handle-in-use", "this handle names a buffer already: free it first or choose another"},
    [VGPU_E_CANCELLED] = {"cancelled", "cancelled before it ran"},
    [VGPU_E_TIMEOUT] = {"timed-out", "did not finish within its deadline"},
    [VGPU_E_LOST] = {"lost", "the device, its executor or the daemon died: it may or may not have run"},
    [VGPU_E_FAULT] = {"memory-fault", "the guest's own memory was not there (hole punched, or no hugepage left)"},
    [VGPU_E_BACKEND] = {"backend-error", "the device failed this operation"},
    [VGPU_E_UNSUPPORTED] = {"unsupported", "this device does not have this operation"},
};

const char *vgpu_status_name(uint16_t status)
{
    return status < VGPU_STATUS_COUNT ? statuses[status].name : "unknown-status";
}

const char *vgpu_status_text(uint16_t status)
{
    return status < VGPU_STATUS_COUNT ? statuses[status].text : "a status that this version does not know";
}
