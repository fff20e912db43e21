/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fault-injecting decorator, "fault:NAME": the backend NAME, with VGPU_OP_DEBUG served and with faults made to
 * order. It is how the rest of the system is tested against a device that fails, stalls, hangs or dies.
 *
 * It fetches finished operations from the inner backend one at a time. The inner backend gives a DEBUG operation its
 * turn and hands it back as unsupported; at that moment nothing after it has run, so the fault takes place exactly
 * where the operation stands in the order. While the device is stalled the inner backend is not polled: it does
 * nothing.
 *
 * Options, comma separated; N counts from 1, 0 is off:
 *   fail_every=N          every Nth finished operation reports BACKEND_ERROR (it did run)
 *   stall_every=N         at every Nth finished operation the device stands still for
 *   stall_us=U            U microseconds before that operation is handed back
 *   eagain_every=N        every Nth submit is refused with -EAGAIN
 *   open_fails=1          open fails with -EIO
 *   open_ms=M             open takes M milliseconds, like a driver that loads its kernels
 *   region_fails_every=N  every Nth region_add fails with -ENOMEM
 *   region_add_ms=M       region_add takes M milliseconds, like a driver that registers a large arena
 *   engine_must=N         region_add fails with -EINVAL for a VM whose engine (enum vgpu_engine) is not N
 *   bounced=1             region_bounced() is true for every VM
 *   lost_after=N          after N finished operations nothing completes and lost() is true
 *   probe_fails=1         probe fails with -ENODEV
 * Any other option goes to the inner backend.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "pmd-gpu/backend.h"

#define POLL_BUDGET_NS 50000u
#define OPTIONS_BYTES  512u
#define ENGINE_ANY     UINT64_MAX

struct vgpu_fault {
    const struct vgpu_backend_ops *inner_ops;
    struct vgpu_backend *inner;
    struct vgpu_op *held; /* taken from the inner backend, handed back at held_until_ns */
    uint64_t held_until_ns;
    bool hung;
    bool is_lost;
    const char *lost_text;
    uint64_t finished, submits;
    /* control thread */
    uint64_t region_adds;
    enum vgpu_engine engine; /* of the VM whose region comes next */
    /* options */
    uint64_t fail_every, stall_every, stall_us, eagain_every, open_fails, open_ms, region_fails_every, region_add_ms, engine_must,
        bounced, lost_after, probe_fails;
    char inner_options[OPTIONS_BYTES];
};

static struct vgpu_fault *fault_of(struct vgpu_backend *b)
{
    return (struct vgpu_fault *)b;
}

/* Consumes one "key=value" if the key is ours. 1: ours, 0: not ours, -EINVAL. */
static int option_take(struct vgpu_fault *f, const char *item, struct vgpu_err *err)
{
    const struct {
        const char *key;
        uint64_t *value;
    } ours[] = {
        {"fail_every", &f->fail_every}, {"stall_every", &f->stall_every},
        {"stall_us", &f->stall_us},     {"eagain_every", &f->eagain_every},
        {"open_ms", &f->open_ms},       {"open_fails", &f->open_fails}, {"region_fails_every", &f->region_fails_every},
        {"region_add_ms", &f->region_add_ms}, {"engine_must", &f->engine_must},
        {"bounced", &f->bounced},       {"lost_after", &f->lost_after},
        {"probe_fails", &f->probe_fails},
    };
    size_t key_len = strcspn(item, "=");

    for (size_t i = 0; i < sizeof(ours) / sizeof(ours[0]); i++) {
        if (strlen(ours[i].key) != key_len || strncmp(item, ours[i].key, key_len) != 0)
            continue;
        const char *text = item[key_len] ? item + key_len + 1 : "";
        char *end;
        errno = 0;
        unsigned long long v = strtoull(text, &end, 10);
        if (text[0] < '0' || text[0] > '9' || *end || errno || v > 1000000000u)
            return vgpu_err_set(err, EINVAL, "backend fault: %s needs a number of 0..10^9, got \"%s\"", ours[i].key,
                                text);
        *ours[i].value = v;
        return 1;
    }
    return 0;
}

static int options_parse(struct vgpu_fault *f, const char *options, struct vgpu_err *err)
{
    char copy[OPTIONS_BYTES];
    char *save = NULL;

    f->engine_must = ENGINE_ANY;
    if (strlen(options) >= sizeof(copy))
        return vgpu_err_set(err, EINVAL, "backend fault: options longer than %u characters", OPTIONS_BYTES - 1);
    strcpy(copy, options);
    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        int rc = option_take(f, item, err);
        if (rc < 0)
            return rc;
        if (rc == 0) { /* the parts together are no longer than the whole: no overflow */
            if (f->inner_options[0])
                strcat(f->inner_options, ",");
            strcat(f->inner_options, item);
        }
    }
    return 0;
}

static void take_ms(uint64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

static int fault_probe(const struct vgpu_backend_ops *inner_ops, const char *options, char *what, size_t bytes,
                       struct vgpu_err *err)
{
    struct vgpu_fault f = {0};
    int rc = options_parse(&f, options, err);

    if (rc < 0)
        return rc;
    if (f.probe_fails)
        return vgpu_err_set(err, ENODEV, "backend fault: the probe fails as asked for by probe_fails");
    snprintf(what, bytes, "faults over %s", inner_ops->name);
    return inner_ops->probe ? inner_ops->probe(f.inner_options, what, bytes, err) : 0;
}

static int fault_null_probe(const char *options, char *what, size_t bytes, struct vgpu_err *err)
{
    return fault_probe(&vgpu_backend_null, options, what, bytes, err);
}

static int fault_cpu_probe(const char *options, char *what, size_t bytes, struct vgpu_err *err)
{
    return fault_probe(&vgpu_backend_cpu, options, what, bytes, err);
}

static int fault_open(const struct vgpu_backend_ops *inner_ops, const struct vgpu_backend_config *config,
                      struct vgpu_backend **out, struct vgpu_err *err)
{
    struct vgpu_fault *f = calloc(1, sizeof(*f));

    if (!f)
        return vgpu_err_set(err, ENOMEM, "backend fault: no memory");
    f->inner_ops = inner_ops;
    int rc = options_parse(f, config->options ? config->options : "", err);
    if (rc < 0)
        goto err_free;
    if (f->open_fails) {
        rc = vgpu_err_set(err, EIO, "backend fault: open fails as asked for by open_fails");
        goto err_free;
    }
    take_ms(f->open_ms);
    struct vgpu_backend_config inner_config = *config;
    inner_config.options = f->inner_options;
    rc = inner_ops->open(&inner_config, &f->inner, err);
    if (rc < 0)
        goto err_free;
    *out = (struct vgpu_backend *)f;
    return 0;

err_free:
    free(f);
    return rc;
}

static int fault_null_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    return fault_open(&vgpu_backend_null, config, out, err);
}

static int fault_cpu_open(const struct vgpu_backend_config *config, struct vgpu_backend **out, struct vgpu_err *err)
{
    return fault_open(&vgpu_backend_cpu, config, out, err);
}

static void fault_close(struct vgpu_backend *b)
{
    struct vgpu_fault *f = fault_of(b);

    f->inner_ops->close(f->inner);
    free(f);
}

static int fault_region_add(struct vgpu_backend *b, uint32_t vm, void *arena, uint64_t arena_bytes, int fd,
                            uint64_t fd_offset, struct vgpu_err *err)
{
    struct vgpu_fault *f = fault_of(b);
    enum vgpu_engine engine = f->engine;

    f->engine = VGPU_ENGINE_AUTO;
    f->region_adds++;
    take_ms(f->region_add_ms);
    if (f->engine_must != ENGINE_ANY && engine != f->engine_must)
        return vgpu_err_set(err, EINVAL, "backend fault: engine %d where engine_must wants %" PRIu64, (int)engine,
                            f->engine_must);
    if (f->region_fails_every && f->region_adds % f->region_fails_every == 0)
        return vgpu_err_set(err, ENOMEM, "backend fault: region %" PRIu64 " fails as asked for", f->region_adds);
    return f->inner_ops->region_add(f->inner, vm, arena, arena_bytes, fd, fd_offset, err);
}

static void fault_region_del(struct vgpu_backend *b, uint32_t vm)
{
    struct vgpu_fault *f = fault_of(b);

    f->inner_ops->region_del(f->inner, vm);
}

static void fault_region_engine(struct vgpu_backend *b, uint32_t vm, enum vgpu_engine engine)
{
    struct vgpu_fault *f = fault_of(b);

    f->engine = engine;
    if (f->inner_ops->region_engine)
        f->inner_ops->region_engine(f->inner, vm, engine);
}

static bool fault_region_bounced(struct vgpu_backend *b, uint32_t vm)
{
    struct vgpu_fault *f = fault_of(b);

    return f->bounced || (f->inner_ops->region_bounced && f->inner_ops->region_bounced(f->inner, vm));
}

static int fault_submit(struct vgpu_backend *b, struct vgpu_op *op)
{
    struct vgpu_fault *f = fault_of(b);

    f->submits++;
    if (f->eagain_every && f->submits % f->eagain_every == 0)
        return -EAGAIN;
    return f->inner_ops->submit(f->inner, op);
}

static void hold(struct vgpu_fault *f, struct vgpu_op *op, uint64_t us)
{
    f->held = op;
    f->held_until_ns = vgpu_now_ns() + us * 1000u;
}

static void lose(struct vgpu_fault *f, const char *why)
{
    f->is_lost = true;
    f->lost_text = why;
}

/* Applies what is due to an operation that just had its turn. False: it is not handed back now. */
static bool fault_apply(struct vgpu_fault *f, struct vgpu_op *op)
{
    /* A status that the poll core gave stands: that operation is a refusal on its way back. One that was cancelled had no
     * turn. */
    bool debug = op->work.opcode == VGPU_OP_DEBUG && vgpu_work_status(&op->work) == VGPU_OK &&
                 op->status != VGPU_E_CANCELLED;

    f->finished++;
    if (debug) {
        op->status = VGPU_OK;
        switch (op->work.sub) {
        case VGPU_DEBUG_STALL:
            hold(f, op, op->work.arg[0]);
            return false;
        case VGPU_DEBUG_FAIL:
            op->status = VGPU_E_BACKEND;
            break;
        case VGPU_DEBUG_CRASH:
            raise(SIGKILL);
            break;
        case VGPU_DEBUG_HANG:
            f->hung = true;
            return false;
        case VGPU_DEBUG_DEVICE_FAULT:
            lose(f, "a DEVICE_FAULT operation broke it");
            return false;
        default:
            op->status = VGPU_E_UNSUPPORTED;
        }
    }
    if (f->lost_after && f->finished > f->lost_after) {
        lose(f, "as asked for by lost_after");
        return false;
    }
    if (f->fail_every && f->finished % f->fail_every == 0) {
        op->status = VGPU_E_BACKEND;
        op->value = 0;
    }
    if (f->stall_every && f->finished % f->stall_every == 0) {
        hold(f, op, f->stall_us);
        return false;
    }
    return true;
}

static uint32_t fault_poll(struct vgpu_backend *b, struct vgpu_op **done, uint32_t max)
{
    struct vgpu_fault *f = fault_of(b);
    uint32_t got = 0;

    if (f->hung || f->is_lost || max == 0)
        return 0;
    uint64_t start = vgpu_now_ns(), now = start;
    if (f->held) {
        if (now < f->held_until_ns)
            return 0;
        done[got++] = f->held;
        f->held = NULL;
    }
    while (got < max && now - start < POLL_BUDGET_NS) {
        struct vgpu_op *op;
        if (f->inner_ops->poll(f->inner, &op, 1) == 0)
            break;
        if (!fault_apply(f, op))
            break;
        done[got++] = op;
        now = vgpu_now_ns();
    }
    return got;
}

static bool fault_lost(struct vgpu_backend *b)
{
    struct vgpu_fault *f = fault_of(b);

    return f->is_lost || (f->inner_ops->lost && f->inner_ops->lost(f->inner));
}

static const char *fault_lost_reason(struct vgpu_backend *b)
{
    struct vgpu_fault *f = fault_of(b);

    if (f->is_lost)
        return f->lost_text;
    return f->inner_ops->lost_reason ? f->inner_ops->lost_reason(f->inner) : NULL;
}

static void fault_cancel(struct vgpu_backend *b, uint32_t vm)
{
    struct vgpu_fault *f = fault_of(b);

    if (f->inner_ops->cancel)
        f->inner_ops->cancel(f->inner, vm);
}

static void fault_wipe(struct vgpu_backend *b, uint64_t heap_off, uint64_t bytes)
{
    struct vgpu_fault *f = fault_of(b);

    if (f->inner_ops->wipe)
        f->inner_ops->wipe(f->inner, heap_off, bytes);
}

#define FAULT_OPS(inner)                                                                                               \
    {                                                                                                                  \
        .size = sizeof(struct vgpu_backend_ops), .name = "fault:" #inner, .queues_free = true,                         \
        .open = fault_##inner##_open,                                                                                  \
        .close = fault_close, .region_add = fault_region_add, .region_del = fault_region_del, .submit = fault_submit,  \
        .poll = fault_poll, .lost = fault_lost, .cancel = fault_cancel, .wipe = fault_wipe,                            \
        .region_engine = fault_region_engine, .region_bounced = fault_region_bounced, .probe = fault_##inner##_probe,  \
        .lost_reason = fault_lost_reason,                                                                              \
    }

const struct vgpu_backend_ops vgpu_backend_fault_null = FAULT_OPS(null);
const struct vgpu_backend_ops vgpu_backend_fault_cpu = FAULT_OPS(cpu);
