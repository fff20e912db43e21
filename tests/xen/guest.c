/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-lab-guest: what the scenarios run in a domain (and in dom0, as a guest without Xen): load whose completions are
 * accounted for one by one, queues for the order of priorities, and guests that turn on their host.
 *
 *   flow STOP-FILE [calm]  numbered descriptors with verified results until the file is there; calm: with rests in between,
 *                          which leave the processors to others
 *   count N                N descriptors, one at a time, never sleeping, while the kernel's tracing is on
 *   order N DIR            attaches (DIR/attached), waits for DIR/go, submits N (DIR/submitted), waits; sequence numbers
 *                          of their execution go to DIR/seq
 *   cycles N               attaches, works, detaches, N times
 *   await FILE...          waits until one of them is there
 *   who TEXT               prints what the host says about this VM
 *   arena MIB              attaches with an arena of that size
 *   scribble|revoke|unbell SECONDS
 *                          random words over all that the host maps; the pages taken back in mid-flight; the event
 *                          channel closed in mid-flight. Ends well however the attachment ended.
 *
 * Prints one line at the end; exit 0 when all was as it must be.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "guest-lib/internal.h"
#include "tests/e2e/harness.h"

/* ---- what flow.c takes from the harness ---- */

void e2e_fail(const char *file, int line, const char *cond, const char *fmt, ...)
{
    va_list ap;

    printf("FAILED %s:%d: %s: ", file, line, cond);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

uint64_t e2e_now_ms(void)
{
    return vgpu_now_ns() / 1000000;
}

void e2e_sleep_ms(unsigned ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&ts, NULL);
}

/* ---- attaching ---- */

static struct vgpu *open_with(uint64_t spin_ns, uint64_t arena_bytes)
{
    struct vgpu_options o = {.spin_ns = spin_ns, .arena_bytes = arena_bytes};
    struct vgpu *v;
    char why[256];
    int rc = vgpu_open(&o, &v, why, sizeof(why));

    if (rc == 0)
        return v;
    printf("open: %s: %s\n", strerror(-rc), why);
    exit(3);
}

/* Between two looks at a file: ten domains that wait must leave two emulated processors to those that work. */
#define LOOK_MS 200

static bool there(const char *path)
{
    return access(path, F_OK) == 0;
}

static void touch(const char *dir, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    e2e_check(fd >= 0, "%s: %s", path, strerror(errno));
    close(fd);
}

/* ---- load ---- */

static void progress_write(const char *stop_file, const struct e2e_flow *f)
{
    char path[256], part[260];

    snprintf(path, sizeof(path), "%s.progress", stop_file);
    snprintf(part, sizeof(part), "%s~", path);
    FILE *out = fopen(part, "w");
    if (!out)
        return;
    fprintf(out, "%llu %llu\n", (unsigned long long)f->status[VGPU_OK], (unsigned long long)f->reattaches);
    fclose(out);
    rename(part, path);
}

static int run_flow(const char *stop_file, bool calm)
{
    bool stop = false;
    struct e2e_flow f = {.v = open_with(0, 0), .work = E2E_VERIFIED, .total = UINT64_MAX, .stop = &stop,
                         .rng = vgpu_now_ns(), .burst_max = 16};
    uint64_t next_ms = 0;

    while (e2e_flow_step(&f)) {
        if (calm)
            e2e_sleep_ms(5);
        if (e2e_now_ms() < next_ms)
            continue;
        next_ms = e2e_now_ms() + 200;
        stop = there(stop_file);
        progress_write(stop_file, &f);
    }
    e2e_flow_check(&f);
    /* What a host that lets go of a guest had not begun it cancels. */
    uint64_t done = f.status[VGPU_OK], cancelled = f.status[VGPU_E_CANCELLED], lost = f.status[VGPU_E_LOST];
    printf("submitted %llu done %llu cancelled %llu lost %llu reattached %llu, each once\n", (unsigned long long)f.submitted,
           (unsigned long long)done, (unsigned long long)cancelled, (unsigned long long)lost,
           (unsigned long long)f.reattaches);
    vgpu_close(f.v);
    return done > 0 && done + cancelled + lost == f.submitted ? 0 : 1;
}

static int run_count(uint64_t n)
{
    struct vgpu *v = open_with(UINT64_C(60000000000), 0);
    uint64_t done = 0;

    touch("/tmp", "count.attached");
    while (!there("/tmp/count.go"))
        e2e_sleep_ms(20);
    int tracing = open("/sys/kernel/tracing/tracing_on", O_WRONLY);
    e2e_check(tracing >= 0 && write(tracing, "1", 1) == 1, "tracing: %s", strerror(errno));
    for (; done < n && vgpu_nop(v) == 0; done++)
        ;
    e2e_check(write(tracing, "0", 1) == 1, "tracing: %s", strerror(errno));
    touch("/tmp", "count.done");
    while (!there("/tmp/count.end"))
        e2e_sleep_ms(20);
    printf("done %llu of %llu %s\n", (unsigned long long)done, (unsigned long long)n, vgpu_strerror(v));
    vgpu_close(v);
    return done == n ? 0 : 1;
}

static int run_order(unsigned n, const char *dir)
{
    struct vgpu *v = open_with(0, 0);
    char path[256];
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};

    touch(dir, "attached");
    snprintf(path, sizeof(path), "%s/go", dir);
    while (!there(path))
        e2e_sleep_ms(LOOK_MS);
    for (unsigned i = 0; i < n; i++)
        e2e_check(vgpu_submit(v, &nop, NULL) == 0, "%s", vgpu_strerror(v));
    touch(dir, "submitted");
    snprintf(path, sizeof(path), "%s/seq", dir);
    FILE *out = fopen(path, "w");
    e2e_check(out, "%s: %s", path, strerror(errno));
    uint64_t low = UINT64_MAX, high = 0;
    for (unsigned got = 0; got < n;) {
        struct vgpu_completion c[64];
        int rc = vgpu_wait(v, c, 64, UINT64_C(300000000000));
        e2e_check(rc > 0, "%d: %s", rc, vgpu_strerror(v));
        for (int i = 0; i < rc; i++, got++) {
            e2e_check(c[i].status == VGPU_OK && c[i].exec_seq, "status %u", c[i].status);
            fprintf(out, "%llu\n", (unsigned long long)c[i].exec_seq);
            low = c[i].exec_seq < low ? c[i].exec_seq : low;
            high = c[i].exec_seq > high ? c[i].exec_seq : high;
        }
    }
    fclose(out);
    vgpu_close(v);
    printf("%llu %llu\n", (unsigned long long)low, (unsigned long long)high);
    return 0;
}

static int run_cycles(unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct vgpu_buffer b;
        struct vgpu *v = open_with(0, 0);
        e2e_check(vgpu_arena_alloc(v, 4096, &b) == 0, "%s", vgpu_strerror(v));
        e2e_check(vgpu_fill(v, &b, i + 1, 4096) == 0, "%s", vgpu_strerror(v));
        e2e_check(((uint32_t *)b.host_ptr)[1023] == i + 1, "cycle %u: a wrong result", i);
        vgpu_close(v);
    }
    printf("%u cycles\n", n);
    return 0;
}

/* A shell's loop starts a program for each look, and ten of those leave an emulated machine no time for anything else. */
static int run_await(char **files)
{
    for (;; e2e_sleep_ms(LOOK_MS))
        for (char **file = files; *file; file++)
            if (there(*file)) {
                printf("%s\n", *file);
                return 0;
            }
}

static int run_who(const char *text)
{
    struct vgpu *v = open_with(0, 0);
    struct vgpu_properties p;
    int rc = vgpu_properties_get(v, &p);

    e2e_check(rc == 0 && vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    printf("%s vm=%u pool=%s priority=%u backend=%s arena=%llu\n", text, p.vm_id, p.pool, p.priority, p.backend,
           (unsigned long long)p.arena_bytes);
    vgpu_close(v);
    return 0;
}

static int run_arena(uint64_t mib)
{
    struct vgpu *v = open_with(0, mib << 20);

    printf("attached with %llu MiB\n", (unsigned long long)mib);
    vgpu_close(v);
    return 0;
}

/* ---- guests that turn on their host ---- */

static void keep_busy(struct vgpu *v)
{
    struct vgpu_request r = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion c[16];

    for (int i = 0; i < 16; i++)
        vgpu_submit(v, &r, NULL);
    vgpu_poll(v, c, 16);
}

static void scribble(struct vgpu *v, uint64_t *rng)
{
    struct {
        void *at;
        size_t bytes;
    } parts[] = {
        {v->region.header, VGPU_PAGE_BYTES},
        {v->region.guest_ctrl, VGPU_PAGE_BYTES},
        {v->region.host_ctrl, VGPU_PAGE_BYTES},
        {v->region.sq, (size_t)v->header.sq_slots * VGPU_SLOT_BYTES},
        {v->region.cq, (size_t)v->header.cq_slots * VGPU_SLOT_BYTES},
    };
    unsigned part = (unsigned)(e2e_next(rng) % 5);
    uint32_t *words = parts[part].at;

    for (int i = 0; i < 64; i++)
        words[e2e_next(rng) % (parts[part].bytes / 4)] = (uint32_t)e2e_next(rng);
}

static int run_attack(const char *how, unsigned seconds)
{
    uint64_t until = e2e_now_ms() + seconds * 1000u, rng = vgpu_now_ns(), steps = 0;
    unsigned attachments = 0;

    while (e2e_now_ms() < until) {
        struct vgpu_options o = {0};
        struct vgpu *v;
        char why[256];
        if (vgpu_open(&o, &v, why, sizeof(why)) < 0) {
            e2e_sleep_ms(50); /* the host may well refuse such a guest for a while */
            continue;
        }
        attachments++;
        keep_busy(v);
        if (strcmp(how, "scribble") == 0) {
            for (int i = 0; i < 200; i++, steps++) {
                scribble(v, &rng);
                v->carrier->ops->ring(v->carrier);
                if (i % 16 == 0)
                    e2e_sleep_ms(1);
            }
        } else if (strcmp(how, "revoke") == 0) {
            v->carrier->ops->region_free(v->carrier, &v->region);
            printf("revoked\n");
            fflush(stdout);
            e2e_sleep_ms(300);
            _exit(0); /* the library would touch what is no longer there */
        } else {
            int nowhere = open("/dev/null", O_RDWR);
            e2e_check(nowhere >= 0 && dup2(nowhere, v->carrier->doorbell_fd) >= 0, "%s", strerror(errno));
            close(nowhere);
            keep_busy(v);
            e2e_sleep_ms(200);
            steps++;
        }
        vgpu_close(v);
    }
    printf("%s: %u attachments, %llu steps\n", how, attachments, (unsigned long long)steps);
    return attachments > 0 ? 0 : 1;
}

static int usage(void)
{
    fprintf(stderr, "usage: vgpu-lab-guest flow STOP-FILE [calm] | count N | order N DIR | cycles N | "
                    "await FILE... | who TEXT | arena MIB | scribble|revoke|unbell SECONDS\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[1] : "";

    if (strcmp(mode, "flow") == 0)
        return run_flow(argv[2], argc > 3);
    if (strcmp(mode, "count") == 0)
        return run_count(strtoull(argv[2], NULL, 10));
    if (strcmp(mode, "order") == 0 && argc > 3)
        return run_order((unsigned)atoi(argv[2]), argv[3]);
    if (strcmp(mode, "cycles") == 0)
        return run_cycles((unsigned)atoi(argv[2]));
    if (strcmp(mode, "await") == 0)
        return run_await(argv + 2);
    if (strcmp(mode, "who") == 0)
        return run_who(argv[2]);
    if (strcmp(mode, "arena") == 0)
        return run_arena(strtoull(argv[2], NULL, 10));
    if (strcmp(mode, "scribble") == 0 || strcmp(mode, "revoke") == 0 || strcmp(mode, "unbell") == 0)
        return run_attack(mode, (unsigned)atoi(argv[2]));
    return usage();
}
