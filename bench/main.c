/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-bench: the list of suites, and running those asked for. A new suite is one row here. */
#include "bench/harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bench/control/control.h"
#include "bench/gpu/gpu.h"
#include "bench/hops/hops.h"
#include "bench/path/path.h"
#include "bench/plan/plan.h"
#include "bench/rings/rings.h"
#include "bench/scale/scale.h"
#include "bench/transport/transport.h"
#include "bench/tune/tune.h"

#define TAKES_GPU (BENCH_TAKES_DURATION | BENCH_TAKES_ENGINE)

const struct bench_suite bench_suites[] = {
    {"rings", "rings between cores: ours, the raw floors, and every packaged peer found", bench_rings_run, bench_rings_list,
     BENCH_TAKES_DURATION | BENCH_TAKES_SLOTS | BENCH_TAKES_BURST},
    {"path", "guest, poll core, executor and back: round trip, stream, open loop, idle VMs, and the daemon itself",
     bench_path_run, bench_path_list,
     BENCH_TAKES_DURATION | BENCH_TAKES_VMS | BENCH_TAKES_SLOTS | BENCH_TAKES_BURST | BENCH_TAKES_LOAD | BENCH_TAKES_RATE},
    {"hops", "where a descriptor's time goes: a waterfall of its hops by percentile, and what tracing costs", bench_hops_run,
     bench_hops_list, BENCH_TAKES_DURATION | BENCH_TAKES_BURST | BENCH_TAKES_CHROME},
    {"scale", "1 to 1000 attached VMs: what a descriptor and an idle VM cost", bench_scale_run, bench_scale_list,
     BENCH_TAKES_VMS | BENCH_TAKES_SLOTS},
    {"priority", "high priority while low priority saturates the device", bench_priority_run, bench_priority_list,
     TAKES_GPU | BENCH_TAKES_VMS},
    {"isolation", "pool A while pool B saturates its device", bench_isolation_run, bench_isolation_list,
     TAKES_GPU | BENCH_TAKES_VMS},
    {"transport", "messages between two cores: rings in shared memory beside eventfd, sockets and io_uring", bench_transport_run,
     bench_transport_list, BENCH_TAKES_DURATION | BENCH_TAKES_BURST | BENCH_TAKES_PAYLOAD | BENCH_TAKES_SLOTS},
    {"gpu", "CUDA: guests of vgpud beside native programs, MPS and time-slicing, in one run", bench_gpu_run, bench_gpu_list,
     TAKES_GPU | BENCH_TAKES_PAYLOAD | BENCH_TAKES_VMS},
    {"copy", "copies between a guest's arena and the device, beside native ones", bench_copy_run, bench_copy_list,
     TAKES_GPU | BENCH_TAKES_PAYLOAD},
    {"control", "requests of administrators, and what guests notice of them", bench_control_run, bench_control_list,
     BENCH_TAKES_DURATION | BENCH_TAKES_VMS | BENCH_TAKES_CLIENTS},
    {"steady", "so many guests at work for minutes: what drifts", bench_steady_run, bench_steady_list,
     TAKES_GPU | BENCH_TAKES_VMS | BENCH_TAKES_MINUTES},
    {"tune", "vgpud with one setting changed at a time: idle policy, cores, hugepages", bench_tune_run, bench_tune_list,
     BENCH_TAKES_DURATION},
    {NULL, NULL, NULL, NULL, 0},
};

/* All, or those named. */
static void list(const char *const *names, int n)
{
    for (const struct bench_suite *s = bench_suites; s->name; s++) {
        bool wanted = n == 0;
        for (int i = 0; i < n; i++)
            wanted |= !strcmp(names[i], s->name);
        if (!wanted)
            continue;
        printf("%s: %s\n", s->name, s->what);
        s->list(stdout);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    static struct bench_mem mem;
    const char *names[16];
    bool failed = false, measured = false, refused = false;
    char noisy[256] = "";
    int skipped = 0;

    if (argc > 1 && strcmp(argv[1], "compare") == 0)
        return bench_compare(argc - 2, argv + 2);
    if (argc > 1 && strcmp(argv[1], "plan") == 0) {
        argv[1] = argv[0];
        return bench_plan(argc - 1, argv + 1);
    }
    int n = bench_args(&b, argc, argv, names, 16);
    if (n < 0)
        return n == -2 ? 0 : 2;
    if (b.list_only) {
        list(names, n);
        return 0;
    }
    vgpu_clock_init();
    if (bench_mem_init(&mem, (size_t)256 << 20)) {
        fprintf(stderr, "vgpu-bench: no memory\n");
        return 1;
    }
    b.mem = &mem;
    bench_host_init(&b);
    for (int i = 0; i < n && !refused; i++) {
        bench_noise_begin(&b);
        int rc = bench_suite_find(names[i])->run(&b);
        if (bench_noise_end(&b)) {
            size_t at = strlen(noisy);
            snprintf(noisy + at, sizeof(noisy) - at, "%s%s", at ? ", " : "", names[i]);
            refused = b.refuse_noisy;
        }
        failed |= rc && rc != BENCH_SKIPPED;
        skipped += rc == BENCH_SKIPPED;
        measured |= b.n_rows > 0;
        bench_json_flush(&b);
        if (rc == -EINTR)
            break;
    }
    if (b.filter && !measured && !failed && skipped < n) {
        fprintf(stderr, "vgpu-bench: nothing was measured: no measurement/subject name contains '%s' (see --list)\n", b.filter);
        failed = true;
    }
    if (noisy[0] && n > 1) /* the line of a suite may be far up by now */
        fprintf(b.text, "**** NOISY HOST: suites %s ****\n", noisy);
    if (refused)
        fprintf(stderr, "vgpu-bench: --refuse-noisy: the host was too noisy for suite %s; its rows say so, and no other "
                "was run\n", noisy);
    bench_mem_fini(&mem);
    if (b.json && fflush(b.json)) {
        fprintf(stderr, "vgpu-bench: could not write all JSON rows: %m\n");
        failed = true;
    }
    if (refused && !failed)
        return BENCH_NOISY;
    return failed ? 1 : skipped == n && n > 0 ? BENCH_SKIPPED : 0;
}
