/* SPDX-License-Identifier: Apache-2.0 */
/* Operands and results of a cell: one layout and one set of values for every side. */
#include "bench/peers/tenant.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES  ((uint64_t)8 << 20) /* of host memory that staged data passes through */
#define REFRESH_ALL  16384u              /* up to here all elements are written anew in each call */
#define REFRESH_STEP 1024u               /* above: one element of each page */
#define SLOTS_BYTES  ((uint64_t)32 << 20)
#define GEMM_SAMPLES 64u

static uint64_t align_up(uint64_t v)
{
    return (v + 255) & ~(uint64_t)255;
}

static uint64_t dim_bytes(uint64_t n, uint32_t element)
{
    return align_up(n * n * element);
}

/* ---- Values. All sums of these are exact in float32. ---- */
static inline float value_a(uint64_t i, uint64_t salt)
{
    return (float)((uint32_t)(i * 7 + salt) & 0xffff);
}
static inline float value_b(uint64_t i, uint64_t salt)
{
    return (float)((uint32_t)(i * 3 + 11 * salt) & 0xffff);
}
/* GEMM: multiples of 1/8 in [-1, 1), exact in bf16 too. */
static inline float value_gemm(uint64_t i, uint32_t which)
{
    uint32_t x = (uint32_t)(i + 1) * 2654435761u + which * 40503u;

    x ^= x >> 15;
    x *= 2246822519u;
    return ((float)((x >> 20) & 15) - 8.0f) / 8.0f;
}
static inline uint64_t value_copy(uint64_t word)
{
    return (word + 1) * UINT64_C(0x9e3779b97f4a7c15);
}
static uint16_t to_bf16(float v) /* exact for the values above */
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

/* ---- Layout ---- */
static bool in_host(const struct plan *p)
{
    return p->cell.op == TENANT_VADD || p->cell.op == TENANT_RESIDENT ? p->cell.data != TENANT_DEVICE : false;
}

static bool needs_device(const struct plan *p)
{
    return p->cell.op != TENANT_NOP && p->cell.op != TENANT_PINGPONG && p->cell.op != TENANT_CHURN &&
           (!in_host(p) || p->cell.data == TENANT_COPIED);
}

static int too_small(char *text, const char *what, uint64_t need, uint64_t have)
{
    snprintf(text, TENANT_TEXT_BYTES, "%s: %llu bytes are needed, there are %llu", what, (unsigned long long)need,
             (unsigned long long)have);
    return -ENOMEM;
}

int plan_make(struct plan *p, const struct side *s, const struct tenant_cell *cell, char *text)
{
    uint64_t n = cell->n, element = cell->bf16 ? 2 : 4;

    memset(p, 0, sizeof(*p));
    p->cell = *cell;
    p->slots = 1;
    p->step = n <= REFRESH_ALL ? 1 : REFRESH_STEP;
    switch (cell->op) {
    case TENANT_VADD:
    case TENANT_RESIDENT:
        p->bytes_ab = p->bytes_c = align_up(n * 4);
        break;
    case TENANT_GEMM:
        p->bytes_ab = dim_bytes(n, (uint32_t)element);
        p->bytes_c = dim_bytes(n, 4);
        break;
    case TENANT_COPY_H2D:
    case TENANT_COPY_D2H:
        p->bytes_ab = align_up(n);
        break;
    default:
        return 0;
    }
    p->b = p->bytes_ab;
    p->c = cell->op == TENANT_VADD || cell->op == TENANT_RESIDENT || cell->op == TENANT_GEMM ? 2 * p->bytes_ab : 0;
    p->stride = p->c ? p->c + p->bytes_c : p->bytes_ab;
    if (cell->slots)
        p->slots = cell->slots;
    else if (cell->op == TENANT_VADD)
        while (p->slots < cell->depth && p->slots < 64 && 2 * p->slots * p->stride <= SLOTS_BYTES)
            p->slots *= 2;
    uint64_t total = p->slots * p->stride;
    if (needs_device(p) && total > s->device_bytes)
        return too_small(text, "device memory", total, s->device_bytes);
    if ((in_host(p) || cell->op >= TENANT_COPY_H2D) && total > s->host_bytes)
        return too_small(text, "host memory", total, s->host_bytes);
    return s->host_bytes < CHUNK_BYTES ? too_small(text, "host memory", CHUNK_BYTES, s->host_bytes) : 0;
}

/* ---- Filling ---- */
typedef void fill_fn(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes);

static void fill_a(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes)
{
    float *f = to;

    for (uint64_t i = 0; i < bytes / 4; i++)
        f[i] = value_a(first_byte / 4 + i, 0);
}

static void fill_b(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes)
{
    float *f = to;

    for (uint64_t i = 0; i < bytes / 4; i++)
        f[i] = value_b(first_byte / 4 + i, 0);
}

static void fill_gemm(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes, uint32_t which)
{
    uint64_t element = p->cell.bf16 ? 2 : 4;

    for (uint64_t i = 0; i < bytes / element; i++) {
        float v = value_gemm(first_byte / element + i, which);
        if (p->cell.bf16)
            ((uint16_t *)to)[i] = to_bf16(v);
        else
            ((float *)to)[i] = v;
    }
}

static void fill_gemm_a(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes)
{
    fill_gemm(p, to, first_byte, bytes, 1);
}

static void fill_gemm_b(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes)
{
    fill_gemm(p, to, first_byte, bytes, 2);
}

static void fill_copy(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes)
{
    uint64_t *w = to;

    for (uint64_t i = 0; i < bytes / 8; i++)
        w[i] = value_copy(first_byte / 8 + i);
}

static void fill_poison(const struct plan *p, void *to, uint64_t first_byte, uint64_t bytes)
{
    memset(to, 0xff, bytes); /* NaN: no result */
}

/* Through the start of the host area: nothing else may live there. */
static int device_fill(const struct plan *p, struct side *s, uint64_t at, uint64_t bytes, fill_fn *fn)
{
    for (uint64_t done = 0; done < bytes; done += CHUNK_BYTES) {
        uint64_t part = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
        fn(p, s->host, done, part);
        int rc = s->ops->move(s, true, at + done, 0, part);
        if (rc)
            return rc;
    }
    return 0;
}

static void slots_fill(const struct plan *p, char *to)
{
    for (uint32_t k = 0; k < p->slots; k++, to += p->stride) {
        fill_a(p, to + p->a, 0, p->bytes_ab);
        fill_b(p, to + p->b, 0, p->bytes_ab);
        fill_poison(p, to + p->c, 0, p->bytes_c);
    }
}

static int load_vectors(const struct plan *p, struct side *s)
{
    uint64_t total = p->slots * p->stride;
    int rc = 0;

    if (in_host(p) || total <= CHUNK_BYTES) {
        slots_fill(p, s->host);
        return in_host(p) ? 0 : s->ops->move(s, true, 0, 0, total); /* in one piece: each may take a turn of the GPU */
    }
    for (uint32_t k = 0; k < p->slots && !rc; k++) {
        uint64_t at = k * p->stride;
        rc = device_fill(p, s, at + p->a, p->bytes_ab, fill_a);
        if (!rc)
            rc = device_fill(p, s, at + p->b, p->bytes_ab, fill_b);
        if (!rc)
            rc = device_fill(p, s, at + p->c, p->bytes_c, fill_poison);
    }
    return rc;
}

int plan_load(const struct plan *p, struct side *s)
{
    int rc;

    switch (p->cell.op) {
    case TENANT_VADD:
    case TENANT_RESIDENT:
        return load_vectors(p, s);
    case TENANT_GEMM:
        rc = device_fill(p, s, p->a, p->bytes_ab, fill_gemm_a);
        if (!rc)
            rc = device_fill(p, s, p->b, p->bytes_ab, fill_gemm_b);
        return rc ? rc : device_fill(p, s, p->c, p->bytes_c, fill_poison);
    case TENANT_COPY_H2D:
        rc = device_fill(p, s, 0, p->bytes_ab, fill_poison);
        fill_copy(p, s->host, 0, p->bytes_ab);
        return rc;
    case TENANT_COPY_D2H:
        rc = device_fill(p, s, 0, p->bytes_ab, fill_copy);
        memset(s->host, 0, p->bytes_ab);
        return rc;
    default:
        return 0;
    }
}

/* ---- Fresh data ---- */
void plan_refresh(const struct plan *p, struct side *s, uint64_t i)
{
    char *at = s->host + (i % p->slots) * p->stride;
    float *a = (float *)(at + p->a), *b = (float *)(at + p->b);

    if (p->step == 1) {
        for (uint64_t k = 0; k < p->cell.n; k++)
            a[k] = value_a(k, i);
        for (uint64_t k = 0; k < p->cell.n; k++)
            b[k] = value_b(k, i);
        return;
    }
    for (uint64_t k = 0; k < p->cell.n; k += p->step) {
        a[k] = value_a(k, i);
        b[k] = value_b(k, i);
    }
}

uint64_t plan_check_one(const struct plan *p, const struct side *s, uint64_t i)
{
    const float *c = (const float *)(s->host + (i % p->slots) * p->stride + p->c);
    uint32_t wrong = 0;

    if (p->step == 1) {
        for (uint64_t k = 0; k < p->cell.n; k++)
            wrong += c[k] != value_a(k, i) + value_b(k, i);
        return wrong;
    }
    for (uint64_t k = 0; k < p->cell.n; k += p->step)
        wrong += c[k] != value_a(k, i) + value_b(k, i);
    return wrong;
}

/* ---- Results ---- */
/* Fetches and checks piece by piece; returns the wrong ones or -errno. */
static int64_t device_check(const struct plan *p, struct side *s, uint64_t at, uint64_t bytes,
                            uint64_t (*check)(const struct plan *p, const void *from, uint64_t first_byte,
                                              uint64_t bytes))
{
    uint64_t wrong = 0;

    for (uint64_t done = 0; done < bytes; done += CHUNK_BYTES) {
        uint64_t part = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
        fill_poison(p, s->host, 0, part); /* what is not fetched must not look right */
        int rc = s->ops->move(s, false, at + done, 0, part);
        if (rc)
            return rc;
        wrong += check(p, s->host, done, part);
    }
    return (int64_t)wrong;
}

static uint64_t sums_wrong(const struct plan *p, const void *from, uint64_t first_byte, uint64_t bytes)
{
    const float *c = from;
    uint64_t first = first_byte / 4, count = bytes / 4, wrong = 0;

    if (first + count > p->cell.n)
        count = p->cell.n > first ? p->cell.n - first : 0;
    for (uint64_t i = 0; i < count; i++)
        wrong += c[i] != value_a(first + i, 0) + value_b(first + i, 0);
    return wrong;
}

static uint64_t copy_wrong(const struct plan *p, const void *from, uint64_t first_byte, uint64_t bytes)
{
    const uint64_t *w = from;
    uint64_t wrong = 0, end = first_byte + bytes < p->cell.n ? first_byte + bytes : p->cell.n;

    for (uint64_t i = 0; first_byte + (i + 1) * 8 <= end; i++)
        wrong += w[i] != value_copy(first_byte / 8 + i);
    return wrong;
}

/* The last operation of a slot wrote its salt into every step-th element; what lies between has none. */
static uint64_t host_check(const struct plan *p, const struct side *s, uint64_t ops)
{
    uint64_t wrong = 0;

    for (uint64_t i = ops > p->slots ? ops - p->slots : 0; i < ops; i++) {
        const float *c = (const float *)(s->host + (i % p->slots) * p->stride + p->c);
        for (uint64_t k = 0; k < p->cell.n; k++) {
            uint64_t salt = k % p->step ? 0 : i;
            wrong += c[k] != value_a(k, salt) + value_b(k, salt);
        }
    }
    return wrong;
}

/* Row and column of sample k, spread over the matrix. */
static int64_t gemm_check(const struct plan *p, struct side *s)
{
    uint64_t n = p->cell.n, wrong = 0, row_held = UINT64_MAX;

    for (uint32_t k = 0; k < GEMM_SAMPLES; k++) {
        uint64_t row = (k / 8) * (n - 1) / 7, column = (k % 8) * (n - 1) / 7;
        if (row != row_held) {
            fill_poison(p, s->host, 0, n * 4);
            int rc = s->ops->move(s, false, p->c + row * n * 4, 0, n * 4);
            if (rc)
                return rc;
            row_held = row;
        }
        double want = 0;
        for (uint64_t j = 0; j < n; j++)
            want += (double)value_gemm(row * n + j, 1) * (double)value_gemm(j * n + column, 2);
        double got = (double)((const float *)s->host)[column];
        wrong += !(fabs(got - want) <= 1e-5 * (double)n + 1e-5 * fabs(want));
    }
    return (int64_t)wrong;
}

/* All slots in one piece. */
static int64_t slots_check(const struct plan *p, struct side *s, uint64_t ops)
{
    uint64_t total = p->slots * p->stride, wrong = 0;

    fill_poison(p, s->host, 0, total);
    int rc = s->ops->move(s, false, 0, 0, total);
    if (rc)
        return rc;
    for (uint64_t k = 0; k < p->slots && k < ops; k++)
        wrong += sums_wrong(p, s->host + k * p->stride + p->c, 0, p->bytes_c);
    return (int64_t)wrong;
}

int64_t plan_check(const struct plan *p, struct side *s, uint64_t ops)
{
    int64_t wrong = 0;

    switch (p->cell.op) {
    case TENANT_VADD:
        if (in_host(p))
            return (int64_t)host_check(p, s, ops);
        if (p->slots * p->stride <= CHUNK_BYTES)
            return slots_check(p, s, ops);
        for (uint64_t k = 0; k < p->slots && k < ops; k++) {
            int64_t rc = device_check(p, s, k * p->stride + p->c, p->bytes_c, sums_wrong);
            if (rc < 0)
                return rc;
            wrong += rc;
        }
        return wrong;
    case TENANT_RESIDENT:
        return in_host(p) ? (int64_t)host_check(p, s, ops) : device_check(p, s, p->c, p->bytes_c, sums_wrong);
    case TENANT_GEMM:
        return gemm_check(p, s);
    case TENANT_COPY_H2D:
        return device_check(p, s, 0, p->bytes_ab, copy_wrong);
    case TENANT_COPY_D2H:
        return (int64_t)copy_wrong(p, s->host, 0, p->bytes_ab);
    default:
        return 0;
    }
}
