/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system call filter: a list of what is denied, all else is allowed. A list of what is allowed would be stronger and
 * break with each version of a device's driver library, whose calls nobody documents.
 *
 * The kernel answers calls that a filter allows whatever their arguments from a bitmap (Linux 5.11 and later): read, write,
 * futex and ioctl's neighbours cost nothing more.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <ucontext.h>
#include <unistd.h>

#include "sandbox/internal.h"

#if defined(__x86_64__)
#define ARCH       AUDIT_ARCH_X86_64
#define X32_BIT    0x40000000u
#elif defined(__aarch64__)
#define ARCH       AUDIT_ARCH_AARCH64
#endif

#define PROGRAM_MAX 512u
#define NAMESPACES (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET)

struct call {
    int nr;
    const char *name;
    uint32_t unless; /* VGPU_SANDBOX_MAY_*: allowed where the policy has one of these */
};
#define CALL(name, unless) {SYS_##name, #name, unless}
static const struct call denied[] = {
    /* other processes */
    CALL(ptrace, 0), CALL(process_vm_readv, 0), CALL(process_vm_writev, 0), CALL(pidfd_getfd, 0), CALL(kcmp, 0),
    CALL(process_madvise, 0),
    /* the kernel and the machine */
    CALL(init_module, 0), CALL(finit_module, 0), CALL(delete_module, 0), CALL(kexec_load, 0), CALL(reboot, 0),
    CALL(swapon, 0), CALL(swapoff, 0), CALL(syslog, 0), CALL(acct, 0), CALL(quotactl, 0), CALL(sethostname, 0),
    CALL(setdomainname, 0), CALL(settimeofday, 0), CALL(clock_settime, 0), CALL(clock_adjtime, 0), CALL(adjtimex, 0),
    CALL(personality, 0), CALL(vhangup, 0),
    /* large interfaces into the kernel that nothing here needs */
    CALL(bpf, 0), CALL(perf_event_open, 0), CALL(userfaultfd, 0), CALL(add_key, 0), CALL(request_key, 0), CALL(keyctl, 0),
    CALL(io_uring_setup, 0), CALL(io_uring_enter, 0), CALL(io_uring_register, 0), CALL(fanotify_init, 0),
    CALL(name_to_handle_at, 0), CALL(open_by_handle_at, 0), CALL(lookup_dcookie, 0), CALL(nfsservctl, 0),
#ifdef SYS_kexec_file_load
    CALL(kexec_file_load, 0),
#endif
#ifdef SYS_iopl
    CALL(iopl, 0), CALL(ioperm, 0), CALL(modify_ldt, 0), CALL(uselib, 0), CALL(ustat, 0), CALL(sysfs, 0), CALL(mknod, 0),
    CALL(fork, VGPU_SANDBOX_MAY_FORK), CALL(vfork, VGPU_SANDBOX_MAY_FORK),
#endif
    CALL(mknodat, 0),
    /* namespaces, mounts */
    CALL(unshare, VGPU_SANDBOX_MAY_BECOME), CALL(setns, VGPU_SANDBOX_MAY_BECOME), CALL(chroot, VGPU_SANDBOX_MAY_BECOME),
    CALL(pivot_root, VGPU_SANDBOX_MAY_BECOME), CALL(mount, VGPU_SANDBOX_MAY_BECOME),
    CALL(umount2, VGPU_SANDBOX_MAY_BECOME), CALL(open_tree, VGPU_SANDBOX_MAY_BECOME),
    CALL(move_mount, VGPU_SANDBOX_MAY_BECOME), CALL(mount_setattr, VGPU_SANDBOX_MAY_BECOME),
    CALL(fsopen, VGPU_SANDBOX_MAY_BECOME), CALL(fsconfig, VGPU_SANDBOX_MAY_BECOME), CALL(fsmount, VGPU_SANDBOX_MAY_BECOME),
    CALL(fspick, VGPU_SANDBOX_MAY_BECOME),
    /* who we are */
    CALL(setuid, VGPU_SANDBOX_MAY_BECOME), CALL(setgid, VGPU_SANDBOX_MAY_BECOME), CALL(setreuid, VGPU_SANDBOX_MAY_BECOME),
    CALL(setregid, VGPU_SANDBOX_MAY_BECOME), CALL(setresuid, VGPU_SANDBOX_MAY_BECOME),
    CALL(setresgid, VGPU_SANDBOX_MAY_BECOME), CALL(setgroups, VGPU_SANDBOX_MAY_BECOME),
    CALL(setfsuid, VGPU_SANDBOX_MAY_BECOME), CALL(setfsgid, VGPU_SANDBOX_MAY_BECOME), CALL(capset, VGPU_SANDBOX_MAY_BECOME),
    /* other programs and processes */
    CALL(execve, VGPU_SANDBOX_MAY_EXEC), CALL(execveat, VGPU_SANDBOX_MAY_EXEC), CALL(tkill, VGPU_SANDBOX_MAY_SIGNAL),
    CALL(rt_sigqueueinfo, VGPU_SANDBOX_MAY_SIGNAL), CALL(rt_tgsigqueueinfo, VGPU_SANDBOX_MAY_SIGNAL),
    CALL(pidfd_send_signal, VGPU_SANDBOX_MAY_SIGNAL),
};
/* Judged by their arguments. */
static const struct call judged[] = {CALL(clone, 0), CALL(clone3, 0), CALL(socket, 0), CALL(ioctl, 0), CALL(kill, 0),
                                     CALL(tgkill, 0), CALL(prlimit64, 0)};

struct program {
    struct sock_filter code[PROGRAM_MAX];
    unsigned short count;
    enum vgpu_sandbox_denied how;
};

static void put(struct program *g, struct sock_filter one)
{
    if (g->count < PROGRAM_MAX)
        g->code[g->count] = one;
    g->count++;
}

static void load(struct program *g, uint32_t offset)
{
    put(g, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset));
}

static void load_number(struct program *g)
{
    load(g, offsetof(struct seccomp_data, nr));
}

/* The low half of an argument; those judged here are 32-bit wide to the kernel, both ends are little-endian. */
static void load_arg(struct program *g, unsigned i)
{
    load(g, (uint32_t)offsetof(struct seccomp_data, args) + 8 * i);
}

static uint32_t verdict(const struct program *g, uint32_t error)
{
    return g->how == VGPU_SANDBOX_KILL  ? SECCOMP_RET_KILL_PROCESS
           : g->how == VGPU_SANDBOX_LOG ? SECCOMP_RET_TRAP | error
                                        : SECCOMP_RET_ERRNO | error;
}

static void answer(struct program *g, uint32_t what)
{
    put(g, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, what));
}

/* Goes on after the next `skip` instructions unless the value is k. */
static void unless_equal(struct program *g, uint32_t k, uint8_t skip)
{
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, 0, skip));
}

static void deny_clone(struct program *g, uint32_t may)
{
    if (!(may & VGPU_SANDBOX_MAY_BECOME)) {
        unless_equal(g, SYS_clone, 4);
        load_arg(g, 0);
        put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NAMESPACES, 0, 1));
        answer(g, verdict(g, EPERM));
        load_number(g);
    }
    if (!(may & VGPU_SANDBOX_MAY_FORK)) {
        unless_equal(g, SYS_clone, 4);
        load_arg(g, 0);
        put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0));
        answer(g, verdict(g, EPERM));
        load_number(g);
    }
    /* Its arguments are out of a filter's sight; C libraries go back to clone. */
    if (!(may & VGPU_SANDBOX_MAY_BECOME) || !(may & VGPU_SANDBOX_MAY_FORK)) {
        unless_equal(g, SYS_clone3, 1);
        answer(g, SECCOMP_RET_ERRNO | ENOSYS);
    }
}

static void deny_socket(struct program *g, uint32_t may)
{
    if (may & VGPU_SANDBOX_MAY_CONNECT)
        return;
    unless_equal(g, SYS_socket, 5);
    load_arg(g, 0);
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_UNIX, 2, 0));
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AF_NETLINK, 1, 0));
    answer(g, verdict(g, EAFNOSUPPORT));
    load_number(g);
}

/* Typing into the terminal that we were started from. */
static void deny_ioctl(struct program *g)
{
    unless_equal(g, SYS_ioctl, 5);
    load_arg(g, 1);
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TIOCSTI, 1, 0));
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TIOCLINUX, 0, 1));
    answer(g, verdict(g, EPERM));
    load_number(g);
}

/* To this process alone. */
static void deny_signal(struct program *g, uint32_t may, int nr)
{
    if (may & VGPU_SANDBOX_MAY_SIGNAL)
        return;
    unless_equal(g, (uint32_t)nr, 4);
    load_arg(g, 0);
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)getpid(), 1, 0));
    answer(g, verdict(g, EPERM));
    load_number(g);
}

/* Limits of another process of our user: one of CPU time would end it. */
static void deny_limits(struct program *g, uint32_t may)
{
    if (may & VGPU_SANDBOX_MAY_BECOME)
        return;
    unless_equal(g, SYS_prlimit64, 5);
    load_arg(g, 0);
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0));
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)getpid(), 1, 0));
    answer(g, verdict(g, EPERM));
    load_number(g);
}

static void program_build(struct program *g, const struct vgpu_sandbox_policy *p)
{
    g->count = 0;
    g->how = p->denied;
#ifdef ARCH
    /* Calls of another ABI have other numbers: none of ours makes any. */
    load(g, offsetof(struct seccomp_data, arch));
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0));
    answer(g, SECCOMP_RET_KILL_PROCESS);
    load_number(g);
#ifdef X32_BIT
    put(g, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 0, 1));
    answer(g, SECCOMP_RET_ERRNO | ENOSYS);
#endif
    for (size_t i = 0; i < sizeof(denied) / sizeof(denied[0]); i++) {
        if (denied[i].unless & p->may)
            continue;
        unless_equal(g, (uint32_t)denied[i].nr, 1);
        answer(g, verdict(g, EPERM));
    }
    deny_clone(g, p->may);
    deny_socket(g, p->may);
    deny_ioctl(g);
    deny_limits(g, p->may);
    deny_signal(g, p->may, SYS_kill);
    deny_signal(g, p->may, SYS_tgkill);
    answer(g, SECCOMP_RET_ALLOW);
#endif
}

/* ---- saying which call it was ---- */

static const char *call_name(int nr)
{
    for (size_t i = 0; i < sizeof(denied) / sizeof(denied[0]); i++)
        if (denied[i].nr == nr)
            return denied[i].name;
    for (size_t i = 0; i < sizeof(judged) / sizeof(judged[0]); i++)
        if (judged[i].nr == nr)
            return judged[i].name;
    return "?";
}

/* The call returns the filter's error, as it would without us. Runs inside of any code: formatting numbers and
 * words takes no lock, and the write is one. */
static void on_denied(int signal, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    char text[160];

    int n = snprintf(text, sizeof(text), "%s: the sandbox denied system call %d (%s)\n", vgpu_log_name, info->si_syscall,
                     call_name(info->si_syscall));
    ssize_t ignored = write(STDERR_FILENO, text, n > 0 && (size_t)n < sizeof(text) ? (size_t)n : 0);
    (void)ignored;
#if defined(__x86_64__)
    u->uc_mcontext.gregs[REG_RAX] = -(greg_t)info->si_errno;
#elif defined(__aarch64__)
    u->uc_mcontext.regs[0] = (uint64_t)-(int64_t)info->si_errno;
#endif
}

int vgpu_sandbox_seccomp(const struct vgpu_sandbox_policy *p, bool all_threads, char *why, size_t bytes)
{
    static struct program g; /* 4 KiB; one thread at a time enters a sandbox */
    struct sigaction sa = {.sa_sigaction = on_denied, .sa_flags = SA_SIGINFO | SA_NODEFER};

#ifndef ARCH
    snprintf(why, bytes, "no filter for this processor in this build");
    return -ENOSYS;
#endif
    program_build(&g, p);
    if (g.count > PROGRAM_MAX) {
        snprintf(why, bytes, "the filter has %u instructions, there is room for %u", g.count, PROGRAM_MAX);
        return -E2BIG;
    }
    if (p->denied == VGPU_SANDBOX_LOG)
        sigaction(SIGSYS, &sa, NULL);
    struct sock_fprog f = {.len = g.count, .filter = g.code};
    long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0, &f);
    if (rc == 0)
        return 0;
    int error = rc > 0 ? ESRCH : errno; /* > 0: a thread has another filter */
    snprintf(why, bytes, "the kernel refuses a filter: %s", strerror(error));
    return -error;
}
