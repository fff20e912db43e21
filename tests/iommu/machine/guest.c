/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-iommu-guest ARENA-BYTES FILE: attaches as VGPU_VM_ID and works until FILE.stop is there. The first pages of its
 * arena are filled and left alone (what devices do there is for the probe to see); behind them it adds vectors and
 * checks each result. FILE gets "pid, address of the arena in this process, its bytes"; FILE.done how many operations
 * were right.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest-lib/vgpu.h"
#include "probe.h"

static void note(const char *file, const char *end, const char *text)
{
    char path[256], part[264];

    snprintf(path, sizeof(path), "%s%s", file, end);
    snprintf(part, sizeof(part), "%s~", path);
    FILE *f = fopen(part, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) || rename(part, path))
        exit(2);
}

static uint64_t work(struct vgpu *v, struct vgpu_buffer *all, const char *file)
{
    struct vgpu_buffer a = vgpu_buffer_at(all, PROBE_QUIET_BYTES), b = vgpu_buffer_at(&a, 4096),
                       sum = vgpu_buffer_at(&b, 4096);
    float *x = a.host_ptr, *y = b.host_ptr, *z = sum.host_ptr;
    char stop[256];
    uint64_t done = 0;

    snprintf(stop, sizeof(stop), "%s.stop", file);
    for (; access(stop, F_OK); done++) {
        for (int i = 0; i < 1024; i++) {
            x[i] = (float)(i + (int)(done % 1000));
            y[i] = (float)(2 * i);
            z[i] = -1;
        }
        int rc = vgpu_vector_add(v, &sum, &a, &b, 1024);
        for (int i = 0; i < 1024 && rc == 0; i++)
            if (z[i] != x[i] + y[i])
                rc = -EBADMSG;
        if (rc) {
            printf("operation %llu: %s: %s\n", (unsigned long long)done, strerror(-rc), vgpu_strerror(v));
            exit(1);
        }
        usleep(2000);
    }
    return done;
}

int main(int argc, char **argv)
{
    struct vgpu_options options = {.arena_bytes = argc > 2 ? strtoull(argv[1], NULL, 0) : 0};
    struct vgpu_buffer all;
    struct vgpu *v;
    char text[256];

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 3)
        return 2;
    int rc = vgpu_open(&options, &v, text, sizeof(text));
    if (rc) {
        printf("attach: %s: %s\n", strerror(-rc), text);
        return 3;
    }
    rc = vgpu_arena_alloc(v, options.arena_bytes, &all);
    if (rc || all.offset) {
        printf("the arena is not ours as a whole: %d\n", rc);
        return 1;
    }
    memset(all.host_ptr, PROBE_PATTERN(atoi(getenv("VGPU_VM_ID"))), PROBE_QUIET_BYTES);
    snprintf(text, sizeof(text), "%d %p %llu\n", (int)getpid(), all.host_ptr, (unsigned long long)all.bytes);
    note(argv[2], "", text);
    snprintf(text, sizeof(text), "%llu\n", (unsigned long long)work(v, &all, argv[2]));
    vgpu_close(v);
    note(argv[2], ".done", text);
    return 0;
}
