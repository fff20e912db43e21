/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a fuzz target where libFuzzer is not there: every file of the corpus, then seeded mutations of them for a
 * while. The target runs in a process of its own; the input that ended it, or that hung it, is written to a file.
 *
 *   fuzz-NAME CORPUS_DIR          VGPU_FUZZ_SEED; VGPU_TEST_SLICE_S is for all targets together
 *   fuzz-NAME FILE...             runs these inputs only, in this process
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

#define INPUT_MAX  16384u
#define CORPUS_MAX 256u
#define HANG_S     30u

struct input {
    uint8_t *data;
    size_t bytes;
};
static struct input corpus[CORPUS_MAX];
static unsigned corpus_count;

/* What the worker is at; shared with the parent. */
static struct {
    uint64_t runs;
    bool done;
    size_t bytes;
    uint8_t data[INPUT_MAX];
} * now;

static uint64_t rng;
static uint64_t next(void)
{
    uint64_t z = rng += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
static size_t below(size_t n)
{
    return n ? (size_t)(next() % n) : 0;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static bool file_read(const char *path, struct input *in)
{
    FILE *f = fopen(path, "rb");

    in->data = malloc(INPUT_MAX);
    if (!f || !in->data)
        return false;
    in->bytes = fread(in->data, 1, INPUT_MAX, f);
    return fclose(f) == 0;
}

/* In a fixed order, so that a seed means the same everywhere. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void corpus_read(const char *dir)
{
    struct dirent **names;
    char path[4096];
    int n = scandir(dir, &names, NULL, by_name);

    if (n < 0)
        die(dir);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && corpus_count < CORPUS_MAX && file_read(path, &corpus[corpus_count]))
            corpus_count++;
        free(names[i]);
    }
    free(names);
}

/* ---- mutations: all in place in now->data ---- */

static void insert(size_t at, const uint8_t *from, size_t bytes)
{
    if (bytes > INPUT_MAX - now->bytes)
        bytes = INPUT_MAX - now->bytes;
    memmove(now->data + at + bytes, now->data + at, now->bytes - at);
    memmove(now->data + at, from, bytes);
    now->bytes += bytes;
}

static void delete (size_t at, size_t bytes)
{
    memmove(now->data + at, now->data + at + bytes, now->bytes - at - bytes);
    now->bytes -= bytes;
}

static void integer(size_t at)
{
    static const uint64_t edges[] = {0,
                                     1,
                                     255,
                                     256,
                                     65535,
                                     65536,
                                     UINT64_C(1) << 31,
                                     UINT64_C(1) << 32,
                                     UINT64_C(1) << 47,
                                     UINT64_C(1) << 48,
                                     UINT64_C(1) << 63,
                                     UINT64_MAX};
    uint64_t v = edges[below(sizeof(edges) / sizeof(edges[0]))] + below(3) - 1;
    size_t bytes = (size_t)1 << below(4);

    if (bytes > now->bytes - at)
        bytes = now->bytes - at;
    memcpy(now->data + at, &v, bytes);
}

static void mutate(void)
{
    uint8_t piece[256];
    size_t at = below(now->bytes + 1), left = now->bytes - at;
    const struct input *other = &corpus[below(corpus_count)];

    switch (below(9)) {
    case 0:
        if (left)
            now->data[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        if (left)
            now->data[at] = (uint8_t)next();
        break;
    case 2:
        if (left)
            integer(at);
        break;
    case 3:
        delete (at, below(left < 32 ? left + 1 : 32));
        break;
    case 4: { /* a piece of itself once more */
        size_t n = below(left < sizeof(piece) ? left + 1 : sizeof(piece));
        memcpy(piece, now->data + at, n);
        insert(below(now->bytes + 1), piece, n);
        break;
    }
    case 5: { /* a piece of another one */
        size_t from = below(other->bytes + 1), n = below(other->bytes - from + 1);
        insert(at, other->data + from, n < 128 ? n : 128);
        break;
    }
    case 6: /* its head and another one's tail */
        now->bytes = at;
        insert(at, other->data + below(other->bytes + 1) * 0, other->bytes < at ? 0 : other->bytes - at);
        break;
    case 7:
        for (size_t i = 0; i < sizeof(piece); i++)
            piece[i] = (uint8_t)next();
        insert(at, piece, below(64));
        break;
    default: /* digits and brackets matter to texts */
        piece[0] = (uint8_t) "0123456789-.,:;{}[]\"'\\&*#!|>%@ \n\t\0\xff"[below(36)];
        insert(at, piece, 1);
    }
}

static void worker(uint64_t until_ns)
{
    struct timespec ts;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (uint64_t i = 0;; i++) {
        clock_gettime(CLOCK_MONOTONIC, &ts);
        if (i >= corpus_count && (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec > until_ns)
            break;
        const struct input *base = &corpus[i < corpus_count ? i : below(corpus_count)];
        memcpy(now->data, base->data, base->bytes);
        now->bytes = base->bytes;
        for (size_t n = i < corpus_count ? 0 : 1 + below(1u << below(6)); n; n--)
            mutate();
        uint8_t *copy = malloc(now->bytes ? now->bytes : 1); /* exactly as large: sanitizers see the end */
        if (!copy)
            die("malloc");
        memcpy(copy, now->data, now->bytes);
        LLVMFuzzerTestOneInput(copy, now->bytes);
        free(copy);
        __atomic_fetch_add(&now->runs, 1, __ATOMIC_RELAXED);
    }
    now->done = true;
    exit(0); /* not _exit: leak checkers report here */
}

/* Waits for the worker; false when it hung or died. */
static bool watch(pid_t pid)
{
    uint64_t seen = 0;
    unsigned idle_ms = 0;
    int status;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        uint64_t runs = __atomic_load_n(&now->runs, __ATOMIC_RELAXED);
        idle_ms = runs == seen ? idle_ms + 10 : 0;
        seen = runs;
        if (idle_ms > HANG_S * 1000) {
            fprintf(stderr, "FAIL: an input takes longer than %u s\n", HANG_S);
            kill(pid, SIGKILL);
        }
        usleep(10000);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && now->done)
        return true;
    fprintf(stderr, "FAIL: the target ended with status %x\n", (unsigned)status);
    return false;
}

static void keep_input(const char *name)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof(path), "/tmp/vgpu-%s-%d.input", name, (int)getpid());
    f = fopen(path, "wb");
    if (f && fwrite(now->data, 1, now->bytes, f) == now->bytes && fclose(f) == 0)
        fprintf(stderr, "the input (%zu bytes) is in %s: give it to the same program as its argument\n", now->bytes,
                path);
    for (size_t i = 0; i < now->bytes && i < 512; i++)
        fprintf(stderr, "%02x%s", now->data[i], i % 32 == 31 ? "\n" : "");
    fprintf(stderr, "\n");
}

int main(int argc, char **argv)
{
    const char *slice = getenv("VGPU_TEST_SLICE_S"), *share = getenv("VGPU_FUZZ_TARGETS"), *seed = getenv("VGPU_FUZZ_SEED");
    const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
    struct timespec ts;
    struct stat st;

    if (argc < 2 || stat(argv[1], &st)) {
        fprintf(stderr, "usage: %s CORPUS_DIR | FILE...\n", name);
        return 2;
    }
    if (!S_ISDIR(st.st_mode)) {
        struct input in;
        if (LLVMFuzzerInitialize)
            LLVMFuzzerInitialize(&argc, &argv);
        for (int i = 1; i < argc; i++)
            if (file_read(argv[i], &in))
                LLVMFuzzerTestOneInput(in.data, in.bytes);
        return 0;
    }
    corpus_read(argv[1]);
    if (corpus_count == 0) {
        fprintf(stderr, "no corpus in %s\n", argv[1]);
        return 1;
    }
    now = mmap(NULL, sizeof(*now), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (now == MAP_FAILED)
        die("mmap");
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t start = seed ? strtoull(seed, NULL, 0) : (uint64_t)ts.tv_nsec * 2654435761u + (uint64_t)getpid();
    /* Two run at a time. */
    uint64_t seconds = 2 * (slice ? strtoull(slice, NULL, 0) : 15) / (share && atoi(share) > 0 ? (unsigned)atoi(share) : 6);
    uint64_t until_ns = ((uint64_t)ts.tv_sec + (seconds ? seconds : 1)) * 1000000000u;
    printf("VGPU_FUZZ_SEED=%llu\n", (unsigned long long)start);
    fflush(stdout);
    rng = start;
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        if (LLVMFuzzerInitialize)
            LLVMFuzzerInitialize(&argc, &argv);
        worker(until_ns);
    }
    if (!watch(pid)) {
        keep_input(name);
        return 1;
    }
    printf("shows: %s: %llu inputs from a corpus of %u, seed %llu\n", name, (unsigned long long)now->runs, corpus_count,
           (unsigned long long)start);
    return now->runs > corpus_count ? 0 : 1;
}
