/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Giving up privileges in a process that has threads. Capabilities and credentials belong to threads, and the kernel has no
 * call for all of them: so each thread is sent a signal whose handler does it, until each that /proc names has done it.
 * A library's thread may have blocked all signals (libxenstore's does): for such there is the one signal that the C library
 * never lets anybody block, its own for the same purpose (setuid() in a process with threads).
 */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core/base/atomic.h"
#include "sandbox/internal.h"

#define UNBLOCKED_SIGNAL 33 /* glibc's SIGSETXID: it hides this number from sigaction() and from all masks */
#define ROUNDS_MAX 200 /* of 10 ms: a thread that takes no signal in 2 s is an error */

/* Written before the first signal is sent, read by the handlers. */
static struct {
    uint32_t uid, gid;
    uint64_t keep;
    bool become, caps, no_new;
} what;
static int64_t first_error; /* relaxed: a number; the threads are looked at in /proc */

static void drop_here(void)
{
    int rc = 0;

    if (what.become && (uint32_t)syscall(SYS_geteuid) != what.uid)
        rc = vgpu_sandbox_become(what.uid, what.gid, what.keep);
    if (rc == 0 && what.no_new && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        rc = -errno;
    if (rc == 0 && what.caps)
        rc = vgpu_sandbox_caps_set(what.keep);
    if (rc)
        vgpu_store_relaxed(&first_error, (int64_t)rc);
}

static void on_signal(int signal)
{
    int saved = errno;

    drop_here();
    errno = saved;
}

/* Has this thread done all of it? *blocked: the signals that it does not take. */
static bool thread_done(const char *tid, unsigned long long *blocked)
{
    char path[300], line[256];
    unsigned long long caps = ~0ull;

    *blocked = 0;
    unsigned uid = ~0u, no_new = 0;

    snprintf(path, sizeof(path), "/proc/self/task/%s/status", tid);
    FILE *f = fopen(path, "re");
    if (!f)
        return true; /* it ended */
    while (fgets(line, sizeof(line), f)) {
        sscanf(line, "CapPrm: %llx", &caps);
        sscanf(line, "Uid: %*u %u", &uid);
        sscanf(line, "NoNewPrivs: %u", &no_new);
        sscanf(line, "SigBlk: %llx", blocked);
    }
    fclose(f);
    return (!what.caps || (caps & ~what.keep) == 0) && (!what.become || uid == what.uid) && (!what.no_new || no_new == 1);
}

/* Our handler for the signal that the C library keeps to itself, as that would install it: the kernel's form, with the
 * return path, is copied from one that it did install. Nothing changes its user afterwards, so it is not put back. */
static bool unblocked_install(int like)
{
    static bool installed;
    unsigned long form[8] = {0}; /* struct sigaction of the kernel: handler, flags, restorer, 8 bytes of mask */

    if (!installed)
        installed = syscall(SYS_rt_sigaction, like, NULL, form, 8) == 0 &&
                    syscall(SYS_rt_sigaction, UNBLOCKED_SIGNAL, form, NULL, 8) == 0;
    return installed;
}

/* One round; how many threads were not done yet. -errno: the list of threads cannot be read. */
static int round_send(int signal)
{
    DIR *dir = opendir("/proc/self/task");
    const struct dirent *one;
    unsigned long long blocked;
    int behind = 0;

    if (!dir)
        return -errno;
    while ((one = readdir(dir)) != NULL) {
        pid_t tid = (pid_t)atoi(one->d_name);
        if (tid <= 0 || thread_done(one->d_name, &blocked))
            continue;
        behind++;
        bool deaf = blocked >> (signal - 1) & 1;
        if (tid != (pid_t)syscall(SYS_gettid))
            syscall(SYS_tgkill, getpid(), tid, deaf && unblocked_install(signal) ? UNBLOCKED_SIGNAL : signal);
        else
            drop_here();
    }
    closedir(dir);
    return behind;
}

static int everywhere(char *why, size_t bytes)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old;
    struct timespec nap = {.tv_nsec = 10000000};
    int signal = SIGRTMIN + 7, behind = 1;

    vgpu_store_relaxed(&first_error, INT64_C(0));
    sigfillset(&sa.sa_mask);
    sigaction(signal, &sa, &old);
    for (int i = 0; i < ROUNDS_MAX && behind > 0 && !vgpu_load_relaxed(&first_error); i++) {
        behind = round_send(signal);
        if (behind > 0)
            nanosleep(&nap, NULL);
    }
    /* The handler stays: a thread that was slow may get its signal yet. It does what is done already. */
    int rc = (int)vgpu_load_relaxed(&first_error);
    if (rc == 0 && behind < 0)
        rc = behind;
    if (rc)
        snprintf(why, bytes, "%s", strerror(-rc));
    else if (behind > 0)
        snprintf(why, bytes, "%d threads do not follow", behind);
    return rc ? rc : behind > 0 ? -ETIMEDOUT : 0;
}

static int refused(enum vgpu_sandbox_layer layer, const struct vgpu_sandbox_report *r, int rc, struct vgpu_err *err)
{
    return vgpu_err_set(err, -rc, "cannot give up privileges (%s): %s", vgpu_sandbox_layer_name(layer), r->why[layer]);
}

int vgpu_sandbox_drop(const struct vgpu_sandbox_policy *p, uint64_t keep_caps, struct vgpu_sandbox_report *r,
                      struct vgpu_err *err)
{
    const enum vgpu_sandbox_layer layers[] = {VGPU_SANDBOX_USER, VGPU_SANDBOX_CAPS, VGPU_SANDBOX_NO_NEW};

    memset(r, 0, sizeof(*r)); /* of the other layers there is nothing to say */
    what.become = what.caps = what.no_new = false;
    what.uid = p->uid;
    what.gid = p->gid;
    what.keep = keep_caps;
    for (uint32_t i = 0; i < 3; i++) {
        enum vgpu_sandbox_layer layer = layers[i];
        if (vgpu_sandbox_layer_skipped(p, layer, r))
            continue;
        if (layer == VGPU_SANDBOX_USER && p->uid == VGPU_SANDBOX_SAME_USER) {
            snprintf(r->why[layer], VGPU_SANDBOX_WHY_BYTES, "none is named");
            continue;
        }
        what.become |= layer == VGPU_SANDBOX_USER;
        what.caps |= layer == VGPU_SANDBOX_CAPS;
        what.no_new |= layer == VGPU_SANDBOX_NO_NEW;
        int rc = everywhere(r->why[layer], VGPU_SANDBOX_WHY_BYTES);
        r->in_force[layer] = rc == 0;
        /* Half of the threads with privileges and half without is no state to go on in. */
        if (rc)
            return refused(layer, r, rc, err);
    }
    if (!vgpu_sandbox_layer_skipped(p, VGPU_SANDBOX_SECCOMP, r)) {
        int rc = vgpu_sandbox_seccomp(p, true, r->why[VGPU_SANDBOX_SECCOMP], VGPU_SANDBOX_WHY_BYTES);
        r->in_force[VGPU_SANDBOX_SECCOMP] = rc == 0;
        if (rc && p->want[VGPU_SANDBOX_SECCOMP] == VGPU_SANDBOX_REQUIRED)
            return refused(VGPU_SANDBOX_SECCOMP, r, rc, err);
    }
    r->uid = geteuid();
    return 0;
}
