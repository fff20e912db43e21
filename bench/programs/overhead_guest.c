/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/programs/overhead.h"
#include "guest-lib/examples/common.h"

#define TAG_FREE UINT32_MAX

static struct {
    struct vgpu *v;
    struct vgpu_program program;
    struct vgpu_tensor *put; /* weights and inputs */
    const struct vgpu_tensor **args;
    uint32_t n;
    struct slot {
        struct vgpu_buffer list;
        struct vgpu_tensor *out;
        bool busy;
    } slot[OVERHEAD_DEPTH_MAX];
    void *copy;
} g;

static int failed(int rc)
{
    fprintf(stderr, "guest: %s\n", vgpu_strerror(g.v));
    return rc;
}

static int guest_open(const char *bundle, const char *plugin, const char *client)
{
    (void)plugin;
    (void)client;
    g.v = ex_open();
    return g.v ? ex_program_load(g.v, bundle, &g.program) : -ENOTCONN;
}

static int guest_put(const struct overhead_bundle *b)
{
    uint32_t n = b->weights.count + b->n_in;

    g.put = calloc(n + 1, sizeof(*g.put));
    g.args = calloc(n + 1, sizeof(*g.args));
    if (!g.put || !g.args)
        return -ENOMEM;
    g.n = n;
    int rc = ex_tensors_put(g.v, &b->weights, 0, b->weights.count, g.put);
    rc = rc ? rc : ex_tensors_put(g.v, &b->inputs, 0, b->n_in, g.put + b->weights.count);
    for (uint32_t i = 0; i < n; i++)
        g.args[b->inputs_first ? (i + b->n_in) % n : i] = &g.put[i];
    for (uint32_t i = 0; rc == 0 && i < OVERHEAD_DEPTH_MAX; i++) {
        g.slot[i].out = calloc(g.program.outputs + 1, sizeof(*g.slot[i].out));
        rc = g.slot[i].out ? vgpu_arena_alloc(g.v, 2 * (n + (uint64_t)g.program.outputs) + 2, &g.slot[i].list) : -ENOMEM;
    }
    return rc;
}

static int guest_once(uint64_t *ns)
{
    struct vgpu_tensor *out = g.slot[0].out;
    uint64_t from = ex_now_ns();
    int rc = vgpu_program_execute(g.v, &g.program, g.args, g.n, out);

    *ns = ex_now_ns() - from;
    if (rc)
        return failed(rc);
    ex_tensors_free(g.v, out, g.program.outputs);
    return 0;
}

/* Starts an execution in this slot. */
static int slot_start(uint32_t i)
{
    struct vgpu_request r;
    int rc = vgpu_req_execute(g.v, &g.program, g.args, g.n, g.slot[i].out, &g.slot[i].list, &r);

    r.tag = i;
    rc = rc ? rc : vgpu_submit(g.v, &r, NULL);
    g.slot[i].busy = rc == 0;
    return rc;
}

/* Lets go of what it gave. Descriptors take effect in order: the handles are free for the next one that is submitted. */
static int slot_end(uint32_t i)
{
    g.slot[i].busy = false;
    for (uint32_t o = 0; o < g.program.outputs; o++) {
        struct vgpu_request r = {.opcode = VGPU_OP_BUFFER_FREE, .tag = TAG_FREE,
                                 .dst = {.handle = g.slot[i].out[o].handle}};
        int rc = vgpu_submit(g.v, &r, NULL);
        if (rc)
            return rc;
        vgpu_tensor_forget(g.v, &g.slot[i].out[o]);
    }
    return 0;
}

static int guest_load(double seconds, uint32_t depth, double *per_s)
{
    uint64_t from = ex_now_ns(), now = from, done = 0, limit = (uint64_t)(seconds * 1e9);
    struct vgpu_completion c[32];
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < depth; i++)
        rc = slot_start(i);
    while (rc == 0 && vgpu_outstanding(g.v)) {
        int n = vgpu_wait(g.v, c, 32, UINT64_MAX);
        now = ex_now_ns();
        for (int k = 0; k < n && rc == 0; k++) {
            if (c[k].status) {
                fprintf(stderr, "guest: %s\n", vgpu_status_string(c[k].status));
                rc = -EIO;
            } else if (c[k].tag != TAG_FREE) {
                done += now - from < limit;
                rc = slot_end(c[k].tag);
                if (rc == 0 && now - from < limit)
                    rc = slot_start(c[k].tag);
            }
        }
        rc = n < 0 ? n : rc;
    }
    *per_s = (double)done / seconds;
    return rc ? failed(rc) : 0;
}

static uint32_t guest_outputs(void)
{
    return g.program.outputs;
}

static int guest_output(uint32_t i, const struct vgpu_tensor **shape, void **data)
{
    struct vgpu_tensor *out = g.slot[0].out;
    int rc = vgpu_program_execute(g.v, &g.program, g.args, g.n, out);

    if (rc)
        return failed(rc);
    free(g.copy);
    g.copy = malloc(out[i].bytes + 1);
    rc = g.copy ? vgpu_tensor_get(g.v, &out[i], g.copy) : -ENOMEM;
    ex_tensors_free(g.v, out, g.program.outputs);
    *shape = &g.program.output[i];
    *data = g.copy;
    return rc ? failed(rc) : 0;
}

const struct overhead_side overhead_guest = {.name = "guest", .open = guest_open, .put = guest_put, .once = guest_once,
                                             .load = guest_load, .output = guest_output, .outputs = guest_outputs};
