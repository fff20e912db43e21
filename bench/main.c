/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-bench: the list of suites, and running those asked for. A new suite is one row here. */
#include "bench/harness.h"

#include <stdlib.h>
#include <string.h>

#include "bench/gpu/gpu.h"
#include "bench/path/path.h"
#include "bench/rings/rings.h"
#include "bench/scale/scale.h"

const struct bench_suite bench_suites[] = {
    {"rings", "rings between cores: ours, the raw floors, and every packaged peer found", bench_rings_run,
     bench_rings_list},
    {"path", "guest, poll core, executor and back: round trip, stream, idle VMs, and the daemon itself", bench_path_run,
     bench_path_list},
    {"scale", "1 to 1000 attached VMs: what a descriptor and an idle VM cost", bench_scale_run, bench_scale_list},
    {"gpu", "CUDA: guests of vgpud beside native programs, MPS and time-slicing, in one run", bench_gpu_run,
     bench_gpu_list},
    {NULL, NULL, NULL, NULL},
};

static const struct bench_suite *find_suite(const char *name)
{
    for (const struct bench_suite *s = bench_suites; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    fprintf(stderr, "vgpu-bench: no suite is called %s (see --list)\n", name);
    return NULL;
}

static void list_all(void)
{
    for (const struct bench_suite *s = bench_suites; s->name; s++) {
        printf("%s: %s\n", s->name, s->what);
        s->list(stdout);
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    static struct bench_mem mem;
    const char *names[16];
    bool failed = false;
    int skipped = 0;

    if (argc > 1 && strcmp(argv[1], "compare") == 0)
        return bench_compare(argc - 2, argv + 2);
    int n = bench_args(&b, argc, argv, names, 16);
    if (n < 0)
        return n == -2 ? 0 : 2;
    if (b.list_only) {
        list_all();
        return 0;
    }
    for (int i = 0; i < n; i++)
        if (!find_suite(names[i]))
            return 2;
    vgpu_clock_init();
    if (bench_mem_init(&mem, (size_t)256 << 20)) {
        fprintf(stderr, "vgpu-bench: no memory\n");
        return 1;
    }
    b.mem = &mem;
    bench_host_init(&b);
    for (int i = 0; i < n; i++) {
        bench_noise_begin(&b);
        int rc = find_suite(names[i])->run(&b);
        bench_noise_end(&b);
        failed |= rc && rc != BENCH_SKIPPED;
        skipped += rc == BENCH_SKIPPED;
        bench_json_flush(&b);
    }
    bench_mem_fini(&mem);
    if (b.json && fflush(b.json)) {
        fprintf(stderr, "vgpu-bench: could not write all JSON rows: %m\n");
        failed = true;
    }
    return failed ? 1 : skipped == n && n > 0 ? BENCH_SKIPPED : 0;
}
