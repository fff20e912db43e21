/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each case puts layers on in a child of its own, tries there what must fail and what must go on working, and reports by its
 * exit status: 0, or the line of the check that failed.
 */
#include "sandbox/sandbox.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 60999u /* a uid that nobody has */
#define WRONG  1      /* exit status: a line modulo 128, plus 64, never this */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static int failed_line;
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond) && !failed_line)                                                                                   \
            failed_line = __LINE__;                                                                                    \
    } while (0)
#define DENIED(call, error) CHECK((errno = 0, (call) == -1) && errno == (error))

/* In a child: which line failed, 0: none; negative: the signal that ended it. Lines come back through a pipe. */
static int in_child(void (*fn)(void *), void *arg)
{
    int said[2], line = -1000, status = 0;

    cr_assert_eq(pipe(said), 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(said[0]);
        failed_line = 0;
        fn(arg);
        ssize_t n = write(said[1], &failed_line, sizeof(failed_line));
        _exit(n == sizeof(failed_line) ? 0 : WRONG);
    }
    cr_assert(pid > 0);
    close(said[1]);
    ssize_t n = read(said[0], &line, sizeof(line));
    close(said[0]);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        return -WTERMSIG(status);
    return n == sizeof(line) && WEXITSTATUS(status) == 0 ? line : -1000;
}
#define IN_CHILD(fn, arg)                                                                                              \
    do {                                                                                                               \
        int line_ = in_child(fn, arg);                                                                                 \
        cr_assert_eq(line_, 0, "line %d of the child fails (below 0: the signal that ended it)", line_);               \
    } while (0)

static void only(struct vgpu_sandbox_policy *p, enum vgpu_sandbox_layer layer)
{
    vgpu_sandbox_defaults(p);
    for (uint32_t i = 0; i < VGPU_SANDBOX_LAYERS; i++)
        p->want[i] = VGPU_SANDBOX_OFF;
    p->want[layer] = VGPU_SANDBOX_REQUIRED;
    p->want[VGPU_SANDBOX_NO_NEW] = VGPU_SANDBOX_REQUIRED; /* a filter needs it where we are not root */
}

static bool enter(const struct vgpu_sandbox_policy *p, struct vgpu_sandbox_report *r)
{
    struct vgpu_err err = {0};

    int rc = vgpu_sandbox_enter(p, r, &err);
    if (rc)
        fprintf(stderr, "%s\n", err.text);
    return rc == 0;
}

static void need_root(void)
{
    if (geteuid() != 0)
        cr_skip_test("needs root, to become another user and to mount");
    if (SANITIZED)
        cr_skip_test("this layer is left out in a sanitized build");
}

/* May we have a mount namespace at all? */
static void try_mounts(void *arg)
{
    CHECK(unshare(CLONE_NEWNS) == 0);
}

static void need_mounts(void)
{
    need_root();
    if (in_child(try_mounts, NULL))
        cr_skip_test("mount namespaces are refused here (no CAP_SYS_ADMIN)");
}

/* ---- text ---- */

Test(sandbox, a_policy_survives_being_an_argument)
{
    struct vgpu_sandbox_policy p, q;
    char text[VGPU_SANDBOX_TEXT_BYTES], small[64];
    struct vgpu_err err = {0};

    vgpu_sandbox_defaults(&p);
    p.want[VGPU_SANDBOX_MOUNTS] = VGPU_SANDBOX_REQUIRED;
    p.want[VGPU_SANDBOX_NETWORK] = VGPU_SANDBOX_OFF;
    p.uid = 60600;
    p.gid = 60601;
    p.denied = VGPU_SANDBOX_LOG;
    p.may = VGPU_SANDBOX_MAY_EXEC | VGPU_SANDBOX_MAY_FORK;
    p.data_bytes = UINT64_C(1) << 40;
    p.processes = 77;
    strcpy(p.devices, "/dev/nvidia*,/dev/dri/*");
    strcpy(p.reads, "/opt/a b");
    cr_assert_eq(vgpu_sandbox_format(&p, text, sizeof(text)), 0);
    cr_assert_eq(vgpu_sandbox_parse(text, &q, &err), 0, "%s", err.text);
    cr_assert_eq(memcmp(&p, &q, sizeof(p)), 0, "%s", text);
    cr_assert_eq(vgpu_sandbox_format(&p, small, sizeof(small)), -ENAMETOOLONG);
    strcpy(p.reads, "/a;uid=0");
    cr_assert_eq(vgpu_sandbox_format(&p, text, sizeof(text)), -EINVAL);
}

Test(sandbox, a_faulty_policy_is_refused_and_named)
{
    static const char *const faulty[] = {"mounts", "mounts=maybe", "uid=60600", "gid=1", "uid=-1;gid=1", "uid=4294967295;gid=1",
                                         "shoes=1", "may=x", "denied=1"};
    struct vgpu_sandbox_policy p;

    for (size_t i = 0; i < sizeof(faulty) / sizeof(faulty[0]); i++) {
        struct vgpu_err err = {0};
        cr_assert_eq(vgpu_sandbox_parse(faulty[i], &p, &err), -EINVAL, "%s", faulty[i]);
        cr_assert(err.text[0]);
    }
}

/* ---- seccomp ---- */

static void *a_thread(void *arg)
{
    return arg;
}

static void filtered(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    pthread_t t;
    pid_t parent = getppid();

    only(&p, VGPU_SANDBOX_SECCOMP);
    CHECK(enter(&p, &r) && r.in_force[VGPU_SANDBOX_SECCOMP]);
    DENIED(ptrace(PTRACE_TRACEME, 0, NULL, NULL), EPERM);
    DENIED(mount("none", "/mnt", "tmpfs", 0, NULL), EPERM);
    DENIED(unshare(CLONE_NEWUSER), EPERM);
    DENIED(unshare(0), EPERM); /* which the kernel itself would allow */
    struct rlimit limit;
    DENIED(prlimit(parent, RLIMIT_CPU, NULL, &limit), EPERM);
    CHECK(prlimit(0, RLIMIT_CPU, NULL, &limit) == 0 && prlimit(getpid(), RLIMIT_CPU, &limit, NULL) == 0);
    DENIED(syscall(SYS_bpf, 0, NULL, 0), EPERM);
    DENIED(syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0), EPERM);
    DENIED(syscall(SYS_io_uring_setup, 1, NULL), EPERM);
    DENIED(syscall(SYS_process_vm_readv, parent, NULL, 0, NULL, 0, 0), EPERM);
    DENIED(setuid(getuid()), EPERM); /* the same */
    DENIED(socket(AF_INET, SOCK_STREAM, 0), EAFNOSUPPORT);
    DENIED(socket(AF_INET6, SOCK_DGRAM, 0), EAFNOSUPPORT);
    DENIED(socket(AF_PACKET, SOCK_RAW, 0), EAFNOSUPPORT);
    DENIED(kill(parent, 0), EPERM);
    DENIED(kill(-1, 0), EPERM);
    DENIED(fork(), EPERM);
    DENIED(execl("/bin/true", "true", (char *)NULL), EPERM);
    DENIED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL), EPERM);
    DENIED(syscall(SYS_clone3, NULL, 0), ENOSYS);
    /* What executors live on. */
    CHECK(kill(getpid(), 0) == 0 && raise(0) == 0);
    CHECK(pthread_create(&t, NULL, a_thread, NULL) == 0 && pthread_join(t, NULL) == 0);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), mem = memfd_create("x", 0), null = open("/dev/null", O_RDWR);
    CHECK(fd >= 0 && mem >= 0 && null >= 0 && ftruncate(mem, 4096) == 0);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, mem, 0) != MAP_FAILED);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED); /* JIT */
    CHECK(prctl(PR_SET_NAME, "x") == 0);
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof(set), &set) == 0 && sched_setaffinity(0, sizeof(set), &set) == 0);
}

Test(sandbox, the_filter_denies_what_it_lists_and_nothing_else)
{
    if (SANITIZED)
        cr_skip_test("the filter is left out in a sanitized build");
    IN_CHILD(filtered, NULL);
}

static void filtered_but(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    int status = -1;

    only(&p, VGPU_SANDBOX_SECCOMP);
    p.may = VGPU_SANDBOX_MAY_EXEC | VGPU_SANDBOX_MAY_FORK | VGPU_SANDBOX_MAY_SIGNAL | VGPU_SANDBOX_MAY_CONNECT;
    CHECK(enter(&p, &r));
    CHECK(kill(getppid(), 0) == 0);
    CHECK(socket(AF_INET, SOCK_DGRAM, 0) >= 0);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/true", "true", (char *)NULL);
        _exit(99);
    }
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
    DENIED(unshare(0), EPERM);
}

Test(sandbox, a_policy_may_leave_more_allowed)
{
    if (SANITIZED)
        cr_skip_test("the filter is left out in a sanitized build");
    IN_CHILD(filtered_but, NULL);
}

static void killed(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;

    only(&p, VGPU_SANDBOX_SECCOMP);
    p.denied = VGPU_SANDBOX_KILL;
    CHECK(enter(&p, &r));
    unshare(0);
}

static void logged(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    int said[2];
    char text[256] = "";

    CHECK(pipe(said) == 0 && dup2(said[1], STDERR_FILENO) == STDERR_FILENO);
    only(&p, VGPU_SANDBOX_SECCOMP);
    p.denied = VGPU_SANDBOX_LOG;
    CHECK(enter(&p, &r));
    DENIED(unshare(0), EPERM);
    DENIED(socket(AF_INET, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK(read(said[0], text, sizeof(text) - 1) > 0);
    CHECK(strstr(text, "(unshare)") && strstr(text, "(socket)"));
}

Test(sandbox, a_denied_call_may_be_named_or_be_the_end)
{
    if (SANITIZED)
        cr_skip_test("the filter is left out in a sanitized build");
    cr_assert_eq(in_child(killed, NULL), -SIGSYS);
    IN_CHILD(logged, NULL);
}

/* ---- the user ---- */

static void becomes(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    struct rlimit core;
    int death = 0;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    vgpu_sandbox_defaults(&p);
    p.want[VGPU_SANDBOX_MOUNTS] = p.want[VGPU_SANDBOX_NETWORK] = VGPU_SANDBOX_OFF;
    p.want[VGPU_SANDBOX_USER] = *(enum vgpu_sandbox_want *)arg;
    p.uid = p.gid = NOBODY;
    CHECK(enter(&p, &r));
    CHECK(getuid() == NOBODY && geteuid() == NOBODY && getgid() == NOBODY && getgroups(0, NULL) == 0);
    CHECK(r.in_force[VGPU_SANDBOX_USER] && r.uid == NOBODY);
    DENIED(open("/etc/shadow", O_RDONLY), EACCES);
    CHECK(prctl(PR_GET_PDEATHSIG, &death) == 0 && death == SIGKILL);
    CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    CHECK(getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0);
}

#define MEMORY (UINT64_C(64) << 20)

/* Reserved or shared memory does not count: drivers reserve terabytes, and arenas are their guests'. */
static void bounded(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;

    (void)arg;
    only(&p, VGPU_SANDBOX_LIMITS);
    p.data_bytes = MEMORY;
    CHECK(enter(&p, &r));
    CHECK(mmap(NULL, MEMORY / 4, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    errno = 0;
    CHECK(mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM);
    CHECK(malloc(MEMORY) == NULL);
    CHECK(mmap(NULL, MEMORY * 1024, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED);
    CHECK(mmap(NULL, MEMORY * 2, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
}

Test(sandbox, memory_is_bounded)
{
    if (SANITIZED)
        cr_skip_test("this layer is left out in a sanitized build");
    IN_CHILD(bounded, NULL);
}

/* Without a file system of its own a program in a closed folder stays root: it could load nothing more. */
static bool program_is_open(void)
{
    char path[4096], *slash;
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    struct stat st;

    path[n > 0 ? n : 0] = 0;
    while ((slash = strrchr(path, '/')) != NULL && slash != path) {
        *slash = 0;
        if (stat(path, &st) || !(st.st_mode & S_IXOTH))
            return false;
    }
    return true;
}

Test(sandbox, root_becomes_nobody_in_particular)
{
    enum vgpu_sandbox_want want = VGPU_SANDBOX_REQUIRED;

    need_root();
    if (!program_is_open())
        cr_skip_test("the folder of this program is closed to others");
    IN_CHILD(becomes, &want);
}

static void stays(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    struct vgpu_err err = {0};
    char text[1024];

    CHECK(geteuid() != 0 || setresuid(NOBODY, NOBODY, NOBODY) == 0);
    vgpu_sandbox_defaults(&p);
    p.uid = p.gid = NOBODY + 1;
    CHECK(vgpu_sandbox_enter(&p, &r, &err) == 0);
    CHECK(!r.in_force[VGPU_SANDBOX_USER] && r.why[VGPU_SANDBOX_USER][0]);
    CHECK(!r.in_force[VGPU_SANDBOX_MOUNTS] && r.why[VGPU_SANDBOX_MOUNTS][0]);
    CHECK(r.in_force[VGPU_SANDBOX_NO_NEW] && (SANITIZED || r.in_force[VGPU_SANDBOX_SECCOMP]));
    vgpu_sandbox_report_text(&r, text, sizeof(text));
    CHECK(strstr(text, "no_new_privs") && strstr(text, "not: mounts ("));
    p.want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_REQUIRED;
    CHECK(vgpu_sandbox_enter(&p, &r, &err) < 0 && strstr(err.text, "user"));
}

Test(sandbox, what_is_refused_is_left_out_unless_it_is_required)
{
    if (SANITIZED && geteuid() == 0)
        cr_skip_test("mounts and user are left out in a sanitized build for another reason");
    IN_CHILD(stays, NULL);
}

/* ---- mounts and network ---- */

static char hidden[] = "/tmp/sandbox-hidden-XXXXXX", shown[] = "/tmp/sandbox-shown-XXXXXX";

static void in_own_files(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    char path[128];

    vgpu_sandbox_defaults(&p);
    p.want[VGPU_SANDBOX_MOUNTS] = p.want[VGPU_SANDBOX_NETWORK] = p.want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_REQUIRED;
    p.uid = p.gid = NOBODY;
    strcpy(p.devices, "/dev/tty*,/dev/nowhere*");
    snprintf(p.reads, sizeof(p.reads), "/nowhere,%s/file", shown);
    CHECK(enter(&p, &r));
    CHECK(r.in_force[VGPU_SANDBOX_MOUNTS] && r.in_force[VGPU_SANDBOX_NETWORK]);
    DENIED(access(hidden, F_OK), ENOENT);
    DENIED(access("/root", F_OK), ENOENT);
    DENIED(access("/home", F_OK), ENOENT);
    DENIED(access("/etc/shadow", F_OK), ENOENT);
    DENIED(access("/../etc/shadow", F_OK), ENOENT); /* nothing is mounted over our root, where .. would lead */
    DENIED(access("/var", F_OK), ENOENT);
    DENIED(access("/run/dbus", F_OK), ENOENT);
    DENIED(access("/dev/mem", F_OK), ENOENT);
    DENIED(access("/dev/vda", F_OK), ENOENT);
    DENIED(access("/dev/loop0", F_OK), ENOENT);
    DENIED(open("/new", O_WRONLY | O_CREAT, 0600), EROFS);
    DENIED(open("/usr/new", O_WRONLY | O_CREAT, 0600), EROFS);
    DENIED(open("/proc/sys/kernel/core_pattern", O_WRONLY), EACCES);
    /* What it lives on. */
    CHECK(open("/tmp/mine", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0);
    CHECK(open("/dev/shm/mine", O_RDWR | O_CREAT | O_EXCL, 0600) >= 0);
    CHECK(open("/dev/null", O_RDWR) >= 0 && open("/dev/urandom", O_RDONLY) >= 0);
    CHECK(access("/dev/tty0", F_OK) == 0 || access("/dev/tty", F_OK) == 0);
    CHECK(access("/proc/self/status", R_OK) == 0 && access("/sys/devices", R_OK) == 0);
    CHECK(access("/bin/sh", R_OK) == 0 && access("/etc/ld.so.cache", R_OK) == 0);
    snprintf(path, sizeof(path), "%s/file", shown);
    CHECK(access(path, R_OK) == 0);
    DENIED(open(path, O_WRONLY), EACCES);
    CHECK(strcmp(getenv("HOME"), "/tmp") == 0 && getenv("CUDA_CACHE_PATH"));
    /* Nothing but a loopback that is down. */
    FILE *f = fopen("/proc/self/net/dev", "r");
    char line[256];
    int interfaces = 0;
    while (f && fgets(line, sizeof(line), f))
        interfaces += strchr(line, ':') != NULL;
    CHECK(f && interfaces <= 1);
}

Test(sandbox, a_file_system_and_a_network_of_its_own)
{
    char path[128];

    need_mounts();
    cr_assert(mkdtemp(hidden) && mkdtemp(shown));
    snprintf(path, sizeof(path), "%s/file", shown);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    cr_assert(fd >= 0 && chmod(shown, 0755) == 0);
    close(fd);
    int line = in_child(in_own_files, NULL);
    unlink(path);
    rmdir(shown);
    rmdir(hidden);
    cr_assert_eq(line, 0, "line %d of the child fails", line);
}

static void node_of_root(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;

    only(&p, VGPU_SANDBOX_MOUNTS);
    p.want[VGPU_SANDBOX_USER] = VGPU_SANDBOX_REQUIRED;
    p.uid = p.gid = NOBODY;
    strcpy(p.devices, "/dev/net/tun,/dev/loop-control");
    CHECK(enter(&p, &r));
    /* Mode 0660 of root outside: here it is ours, since it was named. */
    CHECK(open("/dev/loop-control", O_RDWR) >= 0);
}

/* Root without capabilities still owns root's files: that they cannot be written is the file system's doing. */
static void still_root(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;

    vgpu_sandbox_defaults(&p);
    p.want[VGPU_SANDBOX_MOUNTS] = p.want[VGPU_SANDBOX_CAPS] = VGPU_SANDBOX_REQUIRED;
    CHECK(enter(&p, &r) && geteuid() == 0);
    CHECK(!r.in_force[VGPU_SANDBOX_USER]);
    DENIED(open("/proc/sys/kernel/core_pattern", O_WRONLY), EROFS);
    DENIED(open("/usr/new", O_WRONLY | O_CREAT, 0600), EROFS);
    DENIED(access("/etc/shadow", F_OK), ENOENT);
    DENIED(setpriority(PRIO_PROCESS, 0, -20), EACCES);
}

Test(sandbox, root_that_stays_root_writes_nothing)
{
    need_mounts();
    IN_CHILD(still_root, NULL);
}

Test(sandbox, a_named_node_that_is_roots_can_be_opened)
{
    need_mounts();
    if (access("/dev/loop-control", F_OK))
        cr_skip_test("no /dev/loop-control here");
    IN_CHILD(node_of_root, NULL);
}

/* ---- in a process with threads ---- */

static int go;

static void *waits(void *arg)
{
    while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE))
        usleep(1000);
    if (!SANITIZED && !(syscall(SYS_unshare, 0) == -1 && errno == EPERM))
        return (void *)1;
    return NULL;
}

/* Of every thread: capabilities, the uid, no_new_privs. */
static int threads_with(const char *field, const char *value)
{
    char path[300], line[256];
    DIR *dir = opendir("/proc/self/task");
    const struct dirent *one;
    int n = 0;

    while (dir && (one = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "/proc/self/task/%s/status", one->d_name);
        FILE *f = one->d_name[0] != '.' ? fopen(path, "r") : NULL;
        while (f && fgets(line, sizeof(line), f))
            n += strncmp(line, field, strlen(field)) == 0 && strstr(line, value) != NULL;
        if (f)
            fclose(f);
    }
    if (dir)
        closedir(dir);
    return n;
}

static void threads_drop(void *arg)
{
    struct vgpu_sandbox_policy p;
    struct vgpu_sandbox_report r;
    struct vgpu_err err = {0};
    pthread_t t[8];
    const uint64_t keep = *(uint64_t *)arg;
    char text[32], user[32];
    void *said;

    for (int i = 0; i < 8; i++) {
        sigset_t all, before;
        sigfillset(&all);
        if (i == 3) /* a library's thread that wants no signals */
            pthread_sigmask(SIG_SETMASK, &all, &before);
        CHECK(pthread_create(&t[i], NULL, waits, NULL) == 0);
        if (i == 3)
            pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    vgpu_sandbox_defaults(&p);
    if (geteuid() == 0 && !SANITIZED)
        p.uid = p.gid = NOBODY;
    CHECK(vgpu_sandbox_drop(&p, keep, &r, &err) == 0);
    CHECK(r.in_force[VGPU_SANDBOX_CAPS] && r.in_force[VGPU_SANDBOX_NO_NEW]);
    snprintf(text, sizeof(text), "%016llx", geteuid() == 0 || p.uid == NOBODY ? (unsigned long long)keep : 0ull);
    CHECK(threads_with("CapEff:", text) == 9);
    CHECK(threads_with("CapPrm:", text) == 9);
    CHECK(threads_with("NoNewPrivs:", "1") == 9);
    snprintf(user, sizeof(user), "%u", (unsigned)geteuid());
    CHECK(threads_with("Uid:", user) == 9);
    CHECK(SANITIZED || threads_with("Seccomp:", "2") == 9);
    __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
    for (int i = 0; i < 8; i++)
        CHECK(pthread_join(t[i], &said) == 0 && !said);
}

Test(sandbox, all_threads_give_up_together)
{
    uint64_t nothing = 0, kill_only = UINT64_C(1) << 5;

    IN_CHILD(threads_drop, &nothing);
    if (geteuid() == 0)
        IN_CHILD(threads_drop, &kill_only);
}
