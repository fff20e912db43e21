/* SPDX-License-Identifier: Apache-2.0 */
/* Running tests: one process each, time limits, TAP, and guests as processes. host.c has the daemon's side. */
#include "harness.h"

#include <dirent.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define LIMIT_S 60u
#define EXIT_FAILED 1
#define EXIT_SKIPPED 77
#define SHOWS_MAX 16
#define LOG_TAIL_LINES 40

struct e2e_shared *e2e_shared;
static uint64_t seed, random_state;

/* ---- small things ---- */

void e2e_sleep_ms(unsigned ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&ts, &ts) && errno == EINTR)
        ;
}

uint64_t e2e_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t e2e_scaled(uint64_t n)
{
    const char *text = getenv("VGPU_TEST_SCALE");
    double scale = text ? atof(text) : 1;
    uint64_t scaled = scale > 0 && scale < 1 ? (uint64_t)((double)n * scale) : n;

    return scaled ? scaled : 1;
}

uint64_t e2e_number(const char *variable, uint64_t otherwise)
{
    const char *text = getenv(variable);

    return text && *text ? strtoull(text, NULL, 10) : otherwise;
}

const char *e2e_backend(void)
{
    const char *text = getenv("VGPU_E2E_BACKEND");

    return text && *text ? text : NULL;
}

const char *e2e_dir(void)
{
    return e2e_shared->dir;
}

uint64_t e2e_seed(void)
{
    return seed;
}

uint64_t e2e_random(void)
{
    return e2e_next(&random_state);
}

/* ---- verdicts ---- */

void e2e_fail(const char *file, int line, const char *cond, const char *fmt, ...)
{
    va_list ap;
    char text[1024];

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    const char *base = strrchr(file, '/');
    printf("# FAIL %s:%d: %s: %s\n", base ? base + 1 : file, line, cond, text);
    fflush(stdout);
    _exit(EXIT_FAILED); /* daemon and guests end with us (PR_SET_PDEATHSIG) */
}

void e2e_skip(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(e2e_shared->skip, sizeof(e2e_shared->skip), fmt, ap);
    va_end(ap);
    _exit(EXIT_SKIPPED);
}

void e2e_shows(const char *fmt, ...)
{
    va_list ap;

    printf("shows: ");
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    fflush(stdout);
}

/* ---- guests as processes and threads ---- */

pid_t e2e_fork(void (*fn)(void *arg), void *arg)
{
    pid_t parent = getpid();

    fflush(stdout);
    pid_t pid = fork();
    e2e_check(pid >= 0, "fork: %s", strerror(errno));
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILED);
    fn(arg);
    fflush(stdout);
    _exit(0);
}

bool e2e_reap(pid_t pid)
{
    int status = -1;

    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS;;) {
        pid_t got = waitpid(pid, &status, WNOHANG);
        if (got == pid)
            return WIFEXITED(status) && WEXITSTATUS(status) == 0;
        e2e_check(got == 0, "waitpid(%d): %s", (int)pid, strerror(errno));
        e2e_check(e2e_now_ms() < until, "process %d does not end", (int)pid);
        e2e_sleep_ms(1);
    }
}

void e2e_thread(void *(*fn)(void *), void *arg, void *thread_out)
{
    int rc = pthread_create(thread_out, NULL, fn, arg);

    e2e_check(rc == 0, "pthread_create: %s", strerror(rc));
}

/* ---- hugepages ---- */

#define HUGEPAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/"

long e2e_hugepages(const char *name)
{
    char path[128];
    long n = -1;

    snprintf(path, sizeof(path), HUGEPAGES "%s", name);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%ld", &n) != 1)
        n = -1;
    if (f)
        fclose(f);
    return n;
}

static bool hugepages_set(long n)
{
    FILE *f = fopen(HUGEPAGES "nr_hugepages", "w");
    bool good = f && fprintf(f, "%ld\n", n) > 0;

    if (f && fclose(f))
        good = false;
    return good;
}

void e2e_hugepages_need(long want)
{
    long there = e2e_hugepages("free_hugepages"), all = e2e_hugepages("nr_hugepages");

    if (there < 0 || all < 0)
        e2e_skip("this kernel has no 2 MiB hugepages");
    if (there >= want)
        return;
    e2e_shared->hugepages_to = all + 1;
    if (!hugepages_set(all + want - there) || e2e_hugepages("free_hugepages") < want)
        e2e_skip("%ld free hugepages of 2 MiB are needed, there are %ld and no more can be reserved here", want, there);
}

static void hugepages_restore(void)
{
    if (e2e_shared->hugepages_to > 0)
        hugepages_set(e2e_shared->hugepages_to - 1);
    e2e_shared->hugepages_to = 0;
}

/* ---- the runner ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    remove(path);
    return 0;
}

static void log_tail(const char *dir)
{
    char path[E2E_PATH_BYTES + 24];
    char *lines[LOG_TAIL_LINES] = {0};
    char *line = NULL;
    size_t room = 0, n = 0;

    snprintf(path, sizeof(path), "%s/vgpud.log", dir);
    FILE *f = fopen(path, "r");
    if (!f) {
        printf("# no log of vgpud: it was not started\n");
        return;
    }
    while (getline(&line, &room, f) >= 0) {
        free(lines[n % LOG_TAIL_LINES]);
        lines[n++ % LOG_TAIL_LINES] = strdup(line);
    }
    printf("# the end of vgpud's log (%zu lines):\n", n);
    for (size_t i = n > LOG_TAIL_LINES ? n - LOG_TAIL_LINES : 0; i < n; i++)
        printf("#   %s", lines[i % LOG_TAIL_LINES]);
    for (size_t i = 0; i < LOG_TAIL_LINES; i++)
        free(lines[i]);
    free(line);
    fclose(f);
}

static void child(const struct e2e_test *t, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_FAILED);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    t->run();
    fflush(stdout);
    exit(0); /* not _exit: leak checkers report here */
}

/* Whatever the test left is ours now (we are a subreaper too): ends it. Returns how many there were. */
static unsigned adopt_and_end(void)
{
    unsigned n = 0;
    pid_t pid;

    for (int round = 0; round < 200; round++) {
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            n++;
        if (pid < 0)
            return n; /* no children at all */
        char path[64], text[4096] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int)getpid());
        FILE *f = fopen(path, "r");
        if (f) {
            size_t got = fread(text, 1, sizeof(text) - 1, f);
            text[got] = 0;
            fclose(f);
        }
        for (char *p = strtok(text, " \n"); p; p = strtok(NULL, " \n"))
            kill(atoi(p), SIGKILL);
        e2e_sleep_ms(10);
    }
    return n;
}

/* Waits within the limit; the wait status, or -1 when it ran too long (it was ended). */
static int await(pid_t pid, unsigned limit_s)
{
    const char *text = getenv("VGPU_TEST_SCALE");
    /* Sanitizers; a device whose executor takes seconds to start. */
    unsigned slow = (text && atof(text) < 1 ? 5 : 1) * (e2e_backend() ? 3 : 1);
    uint64_t until = e2e_now_ms() + (uint64_t)limit_s * slow * 1000;
    int status;

    while (waitpid(pid, &status, WNOHANG) != pid) {
        if (e2e_now_ms() > until) {
            kill(-pid, SIGKILL);
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -1;
        }
        e2e_sleep_ms(5);
    }
    return status;
}

static void report(int number, const struct e2e_test *t, int status, uint64_t ms, unsigned left, const char *dir,
                   int *failed)
{
    if (status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SKIPPED) {
        printf("ok %d - %s # SKIP %s\n", number, t->name, e2e_shared->skip);
        return;
    }
    bool good = status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && left == 0;
    if (!good) {
        if (status == -1)
            printf("# FAIL %s: ran longer than its limit\n", t->name);
        else if (WIFSIGNALED(status))
            printf("# FAIL %s: killed by signal %d\n", t->name, WTERMSIG(status));
        else if (WEXITSTATUS(status) == 0)
            printf("# FAIL %s: left %u processes behind\n", t->name, left);
        else
            printf("# FAIL %s: exit status %d\n", t->name, WEXITSTATUS(status));
        printf("# VGPU_TEST_SEED=%llu repeats the random choices\n", (unsigned long long)seed);
        log_tail(dir);
        ++*failed;
    }
    printf("%s %d - %s (%llu ms)\n", good ? "ok" : "not ok", number, t->name, (unsigned long long)ms);
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return true;
    return argc < 2;
}

int e2e_main(int argc, char **argv, const struct e2e_test *tests, size_t count)
{
    const char *text = getenv("VGPU_TEST_SEED");
    int failed = 0, number = 0;
    size_t run = 0;

    e2e_shared = mmap(NULL, sizeof(*e2e_shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (e2e_shared == MAP_FAILED) {
        perror("mmap");
        return EXIT_FAILED;
    }
    seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (size_t i = 0; i < count; i++)
        run += wanted(tests[i].name, argc, argv);
    if (run == 0) {
        fprintf(stderr, "no test of that name; there are:\n");
        for (size_t i = 0; i < count; i++)
            fprintf(stderr, "  %s\n", tests[i].name);
        return EXIT_FAILED;
    }
    printf("1..%zu\n", run);
    for (size_t i = 0; i < count; i++) {
        if (!wanted(tests[i].name, argc, argv))
            continue;
        snprintf(e2e_shared->dir, sizeof(e2e_shared->dir), "/tmp/vgpu-e2e-XXXXXX");
        if (!mkdtemp(e2e_shared->dir) || chmod(e2e_shared->dir, 0755)) {
            perror("mkdtemp");
            return EXIT_FAILED;
        }
        random_state = seed ^ i;
        uint64_t begin = e2e_now_ms();
        fflush(stdout);
        pid_t self = getpid(), pid = fork();
        if (pid == 0)
            child(&tests[i], self);
        int status = pid > 0 ? await(pid, tests[i].limit_s ? tests[i].limit_s : LIMIT_S) : -1;
        unsigned left = adopt_and_end();
        hugepages_restore();
        report(++number, &tests[i], status, e2e_now_ms() - begin, left, e2e_shared->dir, &failed);
        nftw(e2e_shared->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    fflush(stdout);
    return failed ? EXIT_FAILED : 0;
}
