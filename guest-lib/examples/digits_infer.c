/* SPDX-License-Identifier: Apache-2.0 */
/* Handwritten digits on the device: each layer of a network is one descriptor. */
#include "guest-lib/examples/digits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Buffers for one batch of images. The hidden layer never leaves the device if the VM has device memory. */
struct lab {
    struct vgpu_buffer stage, w1, w2, x, hidden, out;
    uint32_t rows;
    bool on_device;
};

static void lab_close(struct vgpu *v, struct lab *l)
{
    struct vgpu_buffer *device[] = {&l->w1, &l->w2, &l->hidden};

    for (unsigned i = 0; i < 3; i++) {
        if (device[i]->host_ptr)
            vgpu_arena_free(v, device[i]);
        else if (device[i]->handle)
            vgpu_device_free(v, device[i]);
    }
    vgpu_arena_free(v, &l->stage);
    vgpu_arena_free(v, &l->x);
    vgpu_arena_free(v, &l->out);
    memset(l, 0, sizeof(*l));
}

static int lab_try(struct vgpu *v, struct lab *l, uint32_t rows, bool on_device)
{
    int (*alloc)(struct vgpu *, uint64_t, struct vgpu_buffer *) = on_device ? vgpu_device_alloc : vgpu_arena_alloc;

    memset(l, 0, sizeof(*l));
    l->rows = rows;
    l->on_device = on_device;
    int rc = alloc(v, sizeof(((struct digits_net *)0)->w1), &l->w1);
    if (rc == 0)
        rc = alloc(v, sizeof(((struct digits_net *)0)->w2), &l->w2);
    if (rc == 0)
        rc = alloc(v, (uint64_t)rows * DIGITS_HIDDEN * 4, &l->hidden);
    if (rc == 0)
        rc = vgpu_arena_alloc(v, sizeof(struct digits_net), &l->stage);
    if (rc == 0)
        rc = vgpu_arena_alloc(v, (uint64_t)rows * DIGITS_IN * 4, &l->x);
    if (rc == 0)
        rc = vgpu_arena_alloc(v, (uint64_t)rows * DIGITS_OUT * 4, &l->out);
    if (rc < 0)
        lab_close(v, l);
    return rc;
}

/* As large a batch as fits, device memory if there is any. */
static int lab_open(struct vgpu *v, struct lab *l)
{
    int rc = -ENOMEM;

    for (uint32_t rows = 128; rc == -ENOMEM && rows >= 8; rows /= 2) {
        rc = lab_try(v, l, rows, true);
        if (rc == -ENOMEM)
            rc = lab_try(v, l, rows, false);
    }
    return rc;
}

int digits_run_plain(void *ctx, struct vgpu *v, struct vgpu_request *reqs, unsigned n)
{
    unsigned sent = 0, done = 0;

    while (done < n) {
        struct vgpu_completion c;
        int rc = sent < n ? vgpu_submit_burst(v, reqs + sent, n - sent, NULL) : 0;
        if (rc < 0 && rc != -EAGAIN)
            return rc;
        sent += rc > 0 ? (unsigned)rc : 0;
        rc = vgpu_wait(v, &c, 1, UINT64_MAX);
        if (rc < 0)
            return rc;
        if (rc == 1 && c.status != VGPU_OK) {
            fprintf(stderr, "descriptor %u failed: %s\n", c.tag, vgpu_status_string(c.status));
            return -EIO;
        }
        done += (unsigned)rc;
    }
    return 0;
}

/* Brings a fold's weights to where the GEMMs read them. */
static int load_net(struct vgpu *v, struct lab *l, const struct digits_net *net, digits_run_fn *run, void *ctx,
                    struct digits_result *out)
{
    if (!l->on_device) {
        memcpy(l->w1.host_ptr, net->w1, sizeof(net->w1));
        memcpy(l->w2.host_ptr, net->w2, sizeof(net->w2));
        return 0;
    }
    memcpy(l->stage.host_ptr, net, sizeof(*net));
    struct vgpu_request copies[2] = {
        {.opcode = VGPU_OP_COPY, .dst = l->w1, .src0 = l->stage, .n = sizeof(net->w1)},
        {.opcode = VGPU_OP_COPY, .dst = l->w2, .src0 = vgpu_buffer_at(&l->stage, offsetof(struct digits_net, w2)),
         .n = sizeof(net->w2)},
    };
    out->descriptors += 2;
    return run(ctx, v, copies, 2);
}

/* Two layers, two descriptors: the second sees what the first wrote, because a VM's descriptors run in order. */
static int infer_batch(struct vgpu *v, struct lab *l, const struct digits *d, const uint32_t *index, uint32_t rows,
                       digits_run_fn *run, void *ctx, struct digits_result *out)
{
    for (uint32_t r = 0; r < rows; r++)
        memcpy(ex_floats(&l->x) + r * DIGITS_IN, d->x[index[r]], sizeof(d->x[0]));
    struct vgpu_request layers[2] = {
        vgpu_req_gemm(&l->hidden, &l->x, &l->w1, rows, DIGITS_HIDDEN, DIGITS_IN, 1.0f, 0.0f, VGPU_GEMM_RELU, VGPU_F32),
        vgpu_req_gemm(&l->out, &l->hidden, &l->w2, rows, DIGITS_OUT, DIGITS_HIDDEN, 1.0f, 0.0f, 0, VGPU_F32),
    };
    out->descriptors += 2;
    int rc = run(ctx, v, layers, 2);
    for (uint32_t r = 0; rc == 0 && r < rows; r++) {
        const float *score = ex_floats(&l->out) + r * DIGITS_OUT;
        unsigned best = 0;
        for (unsigned o = 1; o < DIGITS_OUT; o++)
            if (score[o] > score[best])
                best = o;
        out->images++;
        out->correct += best == d->label[index[r]];
        out->differ += best != d->reference[index[r]];
    }
    return rc;
}

bool digits_infer(struct vgpu *v, const struct digits *d, digits_run_fn *run, void *ctx, struct digits_result *out)
{
    struct lab l;
    uint32_t index[128];

    memset(out, 0, sizeof(*out));
    int rc = lab_open(v, &l);
    for (uint32_t fold = 0; rc == 0 && fold < DIGITS_FOLDS; fold++) {
        uint32_t rows = 0;
        rc = load_net(v, &l, &d->net[fold], run, ctx, out);
        for (uint32_t i = 0; rc == 0 && i <= d->images; i++) {
            if (rows == l.rows || (i == d->images && rows)) {
                rc = infer_batch(v, &l, d, index, rows, run, ctx, out);
                rows = 0;
            }
            if (i < d->images && d->fold[i] == fold)
                index[rows++] = i;
        }
    }
    if (rc < 0)
        fprintf(stderr, "digits: %s\n", vgpu_strerror(v));
    else
        lab_close(v, &l);
    return rc == 0;
}
