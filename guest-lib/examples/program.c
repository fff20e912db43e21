/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-program: runs a compiled program on the shared device, over and over, and compares each result with what is expected.
 * A bundle is a directory with
 *
 *   program.mlir or program.hlo   its parameters: the weights, then the inputs (or the other way, --inputs-first)
 *   weights.tensors               put once; may be missing
 *   inputs.tensors                the inputs of the first batch, of the second ...
 *   expected.tensors              the outputs of each batch, in the same order
 *
 * A request is what a service would do: put the inputs, execute, get the outputs.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "guest-lib/examples/common.h"
#include "guest-lib/examples/tensors.h"

#define TOLERANCE      1e-4
#define LATENCIES      (UINT64_C(1) << 20)
#define REST_MOST_NS   2e9
#define RECOVER_FOR_NS UINT64_C(120000000000)

struct job {
    const char *bundle, *latencies;
    bool json, recover, inputs_first;
    double seconds, tolerance, rest;
    uint64_t repeat;
    struct vgpu *v;
    struct vgpu_program program;
    struct ex_tensors weights, inputs, expected;
    uint32_t batches, n_in; /* inputs of one batch */
    struct vgpu_tensor *weight, *in, *out;
    const struct vgpu_tensor **args;
    void **got; /* [outputs] */
    /* What came of it. */
    uint64_t done, wrong, recovered, device_ns, elapsed_ns, load_ns, *latency_ns, *began_ns;
    double worst;
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
    (void)signal;
    stopped = 1;
}

static void result_check(struct job *j, uint32_t batch)
{
    bool good = true;

    for (uint32_t i = 0; i < j->program.outputs; i++) {
        uint32_t at = batch * j->program.outputs + i;
        double off = ex_tensor_difference(&j->program.output[i], j->got[i], j->expected.data[at]);
        j->worst = fmax(j->worst, off);
        good = good && off <= j->tolerance;
    }
    j->wrong += !good;
}

static int request(struct job *j, uint32_t batch)
{
    uint32_t n_out = j->program.outputs;
    int rc = ex_tensors_put(j->v, &j->inputs, batch * j->n_in, j->n_in, j->in);

    if (rc)
        return rc;
    rc = vgpu_program_execute(j->v, &j->program, j->args, j->weights.count + j->n_in, j->out);
    if (rc == 0)
        j->device_ns += vgpu_last_completion(j->v)->value;
    else
        fprintf(stderr, "%s\n", vgpu_strerror(j->v));
    for (uint32_t i = 0; rc == 0 && i < n_out; i++) {
        rc = vgpu_tensor_get(j->v, &j->out[i], j->got[i]);
        if (rc)
            fprintf(stderr, "%s\n", vgpu_strerror(j->v));
    }
    ex_tensors_free(j->v, j->out, n_out);
    memset(j->out, 0, n_out * sizeof(*j->out));
    ex_tensors_free(j->v, j->in, j->n_in);
    return rc;
}

/* Program and weights, onto the device. */
static int load(struct job *j)
{
    uint64_t from = ex_now_ns();
    int rc = ex_program_load(j->v, j->bundle, &j->program);

    if (rc == 0)
        rc = ex_tensors_put(j->v, &j->weights, 0, j->weights.count, j->weight);
    j->load_ns = ex_now_ns() - from;
    return rc;
}

static void unload(struct job *j)
{
    if (j->weight)
        ex_tensors_free(j->v, j->weight, j->weights.count);
    if (j->program.handle)
        vgpu_program_free(j->v, &j->program);
}

/* The process of the host that served this VM died: everything that was in it is loaded anew. */
static int recover(struct job *j)
{
    uint64_t from = ex_now_ns();
    int rc;

    do {
        unload(j);
        rc = load(j);
        if (rc)
            usleep(100000);
    } while (rc && ex_now_ns() - from < RECOVER_FOR_NS);
    j->recovered += rc == 0;
    return rc;
}

static int shapes_check(struct job *j)
{
    uint32_t n_out = j->program.outputs;

    j->batches = n_out ? j->expected.count / n_out : 0;
    j->n_in = j->batches ? j->inputs.count / j->batches : 0;
    bool fits = j->batches && j->batches * n_out == j->expected.count && j->batches * j->n_in == j->inputs.count;
    for (uint32_t i = 0; fits && i < j->expected.count; i++) {
        const struct vgpu_tensor *want = &j->expected.shape[i], *is = &j->program.output[i % n_out];
        fits = want->dtype == is->dtype && want->bytes == is->bytes;
    }
    if (!fits)
        fprintf(stderr, "%s: %u inputs and %u outputs are expected, but the program gives %u at a time, or other ones\n",
                j->bundle, j->inputs.count, j->expected.count, n_out);
    return fits ? 0 : -EINVAL;
}

static int prepare(struct job *j)
{
    int rc = ex_tensors_open(j->bundle, "weights.tensors", 1, &j->weights);

    rc = rc == -ENOENT ? 0 : rc;
    rc = rc ? rc : ex_tensors_open(j->bundle, "inputs.tensors", 0, &j->inputs);
    rc = rc ? rc : ex_tensors_open(j->bundle, "expected.tensors", 0, &j->expected);
    if (rc)
        return rc;
    j->weight = calloc(j->weights.count + 1, sizeof(*j->weight));
    if (!j->weight)
        return -ENOMEM;
    rc = load(j);
    rc = rc ? rc : shapes_check(j);
    if (rc)
        return rc;
    uint32_t n_out = j->program.outputs;
    j->in = calloc(j->n_in + 1, sizeof(*j->in));
    j->out = calloc(n_out + 1, sizeof(*j->out));
    j->args = calloc(j->weights.count + j->n_in + 1, sizeof(*j->args));
    j->got = calloc(n_out + 1, sizeof(*j->got));
    j->latency_ns = calloc(LATENCIES, sizeof(*j->latency_ns));
    j->began_ns = calloc(LATENCIES, sizeof(*j->began_ns));
    if (!j->in || !j->out || !j->args || !j->got || !j->latency_ns || !j->began_ns)
        return -ENOMEM;
    for (uint32_t i = 0; i < n_out; i++)
        if (!(j->got[i] = malloc(j->program.output[i].bytes + 1)))
            return -ENOMEM;
    for (uint32_t i = 0; i < j->weights.count; i++)
        j->args[j->inputs_first ? j->n_in + i : i] = &j->weight[i];
    for (uint32_t i = 0; i < j->n_in; i++)
        j->args[j->inputs_first ? i : j->weights.count + i] = &j->in[i];
    return 0;
}

/* Between two requests, as a service has it that is not asked all the time. A signal ends it. */
static void rest(const struct job *j, uint64_t took_ns)
{
    double ns = fmin(j->rest * (double)took_ns, REST_MOST_NS);
    struct timespec t = {.tv_sec = (time_t)(ns / 1e9), .tv_nsec = (long)fmod(ns, 1e9)};

    if (ns >= 1 && !stopped)
        nanosleep(&t, NULL);
}

static int run(struct job *j)
{
    uint64_t start = ex_now_ns(), now = start;

    /* Told to stop, it still ends what it began, and has done one. */
    while ((!stopped || j->done == 0) &&
           (j->seconds > 0 ? now - start < (uint64_t)(j->seconds * 1e9) : j->done < j->repeat)) {
        uint64_t from = now;
        uint32_t batch = (uint32_t)(j->done % j->batches);
        int rc = request(j, batch);
        now = ex_now_ns();
        if (rc && !(j->recover && recover(j) == 0))
            return rc;
        if (rc)
            continue;
        result_check(j, batch);
        j->began_ns[j->done % LATENCIES] = from;
        j->latency_ns[j->done++ % LATENCIES] = now - from;
        rest(j, now - from);
        now = ex_now_ns();
    }
    j->elapsed_ns = now - start;
    return 0;
}

static int by_size(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static double quantile_us(const struct job *j, double q)
{
    uint64_t n = j->done < LATENCIES ? j->done : LATENCIES;

    return n ? (double)j->latency_ns[(uint64_t)(q * (double)(n - 1))] / 1e3 : 0;
}

static void report(struct job *j, int rc)
{
    struct vgpu_properties p = {0};
    bool verified = rc == 0 && j->done && !j->wrong;

    vgpu_properties_get(j->v, &p);
    uint64_t n = j->done < LATENCIES ? j->done : LATENCIES;
    FILE *f = j->latencies && n ? fopen(j->latencies, "w") : NULL;
    for (uint64_t i = 0; f && i < n; i++)
        fprintf(f, "%llu %llu\n", (unsigned long long)j->began_ns[i], (unsigned long long)j->latency_ns[i]);
    if (f)
        fclose(f);
    if (n)
        qsort(j->latency_ns, n, sizeof(*j->latency_ns), by_size);
    double s = (double)j->elapsed_ns / 1e9;
    if (j->json)
        printf("{\"result\":{\"vm_id\":%u,\"pool\":\"%s\",\"priority\":\"%s\",\"requests\":%llu,\"wrong\":%llu,"
               "\"verified\":%s,\"worst\":%.3g,\"recovered\":%llu,\"seconds\":%.3f,\"load_ms\":%.1f,\"device_us\":%.1f,"
               "\"p50_us\":%.1f,\"p95_us\":%.1f,\"p99_us\":%.1f}}\n",
               p.vm_id, p.pool, ex_priority_name(p.priority), (unsigned long long)j->done, (unsigned long long)j->wrong,
               verified ? "true" : "false", isfinite(j->worst) ? j->worst : 1e300, (unsigned long long)j->recovered, s,
               (double)j->load_ns / 1e6, j->done ? (double)j->device_ns / 1e3 / (double)j->done : 0, quantile_us(j, 0.5),
               quantile_us(j, 0.95), quantile_us(j, 0.99));
    else
        printf("%llu requests, %llu wrong (largest difference %.3g); p50 %.1f us, p99 %.1f us, of which on the device %.1f;"
               " loaded in %.0f ms\n",
               (unsigned long long)j->done, (unsigned long long)j->wrong, j->worst, quantile_us(j, 0.5),
               quantile_us(j, 0.99), j->done ? (double)j->device_ns / 1e3 / (double)j->done : 0,
               (double)j->load_ns / 1e6);
}

static int usage(void)
{
    fprintf(stderr,
            "usage: vgpu-program [--repeat N | --seconds S] [--rest R] [--tolerance T] [--inputs-first] [--recover]\n"
            "                    [--latencies FILE] [--json] BUNDLE\n"
            "Runs the program in the directory BUNDLE (program.mlir or program.hlo, weights.tensors, inputs.tensors) and\n"
            "compares each result with expected.tensors: off by at most T (default 1e-4) of its largest number.\n"
            "  --repeat N, --seconds S   how often, how long; default: each batch once\n"
            "  --rest R                  after each request does nothing for R times as long as it took, 2 s at most\n"
            "  --inputs-first            the program takes its inputs before its weights, as TensorFlow's do\n"
            "  --recover                 loads anew when the host's process for this VM died\n"
            "  --latencies FILE          of each request a line: when it began (CLOCK_MONOTONIC) and what it took, ns\n");
    return 2;
}

static bool arguments(struct job *j, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(a, "--json") == 0)
            j->json = true;
        else if (strcmp(a, "--recover") == 0)
            j->recover = true;
        else if (strcmp(a, "--inputs-first") == 0)
            j->inputs_first = true;
        else if (strcmp(a, "--repeat") == 0 && (j->repeat = strtoull(value, NULL, 10)) > 0)
            i++;
        else if (strcmp(a, "--seconds") == 0 && (j->seconds = atof(value)) > 0)
            i++;
        else if (strcmp(a, "--rest") == 0 && (j->rest = atof(value)) > 0)
            i++;
        else if (strcmp(a, "--tolerance") == 0 && (j->tolerance = atof(value)) > 0)
            i++;
        else if (strcmp(a, "--latencies") == 0 && value[0] && ++i)
            j->latencies = value;
        else if (a[0] != '-' && !j->bundle)
            j->bundle = a;
        else
            return false;
    }
    return j->bundle != NULL;
}

static void job_free(struct job *j)
{
    for (uint32_t i = 0; j->got && i < j->program.outputs; i++)
        free(j->got[i]);
    unload(j);
    ex_tensors_close(&j->weights);
    ex_tensors_close(&j->inputs);
    ex_tensors_close(&j->expected);
    free(j->weight);
    free(j->in);
    free(j->out);
    free(j->args);
    free(j->got);
    free(j->latency_ns);
    free(j->began_ns);
}

int main(int argc, char **argv)
{
    struct job j = {.tolerance = TOLERANCE};

    if (!arguments(&j, argc, argv))
        return usage();
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    j.v = ex_open();
    if (!j.v)
        return 1;
    int rc = prepare(&j);
    if (rc == -ENOMEM)
        fprintf(stderr, "no memory\n");
    j.repeat = j.repeat ? j.repeat : j.batches;
    if (rc == 0)
        rc = run(&j);
    report(&j, rc);
    job_free(&j);
    vgpu_close(j.v);
    return rc == 0 && j.done && !j.wrong ? 0 : 1;
}
