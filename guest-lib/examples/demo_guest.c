/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-demo-guest: the work of one guest of the demo. Vector adds from 256 to 1 M floats, alone and in bursts, round
 * trips through device memory, GEMMs and handwritten digits, in rounds until the time is over; at least one whole
 * round. Every result is checked; latency is measured here, from submit to the completion in hand.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hist.h"
#include "guest-lib/examples/digits.h"

#define BURST 64u
#define PROGRESS_NS 250000000u

struct demo {
    struct vgpu *v;
    bool json;
    uint64_t start_ns, length_ns, next_progress_ns;
    uint64_t descriptors;
    struct vgpu_hist latency;
    struct ex_random random;
    struct digits digits;
    struct digits_result digits_total;
    bool whole_round;
    char wrong[300]; /* the first thing that was not right, or "" */
};

static bool failed(struct demo *d, const char *phase, const char *what)
{
    if (!d->wrong[0])
        snprintf(d->wrong, sizeof(d->wrong), "%s: %s", phase, what);
    return false;
}

static void progress(struct demo *d, const char *phase)
{
    uint64_t now = ex_now_ns();

    if (now < d->next_progress_ns)
        return;
    d->next_progress_ns = now + PROGRESS_NS;
    double share = (double)(now - d->start_ns) / (double)d->length_ns;
    share = share > 1 ? 1 : share;
    if (d->json)
        printf("{\"progress\":%.2f,\"descriptors\":%llu,\"phase\":\"%s\"}\n", share,
               (unsigned long long)d->descriptors, phase);
    else
        printf("%3.0f %%  %10llu descriptors  %s\n", 100 * share, (unsigned long long)d->descriptors, phase);
    fflush(stdout);
}

/* Time for more? The first round is always made whole. */
static bool more(const struct demo *d)
{
    return !d->whole_round || ex_now_ns() - d->start_ns < d->length_ns;
}

/* Submits at most BURST requests in order, waits for all of them, and records the latency of each. */
static int run(void *ctx, struct vgpu *v, struct vgpu_request *reqs, unsigned n)
{
    struct demo *d = ctx;
    uint64_t sent_ns[BURST];
    unsigned sent = 0, done = 0;

    if (n > BURST)
        return -EINVAL;
    for (unsigned i = 0; i < n; i++)
        reqs[i].tag = i;
    while (done < n) {
        struct vgpu_completion c[BURST];
        if (sent < n) {
            uint64_t now = ex_now_ns();
            int rc = vgpu_submit_burst(v, reqs + sent, n - sent, NULL);
            if (rc < 0 && rc != -EAGAIN)
                return rc;
            for (int i = 0; i < rc; i++)
                sent_ns[sent++] = now;
        }
        int rc = vgpu_wait(v, c, BURST, UINT64_MAX);
        if (rc < 0)
            return rc;
        uint64_t now = ex_now_ns();
        for (int i = 0; i < rc; i++) {
            if (c[i].status != VGPU_OK || c[i].tag >= sent) {
                failed(d, "completion", vgpu_status_string(c[i].status));
                return -EIO;
            }
            vgpu_hist_record(&d->latency, now - sent_ns[c[i].tag]);
        }
        done += (unsigned)rc;
        d->descriptors += (unsigned)rc;
    }
    return 0;
}

static bool run_checked(struct demo *d, const char *phase, struct vgpu_request *reqs, unsigned n)
{
    return run(d, d->v, reqs, n) == 0 || failed(d, phase, vgpu_strerror(d->v));
}

/* Three vectors of n floats, the first two random. False: the arena has not room for them. */
static bool vectors(struct demo *d, uint64_t n, struct vgpu_buffer out[3])
{
    memset(out, 0, 3 * sizeof(*out));
    for (int i = 0; i < 3; i++) {
        if (vgpu_arena_alloc(d->v, n * 4, &out[i]) < 0) {
            for (int j = 0; j < i; j++)
                vgpu_arena_free(d->v, &out[j]);
            return false;
        }
    }
    ex_random_fill(&d->random, ex_floats(&out[0]), n);
    ex_random_fill(&d->random, ex_floats(&out[1]), n);
    return true;
}

static void vectors_free(struct demo *d, struct vgpu_buffer b[3])
{
    for (int i = 0; i < 3; i++)
        vgpu_arena_free(d->v, &b[i]);
}

static bool sums_right(struct demo *d, const char *phase, const struct vgpu_buffer b[3], uint64_t from, uint64_t n)
{
    return ex_check_add(ex_floats(&b[2]) + from, ex_floats(&b[0]) + from, ex_floats(&b[1]) + from, n) == n ||
           failed(d, phase, "a sum is wrong");
}

/* One at a time, every size that fits. */
static bool phase_single(struct demo *d)
{
    bool good = true;

    for (uint64_t n = 256; good && n <= 1048576 && more(d); n *= 4) {
        struct vgpu_buffer b[3];
        if (!vectors(d, n, b))
            return n > 256 || failed(d, "vector-add", vgpu_strerror(d->v));
        for (int i = 0; good && i < (n < 65536 ? 32 : 2); i++) {
            struct vgpu_request r = vgpu_req_vector_add(&b[2], &b[0], &b[1], n);
            memset(b[2].host_ptr, 0, n * 4);
            good = run_checked(d, "vector-add", &r, 1) && sums_right(d, "vector-add", b, 0, n);
            progress(d, "vector-add");
        }
        vectors_free(d, b);
    }
    return good;
}

/* Many at once, each on its own part of the vectors. */
static bool phase_burst(struct demo *d)
{
    uint64_t n = 1024;
    struct vgpu_buffer b[3];
    struct vgpu_request r[BURST];
    bool good = true;

    while (!vectors(d, n * BURST, b))
        if ((n /= 2) == 0)
            return failed(d, "burst", vgpu_strerror(d->v));
    for (int round = 0; good && round < 16 && more(d); round++) {
        memset(b[2].host_ptr, 0, n * BURST * 4);
        for (unsigned i = 0; i < BURST; i++) {
            struct vgpu_buffer part[3];
            for (int k = 0; k < 3; k++)
                part[k] = vgpu_buffer_at(&b[k], i * n * 4);
            r[i] = vgpu_req_vector_add(&part[2], &part[0], &part[1], n);
        }
        good = run_checked(d, "burst", r, BURST) && sums_right(d, "burst", b, 0, n * BURST);
        progress(d, "burst");
    }
    vectors_free(d, b);
    return good;
}

/* y = a + b computed on the device, from copies there; then 0.5 a added; then its largest element. */
static bool device_round(struct demo *d, const struct vgpu_buffer b[3], struct vgpu_buffer dev[2], uint64_t n)
{
    float half = 0.5f;
    uint32_t half_bits;
    struct vgpu_buffer top = vgpu_buffer_at(&b[2], n * 4);

    memcpy(&half_bits, &half, sizeof(half_bits));
    struct vgpu_request r[] = {
        {.opcode = VGPU_OP_COPY, .dst = dev[0], .src0 = b[0], .n = n * 4},
        {.opcode = VGPU_OP_FILL, .dst = dev[1], .n = n * 4, .arg = {0}},
        vgpu_req_vector_add(&dev[1], &dev[1], &b[1], n),
        {.opcode = VGPU_OP_AXPY, .dst = dev[1], .src0 = dev[0], .n = n, .arg = {half_bits}},
        {.opcode = VGPU_OP_COPY, .dst = b[2], .src0 = dev[1], .n = n * 4},
        {.opcode = VGPU_OP_REDUCE, .sub = VGPU_REDUCE_MAX, .dst = top, .src0 = dev[1], .n = n},
    };
    if (!run_checked(d, "device", r, sizeof(r) / sizeof(r[0])))
        return false;
    const float *x = ex_floats(&b[0]), *y = ex_floats(&b[1]), *z = ex_floats(&b[2]);
    double largest = -1e30;
    for (uint64_t i = 0; i < n; i++) {
        double want = (double)y[i] + 0.5 * (double)x[i];
        double off = (double)z[i] - want;
        if (!(off < 3e-7 && off > -3e-7))
            return failed(d, "device", "a result is wrong");
        largest = (double)z[i] > largest ? (double)z[i] : largest;
    }
    return (double)z[n] == largest || failed(d, "device", "the largest element is wrong");
}

static bool phase_device(struct demo *d)
{
    const uint64_t n = 16384;
    struct vgpu_buffer b[3], dev[2] = {{0}};
    bool good = true;

    if (!vectors(d, n + 16, b))
        return true; /* a small arena: the other phases are its work */
    for (int i = 0; i < 2; i++) {
        int rc = vgpu_device_alloc(d->v, n * 4, &dev[i]);
        if (rc < 0 && rc != -ENOMEM)
            good = failed(d, "device", vgpu_strerror(d->v));
    }
    for (int i = 0; good && dev[0].handle && dev[1].handle && i < 8 && more(d); i++) {
        good = device_round(d, b, dev, n);
        progress(d, "device");
    }
    for (int i = 0; i < 2; i++)
        if (dev[i].handle && vgpu_device_free(d->v, &dev[i]) < 0)
            good = failed(d, "device", vgpu_strerror(d->v));
    vectors_free(d, b);
    return good;
}

static bool gemm_one(struct demo *d, uint32_t size, unsigned dtype, unsigned flags)
{
    uint64_t elements = (uint64_t)size * size;
    struct vgpu_buffer b[3];

    if (!vectors(d, elements, b))
        return true;
    if (dtype == VGPU_BF16) /* squeeze the floats in place, front to back */
        for (int i = 0; i < 2; i++)
            for (uint64_t e = 0; e < elements; e++)
                ((uint16_t *)b[i].host_ptr)[e] = ex_bf16(ex_floats(&b[i])[e]);
    struct vgpu_request r = vgpu_req_gemm(&b[2], &b[0], &b[1], size, size, size, 1.0f, 0.0f, flags, dtype);
    struct ex_gemm g = {.m = size, .n = size, .k = size, .flags = flags, .dtype = dtype, .alpha = 1.0f,
                        .a = b[0].host_ptr, .b = b[1].host_ptr};
    bool good = run_checked(d, "gemm", &r, 1);
    const char *wrong = good ? ex_check_gemm(&g, ex_floats(&b[2])) : NULL;
    if (wrong)
        good = failed(d, "gemm", wrong);
    vectors_free(d, b);
    progress(d, "gemm");
    return good;
}

static bool phase_gemm(struct demo *d)
{
    bool good = true;

    for (uint32_t size = 16; good && size <= 128 && more(d); size *= 2)
        for (unsigned dtype = VGPU_F32; good && dtype <= VGPU_BF16; dtype++)
            good = gemm_one(d, size, dtype, size % 3 == 1 ? VGPU_GEMM_TRANS_B : VGPU_GEMM_RELU);
    return good;
}

static bool phase_digits(struct demo *d)
{
    struct digits_result r;

    progress(d, "digits");
    if (!digits_infer(d->v, &d->digits, run, d, &r))
        return failed(d, "digits", vgpu_strerror(d->v));
    d->digits_total = r;
    if (r.images != d->digits.images || r.differ != 0)
        return failed(d, "digits", "predictions differ from the reference");
    return r.correct >= DIGITS_ACCURACY_MIN * r.images || failed(d, "digits", "accuracy is below 95 %");
}

static bool work(struct demo *d)
{
    bool (*const phases[])(struct demo *) = {phase_single, phase_burst, phase_device, phase_gemm, phase_digits};
    const unsigned count = sizeof(phases) / sizeof(phases[0]);

    while (more(d)) {
        for (unsigned i = 0; i < count && more(d); i++)
            if (!phases[i](d))
                return false;
        d->whole_round = true;
    }
    return true;
}

static void report(struct demo *d, const struct vgpu_properties *p, bool good)
{
    double seconds = (double)(ex_now_ns() - d->start_ns) / 1e9;
    const struct digits_result *g = &d->digits_total;
    double accuracy = g->images ? (double)g->correct / g->images : 0;
    double us[3] = {vgpu_hist_quantile(&d->latency, 0.50) / 1e3, vgpu_hist_quantile(&d->latency, 0.95) / 1e3,
                    vgpu_hist_quantile(&d->latency, 0.99) / 1e3};

    d->descriptors = d->v ? vgpu_submitted(d->v) : 0; /* those of the blocking calls too */
    if (!d->json) {
        printf("VM %u, pool %s, %s: %llu descriptors in %.1f s, p50 %.1f us, p95 %.1f us, p99 %.1f us, digits %.2f %%, "
               "%s\n",
               p->vm_id, p->pool, ex_priority_name(p->priority), (unsigned long long)d->descriptors, seconds, us[0],
               us[1], us[2], 100 * accuracy, good ? "all right" : "WRONG");
        return;
    }
    printf("{\"result\":{\"vm_id\":%u,\"pool\":", p->vm_id);
    ex_json_string(p->pool);
    printf(",\"priority\":\"%s\",\"descriptors\":%llu,\"seconds\":%.3f,\"throughput_per_s\":%.1f,\"p50_us\":%.2f,"
           "\"p95_us\":%.2f,\"p99_us\":%.2f,\"verified\":%s,\"digits\":{\"images\":%u,\"accuracy\":%.4f,"
           "\"matches_reference\":%s}", ex_priority_name(p->priority), (unsigned long long)d->descriptors, seconds,
           (double)d->descriptors / seconds, us[0], us[1], us[2], good ? "true" : "false", g->images, accuracy,
           g->images && g->differ == 0 ? "true" : "false");
    if (d->wrong[0]) {
        printf(",\"error\":");
        ex_json_string(d->wrong);
    }
    printf("}}\n");
}

static int usage(void)
{
    fprintf(stderr,
            "usage: vgpu-demo-guest [--seconds S] [--json] [--data FILE] [--weights FILE]\n"
            "Works for S seconds (default 5) and checks every result. The VM is named by VGPU_VM_ID, the host by\n"
            "VGPU_SOCKET, the token by VGPU_TOKEN_FILE.\n");
    return 2;
}

int main(int argc, char **argv)
{
    static struct demo d;
    const char *data = NULL, *weights = NULL;
    struct vgpu_properties p = {0};
    double seconds = 5;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            d.json = true;
        else if (strcmp(argv[i], "--seconds") == 0 && i + 1 < argc && (seconds = atof(argv[i + 1])) > 0 &&
                 seconds < 1e6)
            i++;
        else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc)
            data = argv[++i];
        else if (strcmp(argv[i], "--weights") == 0 && i + 1 < argc)
            weights = argv[++i];
        else
            return usage();
    }
    bool good = digits_load_data(&d.digits, digits_data_path(data)) &&
                digits_load_weights(&d.digits, digits_weights_path(weights)) && (d.v = ex_open()) != NULL;
    d.start_ns = ex_now_ns();
    d.length_ns = (uint64_t)(seconds * 1e9);
    if (good) {
        d.random.state = d.start_ns;
        good = vgpu_properties_get(d.v, &p) == 0 || failed(&d, "properties", vgpu_strerror(d.v));
        good = good && work(&d);
    } else {
        failed(&d, "start", "could not attach or load the digits; see standard error");
    }
    report(&d, &p, good);
    if (d.wrong[0])
        fprintf(stderr, "vgpu-demo-guest: %s\n", d.wrong);
    vgpu_close(d.v);
    digits_free(&d.digits);
    return good ? 0 : 1;
}
