/* SPDX-License-Identifier: Apache-2.0 */
/* Trying what must fail, from inside. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/sandbox.h"

static int open_path(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);

    if (fd >= 0)
        close(fd);
    return fd;
}

static int try_ptrace(void)
{
    return (int)ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static int try_process_vm(void)
{
    return (int)syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0);
}

static int try_mount(void)
{
    return mount("none", "/", NULL, MS_REMOUNT | MS_BIND, NULL);
}

static int try_unshare(void)
{
    return unshare(CLONE_NEWUSER);
}

static int try_bpf(void)
{
    return (int)syscall(SYS_bpf, 0, NULL, 0);
}

static int try_module(void)
{
    return (int)syscall(SYS_finit_module, -1, "", 0);
}

static int try_perf(void)
{
    return (int)syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
}

static int try_internet(void)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

static int try_exec(void)
{
    char *none[] = {NULL};

    return execve("/bin/true", none, none);
}

static int try_signal(void)
{
    return kill(getppid(), 0);
}

static int try_setuid(void)
{
    return (int)syscall(SYS_setresuid, 0, 0, 0);
}

static int try_raise(void)
{
    return setpriority(PRIO_PROCESS, 0, -20);
}

static int try_shadow(void)
{
    return open_path("/etc/shadow", O_RDONLY);
}

static int try_home(void)
{
    return open_path("/root", O_RDONLY | O_DIRECTORY);
}

static int try_run(void)
{
    return open_path("/run/systemd", O_RDONLY | O_DIRECTORY);
}

static int try_sysctl(void)
{
    return open_path("/proc/sys/kernel/core_pattern", O_WRONLY);
}

static int try_library(void)
{
    return open("/usr/vgpu-was-here", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
}

static int try_disk(void)
{
    return open_path("/dev/mem", O_RDONLY);
}

static int try_core(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_CORE, &r) || r.rlim_max != 0)
        return 0;
    errno = EPERM;
    return -1;
}

/* What ptrace is denied for could be had through a file. */
static int try_memory(void)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/mem", (int)getppid());
    return open_path(path, O_RDWR);
}

static int try_limit(void)
{
    struct rlimit r;

    return prlimit(getppid(), RLIMIT_CPU, NULL, &r);
}

static const struct attempt {
    const char *what;
    uint32_t layers; /* any of these denies it */
    uint32_t unless; /* VGPU_SANDBOX_MAY_* */
    int (*fn)(void); /* below 0 with errno: denied */
} attempts[] = {
#define BY(layer) (1u << VGPU_SANDBOX_##layer)
    {"trace a process", BY(SECCOMP), 0, try_ptrace},
    {"read another process's memory", BY(SECCOMP), 0, try_process_vm},
    {"open the parent's memory", BY(USER), 0, try_memory},
    {"bound the parent's CPU time", BY(SECCOMP), VGPU_SANDBOX_MAY_BECOME, try_limit},
    {"mount", BY(SECCOMP) | BY(CAPS), 0, try_mount},
    {"make a user namespace", BY(SECCOMP), 0, try_unshare},
    {"load a BPF program", BY(SECCOMP), 0, try_bpf},
    {"load a kernel module", BY(SECCOMP) | BY(CAPS), 0, try_module},
    {"watch the kernel's counters", BY(SECCOMP), 0, try_perf},
    {"make an internet socket", BY(SECCOMP), VGPU_SANDBOX_MAY_CONNECT, try_internet},
    {"start a program", BY(SECCOMP), VGPU_SANDBOX_MAY_EXEC, try_exec},
    {"signal the parent", BY(SECCOMP), VGPU_SANDBOX_MAY_SIGNAL, try_signal},
    {"become root", BY(SECCOMP) | BY(USER), 0, try_setuid},
    {"raise its own priority", BY(CAPS), 0, try_raise},
    {"read /etc/shadow", BY(MOUNTS) | BY(USER), 0, try_shadow},
    {"look into /root", BY(MOUNTS), 0, try_home},
    {"look into /run", BY(MOUNTS), 0, try_run},
    {"set core_pattern", BY(MOUNTS) | BY(USER), 0, try_sysctl},
    {"write to /usr", BY(MOUNTS) | BY(USER), 0, try_library},
    {"open /dev/mem", BY(MOUNTS) | BY(CAPS), 0, try_disk},
    {"dump core", BY(LIMITS), 0, try_core},
#undef BY
};

uint32_t vgpu_sandbox_try(const struct vgpu_sandbox_policy *p, const struct vgpu_sandbox_report *r, FILE *out)
{
    uint32_t in_force = 0, wrong = 0;

    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        in_force |= (uint32_t)r->in_force[i] << i;
    for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++) {
        const struct attempt *a = &attempts[i];
        if (!(a->layers & in_force) || (a->unless & p->may)) {
            fprintf(out, "not tried: %s: no layer in force denies it\n", a->what);
            continue;
        }
        fflush(out);
        errno = 0;
        bool denied = a->fn() < 0;
        wrong += !denied;
        fprintf(out, "%s: %s%s%s\n", denied ? "denied" : "ALLOWED", a->what, denied ? ": " : "", denied ? strerror(errno) : "");
    }
    return wrong;
}
