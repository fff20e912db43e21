/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin, opened by this process itself; the way of least cost that we know: no events made that nobody looks at, and a
 * callback that sets a word, which is polled. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/programs/overhead.h"
#include "guest-lib/examples/common.h"
#include "pmd-gpu/programs/pjrt.h"

static struct {
    struct pjrt pjrt;
    struct pjrt_program program;
    PJRT_Buffer **args;
    uint32_t n;
    struct slot {
        PJRT_Buffer **out;
        PJRT_Event *event;
        PJRT_Error *error;
        atomic_int ready; /* the callback's word: release, acquired by who polls */
        bool busy;
    } slot[OVERHEAD_DEPTH_MAX];
    struct vgpu_tensor shape;
    void *copy;
} d;

static int failed(PJRT_Error *error, const char *what)
{
    char text[512];

    if (!pjrt_failed(&d.pjrt, error, what, text, sizeof(text)))
        return 0;
    fprintf(stderr, "native: %s\n", text);
    return -EIO;
}

static void ready(PJRT_Error *error, void *arg)
{
    struct slot *s = arg;

    s->error = error;
    atomic_store_explicit(&s->ready, 1, memory_order_release);
}

static int watch(struct slot *s, PJRT_Event *event)
{
    s->event = event;
    atomic_store_explicit(&s->ready, 0, memory_order_relaxed); /* before the callback can be called */
    return failed(pjrt_event_watch(&d.pjrt, event, ready, s), "event");
}

static int slot_await(struct slot *s)
{
    while (!atomic_load_explicit(&s->ready, memory_order_acquire))
        __builtin_ia32_pause();
    pjrt_event_free(&d.pjrt, s->event);
    return failed(s->error, "execution");
}

static int put(const struct vgpu_tensor *t, const void *data, PJRT_Buffer **out)
{
    struct vgpu_tensor_info shape = {.dtype = t->dtype, .rank = t->rank};
    PJRT_Event *event = NULL;

    memcpy(shape.dims, t->dims, sizeof(shape.dims));
    int rc = failed(pjrt_put(&d.pjrt, data, &shape, out, &event), "put");
    rc = rc ? rc : watch(&d.slot[0], event);
    return rc ? rc : slot_await(&d.slot[0]);
}

static int native_open(const char *bundle, const char *plugin, const char *client)
{
    enum vgpu_program_format format;
    struct vgpu_err err = {0};
    struct ex_file code;
    char text[512];
    int rc = pjrt_open(&d.pjrt, plugin, client, &err);

    if (rc) {
        fprintf(stderr, "native: %s\n", err.text);
        return rc;
    }
    rc = ex_program_open(bundle, &format, &code);
    if (rc)
        return rc;
    if (pjrt_compile(&d.pjrt, format == VGPU_HLO ? "hlo" : "mlir", code.data, code.bytes, &d.program, text, sizeof(text))) {
        fprintf(stderr, "native: %s\n", text);
        rc = -EIO;
    }
    ex_file_close(&code);
    return rc;
}

static int native_put(const struct overhead_bundle *b)
{
    uint32_t n = b->weights.count + b->n_in;
    int rc = 0;

    d.n = n;
    d.args = calloc(n + 1, sizeof(*d.args));
    if (!d.args)
        return -ENOMEM;
    for (uint32_t i = 0; i < OVERHEAD_DEPTH_MAX; i++)
        if (!(d.slot[i].out = calloc(d.program.outputs + 1, sizeof(*d.slot[i].out))))
            return -ENOMEM;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        bool weight = i < b->weights.count;
        uint32_t at = weight ? i : i - b->weights.count;
        const struct ex_tensors *t = weight ? &b->weights : &b->inputs;
        rc = put(&t->shape[at], t->data[at], &d.args[b->inputs_first ? (i + b->n_in) % n : i]);
    }
    return rc;
}

static int slot_start(struct slot *s)
{
    PJRT_Event *event = NULL;
    int rc = failed(pjrt_execute(&d.pjrt, &d.program, d.args, d.n, s->out, &event), "execute");

    rc = rc ? rc : watch(s, event);
    s->busy = rc == 0;
    return rc;
}

static void slot_end(struct slot *s)
{
    s->busy = false;
    for (uint32_t i = 0; i < d.program.outputs; i++)
        pjrt_buffer_free(&d.pjrt, s->out[i]);
}

static int native_once(uint64_t *ns)
{
    uint64_t from = ex_now_ns();
    int rc = slot_start(&d.slot[0]);

    rc = rc ? rc : slot_await(&d.slot[0]);
    *ns = ex_now_ns() - from;
    slot_end(&d.slot[0]);
    return rc;
}

static int native_load(double seconds, uint32_t depth, double *per_s)
{
    uint64_t from = ex_now_ns(), done = 0, limit = (uint64_t)(seconds * 1e9);
    uint32_t oldest = 0, left = 0;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < depth; i++, left++)
        rc = slot_start(&d.slot[i]);
    while (rc == 0 && left) {
        struct slot *s = &d.slot[oldest];
        rc = slot_await(s);
        bool more = ex_now_ns() - from < limit;
        done += more;
        slot_end(s);
        if (rc == 0 && more)
            rc = slot_start(s);
        else
            left--;
        oldest = (oldest + 1) % depth;
    }
    *per_s = (double)done / seconds;
    return rc;
}

static uint32_t native_outputs(void)
{
    return d.program.outputs;
}

static int native_output(uint32_t i, const struct vgpu_tensor **shape, void **data)
{
    const struct vgpu_tensor_info *info = &d.program.output[i];
    uint64_t bytes = pjrt_tensor_bytes(info);
    PJRT_Event *event = NULL;
    int rc = slot_start(&d.slot[0]);

    rc = rc ? rc : slot_await(&d.slot[0]);
    free(d.copy);
    d.copy = malloc(bytes + 1);
    rc = rc ? rc : d.copy ? failed(pjrt_get(&d.pjrt, d.slot[0].out[i], info, d.copy, bytes, &event), "get") : -ENOMEM;
    rc = rc ? rc : watch(&d.slot[0], event);
    rc = rc ? rc : slot_await(&d.slot[0]);
    slot_end(&d.slot[0]);
    d.shape = (struct vgpu_tensor){.dtype = info->dtype, .rank = info->rank, .bytes = bytes};
    *shape = &d.shape;
    *data = d.copy;
    return rc;
}

const struct overhead_side overhead_native = {.name = "native", .open = native_open, .put = native_put, .once = native_once,
                                              .load = native_load, .output = native_output, .outputs = native_outputs};
