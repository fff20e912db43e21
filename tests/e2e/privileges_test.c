/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vgpud and its executors give up, looked at from outside (/proc, file modes) and tried from inside (vgpu-exec
 * --probe=sandbox-try with the very policy that a running executor has), and that all goes on working without it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define OTHER_UID 60990u /* nobody's */
#define POLICY_BYTES 4096

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* ---- looking at processes ---- */

/* Is each thread's line of /proc/PID/task/TID/status with this field equal to value? */
static void check_threads(pid_t pid, const char *field, const char *value)
{
    char path[300], line[256], want[128];
    const struct dirent *one;
    unsigned seen = 0;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    snprintf(want, sizeof(want), "%s\t%s\n", field, value);
    DIR *dir = opendir(path);
    e2e_check(dir, "%s: %s", path, strerror(errno));
    while ((one = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "/proc/%d/task/%.16s/status", (int)pid, one->d_name);
        FILE *f = one->d_name[0] != '.' ? fopen(path, "r") : NULL;
        while (f && fgets(line, sizeof(line), f))
            if (strncmp(line, field, strlen(field)) == 0) {
                e2e_check(strcmp(line, want) == 0, "thread %s of %d: expected %s%s, there is %s", one->d_name, (int)pid, field,
                          value, line);
                seen++;
            }
        if (f)
            fclose(f);
    }
    closedir(dir);
    e2e_check(seen > 0, "process %d has no %s", (int)pid, field);
}

static uint64_t status_number(pid_t pid, const char *field, int base)
{
    char path[64], line[256];
    uint64_t value = UINT64_MAX;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), f))
        if (strncmp(line, field, strlen(field)) == 0)
            value = strtoull(line + strlen(field), NULL, base);
    fclose(f);
    return value;
}

static bool same_namespace(pid_t a, pid_t b, const char *which)
{
    char path[64], one[64] = "", two[64] = "";

    snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)a, which);
    e2e_check(readlink(path, one, sizeof(one) - 1) > 0, "%s: %s", path, strerror(errno));
    snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)b, which);
    e2e_check(readlink(path, two, sizeof(two) - 1) > 0, "%s: %s", path, strerror(errno));
    return strcmp(one, two) == 0;
}

/* What this executor says of its sandbox; the text lives until the next call. */
static const char *sandbox_of(const struct e2e_host *h, unsigned index)
{
    static char text[512];
    json_t *stats = e2e_stats(h);
    const char *said = json_string_value(json_object_get(json_array_get(json_object_get(stats, "executors"), index), "sandbox"));

    snprintf(text, sizeof(text), "%s", said ? said : "");
    json_decref(stats);
    return text;
}

/* Is a layer in force, by what the executor says? */
static bool has(const char *said, const char *layer)
{
    const char *found = strstr(said, layer), *not = strstr(said, "; not: ");

    return found && (!not || found < not);
}

/* The child of vgpud that starts executors. */
static pid_t spawner_of(const struct e2e_host *h)
{
    return (pid_t)status_number(e2e_executor_pid(h, "A"), "PPid:", 10);
}

static void work(const struct e2e_host *h, unsigned vm_id)
{
    struct e2e_flow f = {.v = e2e_open(h, vm_id, NULL), .work = E2E_VERIFIED, .total = 2000, .rng = e2e_random()};

    e2e_flow_run(&f);
    e2e_check(f.status[VGPU_OK] == f.submitted, "%llu of %llu were done", (unsigned long long)f.status[VGPU_OK],
              (unsigned long long)f.submitted);
    e2e_flow_free(&f);
    vgpu_close(f.v);
}

static void need_root(void)
{
    if (geteuid() != 0)
        e2e_skip("needs root: there are no privileges to give up");
}

static void need_mounts(void)
{
    int status = -1;
    pid_t pid = fork();

    if (pid == 0)
        _exit(unshare(CLONE_NEWNS | CLONE_NEWNET) != 0);
    if (waitpid(pid, &status, 0) != pid || status != 0)
        e2e_skip("mount and network namespaces are refused here (no CAP_SYS_ADMIN)");
}

static void need_plain(void)
{
    if (SANITIZED)
        e2e_skip("a sanitized build leaves layers out, since its runtime needs what they take");
}

/* ---- tests ---- */

static void check_executor(const struct e2e_host *h, unsigned index, pid_t pid)
{
    const char *said = sandbox_of(h, index);
    char path[160];

    e2e_check(has(said, "capabilities") && has(said, "no_new_privs"), "executor: %s", said);
    check_threads(pid, "CapEff:", "0000000000000000");
    check_threads(pid, "CapPrm:", "0000000000000000");
    check_threads(pid, "NoNewPrivs:", "1");
    if (SANITIZED)
        return;
    e2e_check(has(said, "seccomp"), "executor: %s", said);
    check_threads(pid, "Seccomp:", "2");
    e2e_check(has(said, "mounts") == !same_namespace(pid, getpid(), "mnt"), "executor: %s", said);
    e2e_check(has(said, "network") == !same_namespace(pid, getpid(), "net"), "executor: %s", said);
    if (has(said, "mounts")) {
        snprintf(path, sizeof(path), "/proc/%d/root/root", (int)pid);
        e2e_check(access(path, F_OK) && errno == ENOENT, "%s is there", path);
        snprintf(path, sizeof(path), "/proc/%d/root%s", (int)pid, h->dir);
        e2e_check(access(path, F_OK) && errno == ENOENT, "%s is there", path);
        snprintf(path, sizeof(path), "/proc/%d/root/dev/null", (int)pid);
        e2e_check(access(path, F_OK) == 0, "%s is not there", path);
    }
    if (geteuid() != 0)
        return;
    if (!has(said, "mounts") && strstr(said, " is closed to uid ")) {
        e2e_shows("the executor stays root: its program lies in a folder that is closed to others, and mounts are refused");
        return;
    }
    e2e_check(has(said, "user"), "executor: %s", said);
    uint64_t uid = status_number(pid, "Uid:", 10);
    e2e_check(uid >= 60600 && uid < 61184, "executor %d is uid %llu", (int)pid, (unsigned long long)uid);
}

static void given_up(void)
{
    struct e2e_host h;

    e2e_host_start(&h, &(struct e2e_options){.pools = 2});
    e2e_register(&h, 1, 1, "A", "high", NULL);
    pid_t a = e2e_executor_pid(&h, "A"), b = e2e_executor_pid(&h, "B"), spawner = spawner_of(&h);
    check_threads(h.pid, "CapEff:", "0000000000000000");
    check_threads(h.pid, "CapPrm:", "0000000000000000");
    check_threads(h.pid, "NoNewPrivs:", "1");
    if (!SANITIZED)
        check_threads(h.pid, "Seccomp:", "2");
    check_executor(&h, 0, a);
    check_executor(&h, 1, b);
    if (has(sandbox_of(&h, 0), "user"))
        e2e_check(status_number(a, "Uid:", 10) != status_number(b, "Uid:", 10), "two executors are one user");
    e2e_check(spawner > 1 && spawner != h.pid && status_number(spawner, "PPid:", 10) == (uint64_t)h.pid,
              "executors are children of %d", (int)spawner);
    /* What takes no part in starting others it does not have: no reading around permissions beyond folders, no network. */
    e2e_check((status_number(spawner, "CapEff:", 16) & (UINT64_C(1) << 12 | UINT64_C(1) << 19 | UINT64_C(1) << 16)) == 0,
              "the spawner may configure networks, trace processes or load modules");
    work(&h, 1);
    e2e_shows("vgpud: no capabilities; executors: %s", sandbox_of(&h, 0));
    e2e_host_stop(&h);
}

/* The policy that this executor was started with, from its command line. */
static void policy_of(pid_t pid, char *out, size_t bytes)
{
    char path[64], line[POLICY_BYTES];
    size_t n = 0;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    n = fread(line, 1, sizeof(line) - 1, f);
    fclose(f);
    line[n] = 0;
    out[0] = 0;
    for (const char *one = line; one < line + n; one += strlen(one) + 1)
        if (strncmp(one, "--sandbox=", 10) == 0)
            snprintf(out, bytes, "%s", one);
    e2e_check(out[0], "executor %d was given no policy", (int)pid);
}

static void tried_from_inside(void)
{
    struct e2e_host h;
    char policy[POLICY_BYTES], line[512];
    const char *exec = getenv("VGPU_E2E_EXEC");
    unsigned denied = 0, allowed = 0, untried = 0;
    int out[2], status = -1;

    e2e_host_start(&h, NULL);
    policy_of(e2e_executor_pid(&h, "A"), policy, sizeof(policy));
    e2e_check(pipe(out) == 0, "pipe: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], 1);
        close(out[0]);
        close(out[1]);
        execl(exec, "vgpu-exec", "--probe=sandbox-try", policy, (char *)NULL);
        _exit(120);
    }
    close(out[1]);
    FILE *f = fdopen(out[0], "r");
    while (f && fgets(line, sizeof(line), f)) {
        denied += strncmp(line, "denied: ", 8) == 0;
        allowed += strncmp(line, "ALLOWED: ", 9) == 0;
        untried += strncmp(line, "not tried: ", 11) == 0;
        printf("# %s", line);
    }
    fclose(f);
    e2e_check(waitpid(pid, &status, 0) == pid && status == 0 && allowed == 0, "%u were allowed, status %d", allowed, status);
    e2e_check(SANITIZED || denied >= 10, "only %u were tried", denied);
    e2e_shows("from inside of an executor's sandbox: %u attempts, all denied; %u not tried, since no layer in force denies them",
              denied, untried);
    e2e_host_stop(&h);
}

/* Executors come back after the drop, in the same state, and so does everything after the spawner's death. */
static void still_recovers(void)
{
    struct e2e_host h;
    int status = -1;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "high", NULL);
    for (int i = 0; i < 3; i++) {
        pid_t was = e2e_executor_pid(&h, "A"), now = 0;
        e2e_check(kill(was, SIGKILL) == 0, "kill: %s", strerror(errno));
        e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != was, "the executor does not come back");
        check_executor(&h, 0, now);
        work(&h, 1);
    }
    pid_t executor = e2e_executor_pid(&h, "A");
    e2e_check(kill(spawner_of(&h), SIGKILL) == 0, "kill: %s", strerror(errno));
    for (uint64_t until = e2e_now_ms() + E2E_WAIT_MS; waitpid(h.pid, &status, WNOHANG) != h.pid; e2e_sleep_ms(1))
        e2e_check(e2e_now_ms() < until, "vgpud goes on without the process that starts executors");
    e2e_check(WIFEXITED(status) && WEXITSTATUS(status) == 1, "vgpud ended with status %x", status);
    e2e_eventually(waitpid(executor, NULL, WNOHANG) == executor || (kill(executor, 0) && errno == ESRCH),
                   "an executor outlives the spawner");
    e2e_host_restart(&h);
    work(&h, 1);
    e2e_host_stop(&h);
}

static void log_has(const struct e2e_host *h, const char *said)
{
    char path[300], text[8192];

    snprintf(path, sizeof(path), "%s/vgpud.log", h->dir);
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = 0;
    fclose(f);
    e2e_check(strstr(text, said), "expected \"%s\" in: %s", said, text + (n > 600 ? n - 600 : 0));
}

/* Whoever stops the process that starts executors (a debugger, a frozen cgroup) holds up what needs it, and says so; guests go
 * on, and vgpud still ends. */
static void spawner_stands_still(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "high", NULL);
    pid_t spawner = spawner_of(&h);
    e2e_check(kill(spawner, SIGSTOP) == 0, "kill: %s", strerror(errno));
    work(&h, 1);
    e2e_host_stop(&h);
    log_has(&h, "does not answer (stopped, or no CPU time?)");
}

static void mode_is(const struct e2e_host *h, const char *name, mode_t mode, uid_t uid)
{
    char path[300];
    struct stat st;

    snprintf(path, sizeof(path), "%s/%s", h->dir, name);
    e2e_check(lstat(path, &st) == 0, "%s: %s", path, strerror(errno));
    e2e_check((st.st_mode & 07777) == mode, "%s has mode %04o, expected %04o", name, st.st_mode & 07777, mode);
    e2e_check(st.st_uid == uid, "%s belongs to uid %u, expected %u", name, (unsigned)st.st_uid, (unsigned)uid);
}

/* uid: whose the daemon's own files are; token: whose VM 1's. */
static void modes_are(const struct e2e_host *h, uid_t uid, uid_t token)
{
    mode_is(h, "run/attach.sock", 0666, uid); /* who may attach is judged by uid and token */
    mode_is(h, "run/control.sock", 0666, uid); /* likewise, by uid and groups */
    mode_is(h, "run/vgpud.lock", 0600, uid);
    mode_is(h, "run/tokens", 0711, uid);
    mode_is(h, "run/tokens/vm-1.token", 0600, token);
    mode_is(h, "state", 0700, uid);
    mode_is(h, "state/vgpu.db", 0600, uid);
}

static void modes(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, 1, "A", "high", NULL);
    modes_are(&h, geteuid(), geteuid());
    e2e_host_stop(&h);
}

/* Registers a VM of another user, whose token vgpud itself could not give away. */
static void register_other(const struct e2e_host *h, unsigned vm_id, uid_t uid)
{
    char id[32], who[32], error[512] = "";
    const char *args[] = {"register-vm", id, "--pool=A", "--priority=low", who, NULL};

    snprintf(id, sizeof(id), "--vm-id=%u", vm_id);
    snprintf(who, sizeof(who), "--uid=%u", (unsigned)uid);
    e2e_check(e2e_ctl(h, NULL, error, sizeof(error), args) == 0, "register-vm: %s", error);
}

static void another_user(void)
{
    struct e2e_host h;
    struct e2e_options o = {.privileges = "{user: \"60990\"}"};

    need_root();
    need_plain();
    e2e_check(chmod(e2e_dir(), 0755) == 0, "chmod: %s", strerror(errno));
    e2e_host_start(&h, &o);
    for (int round = 0; round < 2; round++) {
        char uid[64];
        snprintf(uid, sizeof(uid), "%u\t%u\t%u\t%u", OTHER_UID, OTHER_UID, OTHER_UID, OTHER_UID);
        check_threads(h.pid, "Uid:", uid);
        check_threads(h.pid, "CapEff:", "0000000000000000");
        check_executor(&h, 0, e2e_executor_pid(&h, "A"));
        if (round == 0) {
            register_other(&h, 1, 12345);
            e2e_register(&h, 2, 2, "A", "high", NULL);
        }
        modes_are(&h, OTHER_UID, 12345);
        pid_t was = e2e_executor_pid(&h, "A"), now = 0;
        e2e_check(kill(was, SIGKILL) == 0, "kill: %s", strerror(errno));
        e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != was, "the executor does not come back");
        /* As root we may read VM 2's token whoever made it. */
        work(&h, 2);
        if (round == 0) { /* its parent-death signals reach nobody of another user: the spawner ends all of them */
            e2e_host_kill(&h);
            e2e_host_restart(&h);
        }
    }
    e2e_host_stop(&h);
}

/* The end of what vgpud said, when it was to start and did not. */
static void fails_to_start(const struct e2e_host *h, const char *privileges, const char *because)
{
    FILE *f = fopen(h->config, "a");

    e2e_check(f && fprintf(f, "privileges: %s\n", privileges) > 0 && fclose(f) == 0, "%s: %s", h->config, strerror(errno));
    int rc = e2e_host_try(h);
    e2e_check(rc == 1, "vgpud with privileges %s: status %d", privileges, rc);
    log_has(h, because);
}

static void required_unknown_user(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_host_stop(&h);
    fails_to_start(&h, "{user: no-such-user-here}", "there is no user no-such-user-here");
}

static void required_executor_user(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_host_stop(&h);
    fails_to_start(&h, "{executor_user: no-such-user-here}", "there is no user no-such-user-here");
}

static void required_is_not_there(void)
{
    struct e2e_host h;

    e2e_host_start(&h, NULL);
    e2e_host_stop(&h);
    if (geteuid() == 0)
        fails_to_start(&h, "{sandbox: require}", "privileges.user must name the user");
    else
        fails_to_start(&h, "{sandbox: require}", "privileges requires this layer");
}

static void required_is_there(void)
{
    struct e2e_host h;
    struct e2e_options o = {.privileges = "{sandbox: require, user: \"60990\"}"};

    need_root();
    need_mounts();
    need_plain();
    e2e_check(chmod(e2e_dir(), 0755) == 0, "chmod: %s", strerror(errno));
    e2e_host_start(&h, &o);
    e2e_check(!strstr(sandbox_of(&h, 0), "; not: "), "executor: %s", sandbox_of(&h, 0));
    e2e_register(&h, 1, 1, "A", "high", NULL);
    work(&h, 1);
    e2e_host_stop(&h);
}

/* An executor takes no more memory than it was given, and works within that. */
static void memory_bound(void)
{
    struct e2e_host h;
    char path[64], line[256];
    unsigned long long limit = 0;

    need_plain();
    e2e_host_start(&h, &(struct e2e_options){.memory_bytes = "192M", .heap_bytes = "64M", .device_bytes = "16M"});
    e2e_register(&h, 1, 1, "A", "high", NULL);
    snprintf(path, sizeof(path), "/proc/%d/limits", (int)e2e_executor_pid(&h, "A"));
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "Max data size %llu %*u", &limit) == 1)
            break;
    fclose(f);
    e2e_check(limit == (192 + 64) << 20, "the executor may have %llu bytes", limit);
    work(&h, 1);
    e2e_host_stop(&h);
}

static void off(void)
{
    struct e2e_host h;
    struct e2e_options o = {.privileges = "{sandbox: off}"};

    e2e_host_start(&h, &o);
    pid_t executor = e2e_executor_pid(&h, "A");
    check_threads(h.pid, "NoNewPrivs:", status_number(getpid(), "NoNewPrivs:", 10) ? "1" : "0");
    e2e_check(status_number(executor, "Uid:", 10) == geteuid(), "the executor is another user");
    e2e_check(same_namespace(executor, getpid(), "mnt"), "the executor has its own mounts");
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"given_up", given_up, 0},
    {"tried_from_inside", tried_from_inside, 0},
    {"still_recovers", still_recovers, 0},
    {"spawner_stands_still", spawner_stands_still, 0},
    {"modes", modes, 0},
    {"another_user", another_user, 0},
    {"required_unknown_user", required_unknown_user, 0},
    {"required_executor_user", required_executor_user, 0},
    {"required_is_not_there", required_is_not_there, 0},
    {"required_is_there", required_is_there, 0},
    {"memory_bound", memory_bound, 0},
    {"off", off, 0},
};
E2E_MAIN(tests)
