/* SPDX-License-Identifier: Apache-2.0 */
/* The suite: what runs on which vgpud, in which order. */
#include "bench/gpu/gpu.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_SECONDS 0.25
#define DEFAULT_REPS    3
#define GOAL_CORES      16

volatile int gpu_interrupted;

static void on_signal(int number)
{
    gpu_interrupted = 1;
}

/* ---- What is there ---- */
/* The value of "key": in one line of JSON that the tenant printed. */
static bool field(const char *json, const char *key, char *out, size_t bytes)
{
    char quoted[32];

    snprintf(quoted, sizeof(quoted), "\"%s\":", key);
    const char *at = strstr(json, quoted);
    if (!at)
        return false;
    at += strlen(quoted);
    at += *at == '"';
    snprintf(out, bytes, "%.*s", (int)strcspn(at, "\",}\n"), at);
    return true;
}

static int probe(struct gpu *g)
{
    char *argv[] = {g->tenant, (char *)"--mode", (char *)"native", (char *)"--probe", NULL, NULL, NULL, NULL, NULL};
    char json[512], gpus[16] = "0", driver[16] = "0", *host;
    struct bench *b = g->b;

    if (g->driver[0]) {
        argv[4] = (char *)"--driver";
        argv[5] = g->driver;
        argv[6] = (char *)"--cublas";
        argv[7] = g->cublas;
    }
    if (proc_ask(argv, NULL, "", json, sizeof(json), 60)) {
        fprintf(b->text, "%s: no GPU can be used here: %s", strcmp(g->suite, "gpu") ? g->suite : "SKIPPED: gpu",
                json[0] ? json : "the probe failed\n");
        return -ENODEV;
    }
    field(json, "name", g->device_name, sizeof(g->device_name));
    field(json, "gpus", gpus, sizeof(gpus));
    field(json, "driver", driver, sizeof(driver));
    g->gpus = atoi(gpus);
    fprintf(b->text, "gpu: %d x %s, driver for CUDA %s\n", g->gpus, g->device_name, driver);
    size_t keep = b->host_json ? strlen(b->host_json) : 0;
    if (!keep || asprintf(&host, "%.*s,\"gpu\":\"%s\",\"gpus\":%s,\"cuda\":%s}", (int)keep - 1, b->host_json,
                          g->device_name, gpus, driver) < 0)
        return 0;
    free(b->host_json);
    b->host_json = host;
    return 0;
}

/* Twelve cores for tenants, one for the poll core, one for the executor's loop, one for the thread that makes the
 * driver's calls, one for all else. With fewer: fewer tenants; under six, cores are shared. */
static void cores_choose(struct gpu *g)
{
    const struct bench *b = g->b;
    const int host = 4, n = b->n_cores;

    g->shared_cores = n < 6 || b->cores_shared;
    g->tenants_max = g->shared_cores ? GPU_TENANTS_MAX : n - host < GPU_TENANTS_MAX ? n - host : GPU_TENANTS_MAX;
    if (g->small && g->tenants_max > 2)
        g->tenants_max = 2;
    g->judged = n >= GOAL_CORES && !g->shared_cores && !g->small && !g->driver[0];
    if (g->shared_cores) {
        fprintf(b->text, "note: %d cores: tenants and vgpud share them, no goal is judged\n", n);
        return;
    }
    const int *rest = &b->cores[g->tenants_max], more = n - g->tenants_max;
    for (int i = 0; i < g->tenants_max; i++)
        g->tenant_core[i] = b->cores[i];
    g->poll_core[0] = rest[0];
    g->exec_core[0] = rest[1];
    g->launcher_core[0] = rest[2];
    g->spare_core = rest[3];
    g->exec_core[1] = more > 4 ? rest[4] : g->spare_core;
    g->launcher_core[1] = more > 5 ? rest[5] : g->spare_core;
    g->poll_core[1] = more > 6 ? rest[6] : g->spare_core;
    fprintf(b->text, "gpu: %d tenants on cores of their own; poll core %d, executor %d, launcher %d, all else %d\n",
            g->tenants_max, g->poll_core[0], g->exec_core[0], g->launcher_core[0], g->spare_core);
    if (!g->judged)
        fprintf(b->text, "note: goals are judged on %d cores, with all sizes, on a real GPU\n", GOAL_CORES);
}

/* ---- Phases: each with a vgpud of its own ---- */
/* What they measure, as --filter sees it. */
#define ISOLATION(m) m "/alone " m "/compute " m "/bandwidth"
#define MAIN_NAMES                                                                                                     \
    "latency/native latency/native-polled latency/native-graph latency/native-copied latency/vgpu "                    \
    "hops/vgpu-device hops/vgpu-host hops/vgpu-nop hops/resident-word hops/resident-device hops/resident-host "        \
    "gemm/native gemm/vgpu copy/native copy/vgpu " GPU_TENANTS_NAMES

static bool phase_wanted(const struct gpu *g, const char *names)
{
    return !g->b->filter || strstr(names, g->b->filter);
}

static bool phase_start(struct gpu *g, const struct gpu_daemon_config *config, const char *names)
{
    if (gpu_interrupted || !phase_wanted(g, names))
        return false;
    g->failures = g->revived = 0;
    gpu_step(g, config->name);
    int rc = daemon_start(g, config);
    if (rc == 0)
        return true;
    g->b->round = 0;
    gpu_fail(g, "gpu.vgpud", config->name, "{}", strerror(-rc));
    return false;
}

static void phase_main(struct gpu *g)
{
    const struct gpu_vm vms[] = {
        {1, 1, "A", "medium", gpu_limit(g, TENANT_COPY_H2D) + 64 * GPU_MIB, 512 * GPU_MIB},
        {2, GPU_TENANTS_MAX - 1, "A", "medium", 16 * GPU_MIB, g->small ? 16 * GPU_MIB : 256 * GPU_MIB},
        {0},
    };
    struct gpu_daemon_config config = {.name = "one to twelve tenants of one priority",
                                       .backend = "cuda",
                                       .poll_cores = 1,
                                       .budget = 1024,
                                       .heap_bytes = g->small ? 1024 * GPU_MIB : 8192 * GPU_MIB,
                                       .vms = vms};

    if (phase_start(g, &config, MAIN_NAMES)) {
        gpu_step(g, "  vector adds");
        latency_run(g);
        hops_run(g);
        gpu_step(g, "  GEMM");
        gemm_run(g);
        gpu_step(g, "  copies");
        copy_run(g);
        gpu_step(g, "  tenants");
        tenants_run(g);
        daemon_stop(g);
    }
    config.name = "two poll cores";
    config.poll_cores = 2;
    if (!g->shared_cores && phase_start(g, &config, "tenants/vgpu-2-poll-cores")) {
        tenants_two_poll_cores_run(g);
        daemon_stop(g);
    }
    config.name = "backend null";
    config.backend = "null";
    config.poll_cores = 1;
    if (phase_start(g, &config, "hops/vgpu-null tenants/vgpu-null")) {
        hops_null_run(g);
        tenants_null_run(g);
        daemon_stop(g);
    }
}

void phase_priority(struct gpu *g, uint32_t reserve_sms)
{
    const uint64_t device = g->small ? 16 * GPU_MIB : 256 * GPU_MIB;
    const struct gpu_vm vms[] = {
        {1, 1, "A", "high", 16 * GPU_MIB, device},
        {GPU_VM_BACKGROUND, g->backgrounds, "A", "low", 16 * GPU_MIB, device},
        {GPU_VM_CHURN, 1, "A", "medium", GPU_MIB, 0},
        {0},
    };
    char options[32], name[64];

    snprintf(options, sizeof(options), "reserve_sms=%u", reserve_sms);
    snprintf(name, sizeof(name), "high priority beside low, %u SMs in reserve", reserve_sms);
    struct gpu_daemon_config config = {.name = name,
                                       .backend = g->cpu ? "cpu" : "cuda",
                                       .options = reserve_sms ? options : "",
                                       .poll_cores = 1,
                                       .heap_bytes = g->small ? 256 * GPU_MIB : 2048 * GPU_MIB,
                                       .vms = vms};
    if (phase_start(g, &config, ISOLATION("priority"))) {
        priority_run(g, reserve_sms);
        daemon_stop(g);
    }
}

void phase_pools(struct gpu *g, bool two_gpus)
{
    const uint64_t device = g->small ? 16 * GPU_MIB : 256 * GPU_MIB;
    const struct gpu_vm vms[] = {
        {1, 1, "A", "medium", 16 * GPU_MIB, device},
        {GPU_VM_BACKGROUND, g->backgrounds, "B", "medium", 16 * GPU_MIB, device},
        {GPU_VM_CHURN, 1, "B", "medium", GPU_MIB, 0},
        {0},
    };
    struct gpu_daemon_config config = {.name = g->cpu ? (two_gpus ? "two pools, an executor each" : "two pools on one executor")
                                               : (two_gpus ? "two pools, a GPU each" : "two pools on one GPU"),
                                       .backend = g->cpu ? "cpu" : "cuda",
                                       .options = two_gpus ? "" : "partition=pools",
                                       .poll_cores = 1,
                                       .two_pools = true,
                                       .two_gpus = two_gpus,
                                       .heap_bytes = g->small ? 256 * GPU_MIB : 2048 * GPU_MIB,
                                       .vms = vms};
    if (two_gpus && g->gpus < 2 && !g->cpu)
        return;
    if (phase_start(g, &config, ISOLATION("pools"))) {
        pools_run(g, two_gpus);
        daemon_stop(g);
    }
}

/* The copies alone, on a daemon of their own. */
void phase_copy(struct gpu *g)
{
    const struct gpu_vm vms[] = {
        {1, 1, "A", "medium", gpu_limit(g, TENANT_COPY_H2D) + 64 * GPU_MIB, gpu_limit(g, TENANT_COPY_H2D) + 64 * GPU_MIB}, {0}};
    const struct gpu_daemon_config config = {.name = "copies",
                                             .backend = g->cpu ? "cpu" : "cuda",
                                             .poll_cores = 1,
                                             .heap_bytes = gpu_limit(g, TENANT_COPY_H2D) + 256 * GPU_MIB,
                                             .vms = vms};

    if (phase_start(g, &config, "copy/native copy/memcpy copy/vgpu")) {
        copy_run(g);
        daemon_stop(g);
    }
}

static void catch_signals(struct sigaction old[2], bool on)
{
    static const int numbers[] = {SIGINT, SIGTERM};
    struct sigaction ours = {.sa_handler = on_signal};

    for (int i = 0; i < 2; i++)
        sigaction(numbers[i], on ? &ours : &old[i], on ? &old[i] : NULL);
}

static void run_all(struct gpu *g)
{
    phase_main(g);
    crew_end_all(g); /* native contexts too: nobody needs them any more */
    phase_priority(g, 0);
    phase_priority(g, 32);
    phase_pools(g, false);
    phase_pools(g, true);
}

static void library_take(char out[PATH_MAX], const char *variable)
{
    const char *value = getenv(variable);

    snprintf(out, PATH_MAX, "%s", value ? value : "");
}

static struct sigaction old_actions[2];

static void options_take(struct gpu *g)
{
    struct bench *b = g->b;

    g->backgrounds = GPU_BACKGROUNDS;
    if (b->vms.n)
        g->backgrounds = b->vms.value[0] < GPU_BACKGROUNDS_MAX ? (uint32_t)b->vms.value[0] : GPU_BACKGROUNDS_MAX;
    for (uint32_t i = 0; i < b->payload.n; i++) {
        gpu_copy_sizes[i] = (uint64_t)b->payload.value[i];
        gpu_copy_sizes[i + 1] = 0;
    }
    if (!b->warm_up_given) /* each measurement warms up by itself */
        b->warm_up = 0;
}

int gpu_begin(struct gpu *g, struct bench *b, const char *suite, bool cpu_too)
{
    *g = (struct gpu){.b = b,
                      .suite = suite,
                      .small = b->gpu_small,
                      .seconds = b->duration > 0 ? b->duration : b->seconds > 0 ? b->seconds : DEFAULT_SECONDS,
                      .reps = b->reps_given ? (int)b->reps : DEFAULT_REPS};
    if (!bench_sibling(g->tenant, "bench/vgpu-bench-tenant")) {
        fprintf(b->text, "SKIPPED: %s: bench/vgpu-bench-tenant is not in this build's folder\n", suite);
        return BENCH_SKIPPED;
    }
    /* For trying the suite out without a GPU: another driver than the system's. */
    library_take(g->driver, "VGPU_BENCH_CUDA_DRIVER");
    library_take(g->cublas, "VGPU_BENCH_CUBLAS");
    if (probe(g)) {
        if (!cpu_too)
            return BENCH_SKIPPED;
        if (b->engine) {
            fprintf(stderr, "vgpu-bench: %s: --engine is of the cuda backend, and there is no GPU here\n", suite);
            return -ENODEV;
        }
        g->cpu = true;
        fprintf(b->text, "%s: on the CPU backend: what it shows is how the host shares, not a GPU\n", suite);
    }
    g->wait[CREW_NATIVE] = g->wait[CREW_MPS] = TENANT_VALUE;
    options_take(g);
    cores_choose(g);
    g->judged &= !g->cpu;
    fprintf(b->text, "%s: %d rounds, %.2f s a measurement\n", suite, g->reps, g->seconds);
    gpu_interrupted = 0;
    catch_signals(old_actions, true);
    g->began_ns = vgpu_now_ns();
    return 0;
}

int gpu_finish(struct gpu *g)
{
    struct bench *b = g->b;

    mps_stop(g);
    daemon_stop(g);
    crew_end_all(g);
    catch_signals(old_actions, false);
    fprintf(b->text, "%s: took %.0f s\n", g->suite, (double)(vgpu_now_ns() - g->began_ns) / 1e9);
    gpu_report(g);
    if (gpu_interrupted)
        fprintf(b->text, "%s: interrupted\n", g->suite);
    if (g->failed)
        fprintf(b->text, "%s: %d measurements FAILED, see above\n", g->suite, g->failed);
    return gpu_interrupted ? -EINTR : g->failed ? -EIO : 0;
}

int bench_gpu_run(struct bench *b)
{
    struct gpu g;
    int rc = gpu_begin(&g, b, "gpu", false);

    if (rc)
        return rc;
    run_all(&g);
    return gpu_finish(&g);
}

void bench_gpu_list(FILE *to)
{
    fprintf(
        to,
        "  measurements: latency, hops, gemm, copy, tenants, bandwidth, priority, pools\n"
        "  vgpu               guests of vgpud with backend cuda, processes with libvgpu; and vgpu-2-poll-cores\n"
        "  native             the same program on CUDA itself, launch + sync; -polled, -graph, -copied\n"
        "  mps, mps-graph     such programs under MPS, launches, graphs of 1000 (and -chains: 8 sequences in each)\n"
        "  time-sliced        such programs side by side, by the driver's time-slicing; -graph\n"
        "  one-context        one program with a stream for each tenant\n"
        "  alone, compute, bandwidth     high priority, or pool A, without and with a saturating background\n");
}
