/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into vgpu-ctl by precheck_test.py: counts what costs time, files opened, bytes read, processes started, calls
 * that sleep, and writes one line "opens=N bytes=N starts=N sleeps=N" to the file VGPU_COUNT_FILE names. Time itself is
 * the machine's: on one that is busy it says nothing about vgpu-ctl.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned long opens, bytes, starts, sleeps;
static pid_t ours;

__attribute__((constructor)) static void begin(void)
{
    ours = getpid();
}

__attribute__((destructor)) static void end(void)
{
    const char *name = getenv("VGPU_COUNT_FILE");
    FILE *f = name && getpid() == ours ? fopen(name, "a") : NULL;

    if (!f)
        return;
    fprintf(f, "opens=%lu bytes=%lu starts=%lu sleeps=%lu\n", opens, bytes, starts, sleeps);
    fclose(f);
}

#define NEXT(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

static mode_t mode_of(int flags, va_list ap)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list ap;                                                                                                    \
        va_start(ap, flags);                                                                                           \
        mode_t mode = mode_of(flags, ap);                                                                              \
        va_end(ap);                                                                                                    \
        opens++;                                                                                                       \
        return NEXT(int, #name, const char *, int, mode_t)(path, flags, mode);                                         \
    }
#define OPENAT(name)                                                                                                   \
    int name(int at, const char *path, int flags, ...)                                                                 \
    {                                                                                                                  \
        va_list ap;                                                                                                    \
        va_start(ap, flags);                                                                                           \
        mode_t mode = mode_of(flags, ap);                                                                              \
        va_end(ap);                                                                                                    \
        opens++;                                                                                                       \
        return NEXT(int, #name, int, const char *, int, mode_t)(at, path, flags, mode);                                \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

FILE *fopen(const char *path, const char *mode)
{
    opens++;
    return NEXT(FILE *, "fopen", const char *, const char *)(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    opens++;
    return NEXT(FILE *, "fopen64", const char *, const char *)(path, mode);
}

ssize_t read(int fd, void *out, size_t n)
{
    ssize_t got = NEXT(ssize_t, "read", int, void *, size_t)(fd, out, n);

    bytes += got > 0 ? (unsigned long)got : 0;
    return got;
}

ssize_t pread64(int fd, void *out, size_t n, off64_t at)
{
    ssize_t got = NEXT(ssize_t, "pread64", int, void *, size_t, off64_t)(fd, out, n, at);

    bytes += got > 0 ? (unsigned long)got : 0;
    return got;
}

/* openat2(2) has no function of its own. */
long syscall(long number, ...)
{
    long a[6];
    va_list ap;

    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    opens += number == SYS_openat2;
    sleeps += number == SYS_nanosleep || number == SYS_clock_nanosleep;
    return NEXT(long, "syscall", long, long, long, long, long, long, long)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

pid_t fork(void)
{
    starts++;
    return NEXT(pid_t, "fork", void)();
}

int posix_spawn(pid_t *restrict pid, const char *restrict path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *restrict attr, char *const argv[restrict], char *const envp[restrict])
{
    starts++;
    return NEXT(int, "posix_spawn", pid_t *, const char *, const posix_spawn_file_actions_t *, const posix_spawnattr_t *,
                char *const *, char *const *)(pid, path, actions, attr, argv, envp);
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
    sleeps++;
    return NEXT(int, "nanosleep", const struct timespec *, struct timespec *)(time, left);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *left)
{
    sleeps++;
    return NEXT(int, "clock_nanosleep", clockid_t, int, const struct timespec *, struct timespec *)(clock, flags, time, left);
}

int usleep(useconds_t time)
{
    sleeps++;
    return NEXT(int, "usleep", useconds_t)(time);
}

unsigned sleep(unsigned time)
{
    sleeps++;
    return NEXT(unsigned, "sleep", unsigned)(time);
}
