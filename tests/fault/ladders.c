/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each call of vgpud to the C library that can fail, fails: while it starts, while a guest attaches and leaves, while
 * the control socket is asked, while an executor is started again. For each function the first call fails, then the
 * second, until one is never reached. Whatever fails: a start succeeds or ends with a reason and leaves nothing; a
 * guest or a client gets an answer or a closed connection; the same process serves the next one, and holds no more than
 * before.
 *
 * Starts take their time: VGPU_TEST_LADDERS_S (or a twelfth of VGPU_TEST_SLICE_S) is how long they are tried, from a
 * random place on (VGPU_TEST_SEED); all when that suffices.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../e2e/raw.h"
#include "failcall.h"
#include "holdings.h"

#define MOST_CALLS 400

#define X(name, error) #name,
static const char *const names[] = {FAILCALL_FUNCTIONS(X)};
#undef X

static struct failcall *shared;

static void arm(int function, int countdown)
{
    shared->countdown = countdown;
    shared->fired = 0;
    __atomic_store_n(&shared->function, function, __ATOMIC_RELEASE);
}

/* Whether it fired. */
static bool disarm(void)
{
    __atomic_store_n(&shared->function, -1, __ATOMIC_RELEASE);
    return __atomic_load_n(&shared->fired, __ATOMIC_ACQUIRE) > 0;
}

/* Programs started from here on are watched. */
static void preload(const char *program)
{
    const char *library = getenv("VGPU_E2E_FAILCALL");
    char path[] = "/tmp/vgpu-failcall-XXXXXX";
    int fd = mkstemp(path);

    if (!library)
        e2e_skip("under a sanitizer, whose runtime must be loaded first");
    e2e_check(fd >= 0 && ftruncate(fd, sizeof(*shared)) == 0, "%s: %s", path, strerror(errno));
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    e2e_check(shared != MAP_FAILED, "mmap: %s", strerror(errno));
    close(fd);
    disarm();
    setenv("VGPU_FAILCALL", path, 1);
    setenv("VGPU_FAILCALL_IN", program, 1);
    setenv("LD_PRELOAD", library, 1);
}

static void preload_end(void)
{
    unsetenv("LD_PRELOAD");
}

/* Executors that are started later open it too. */
static void host_stop(struct e2e_host *h)
{
    e2e_host_stop(h);
    unlink(getenv("VGPU_FAILCALL"));
}

/* ---- while it runs ---- */

/* Attaches by hand and leaves; any answer will do. */
static void attach_and_leave(const struct e2e_host *h)
{
    struct raw_guest g;

    raw_connect(&g, h, 1);
    if (raw_hello(&g) == VGPU_ATTACH_OK) {
        int fd = raw_region(&g, 0, RAW_SEALS_GOOD);
        raw_attach(&g, g.header.region_bytes, &fd, 1);
        close(fd);
    }
    raw_close(&g);
}

static off_t log_bytes(const struct e2e_host *h)
{
    char path[2 * E2E_PATH_BYTES];
    struct stat st;

    snprintf(path, sizeof(path), "%s/vgpud.log", h->dir);
    return stat(path, &st) ? 0 : st.st_size;
}

/* Does the log say this behind `from`? */
static bool log_says(const struct e2e_host *h, off_t from, const char *what)
{
    char path[2 * E2E_PATH_BYTES], text[16384] = "";

    snprintf(path, sizeof(path), "%s/vgpud.log", h->dir);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text) - 1, from) : 0;
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, what) != NULL;
}

static struct raw_guest leaver;

static void leave_prepare(const struct e2e_host *h)
{
    for (int i = 0; i < 500; i++) { /* the one before it may not have left yet */
        raw_connect(&leaver, h, 1);
        int fd = raw_region(&leaver, 0, RAW_SEALS_GOOD);
        bool there = raw_hello(&leaver) == 0 && raw_attach(&leaver, leaver.header.region_bytes, &fd, 1) == 0;
        close(fd);
        if (there)
            return;
        raw_close(&leaver);
        e2e_sleep_ms(10);
    }
    e2e_check(false, "VM 1 cannot attach: %s", leaver.error.text);
}

/* A guest that ends, while vgpud lets go of it. */
static void leave(const struct e2e_host *h)
{
    off_t from = log_bytes(h);

    raw_close(&leaver);
    for (int i = 0; i < 1000 && e2e_host_alive(h) && !log_says(h, from, "VM 1 detached"); i++)
        e2e_sleep_ms(1);
    e2e_sleep_ms(5); /* what is let go of after that line */
}

static char answer[65536]; /* the last one, as far as it is read */

/* One request; an answer or a closed connection, within the time that a client would wait. */
static void say(const struct e2e_host *h, const char *request)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(to.sun_path, sizeof(to.sun_path), "%.107s", h->control_socket);
    e2e_check(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0, "%s: %s", to.sun_path, strerror(errno));
    (void)!write(fd, request, strlen(request));
    (void)!write(fd, "\n", 1);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    e2e_check(poll(&p, 1, E2E_WAIT_MS) == 1, "no answer to %s", request);
    ssize_t n = read(fd, answer, sizeof(answer) - 1);
    answer[n > 0 ? n : 0] = 0;
    close(fd);
}

static void ask_all(const struct e2e_host *h)
{
    static const char *const requests[] = {
        "{\"command\":\"list-vms\"}",
        "{\"command\":\"list-pools\"}",
        "{\"command\":\"stats\"}",
        "{\"command\":\"status\"}",
        "{\"command\":\"export\"}",
        "{\"command\":\"history\"}",
        "{\"command\":\"show-iommu-status\"}",
        "{\"command\":\"version\"}",
        "{\"command\":\"show-pool\",\"args\":{\"pool\":\"A\"}}",
        "{\"command\":\"show-vm\",\"args\":{\"vm_id\":1}}",
        "{\"command\":\"set-priority\",\"args\":{\"vm_id\":1,\"priority\":\"low\"}}",
        "{\"command\":\"set-limit\",\"args\":{\"vm_id\":1,\"in_flight\":17}}",
        "{\"command\":\"set-pool\",\"args\":{\"vm_id\":1,\"pool\":\"B\"}}",
        "{\"command\":\"set-pool\",\"args\":{\"vm_id\":1,\"pool\":\"A\"}}",
        "{\"command\":\"register-vm\",\"args\":{\"vm_id\":9,\"pool\":\"A\",\"priority\":\"high\",\"uid\":0}}",
        "{\"command\":\"update-vm\",\"args\":{\"vm_id\":9,\"name\":\"nine\"}}",
        "{\"command\":\"drain-vm\",\"args\":{\"vm_id\":9,\"reason\":\"tried\"}}",
        "{\"command\":\"quarantine-vm\",\"args\":{\"vm_id\":9}}",
        "{\"command\":\"clear-quarantine\",\"args\":{\"vm_id\":9}}",
        "{\"command\":\"attach\",\"args\":{\"vm_id\":9}}",
        "{\"command\":\"detach\",\"args\":{\"vm_id\":9}}",
        "{\"command\":\"remove-vm\",\"args\":{\"vm_id\":9}}",
        "{\"command\":\"create-pool\",\"args\":{\"pool\":\"C\",\"capacity\":3}}",
        "{\"command\":\"update-pool\",\"args\":{\"pool\":\"C\",\"capacity\":4}}",
        "{\"command\":\"remove-pool\",\"args\":{\"pool\":\"C\"}}",
        "{\"command\":\"import\",\"args\":{\"document\":{\"format\":\"vgpu-regis"
        "try\",\"version\":1,\"pools\":[],\"vms\":[]},\"dry_run\":true}}",
        "{\"command\":\"reload-config\"}",
    };

    for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
        say(h, requests[i]);
}

static unsigned traces_refused;

/* What one VM's descriptors left, read and put together. */
static void ask_trace(const struct e2e_host *h)
{
    say(h, "{\"command\":\"trace\",\"args\":{\"vm_id\":2,\"action\":\"on\",\"sample\":1}}");
    say(h, "{\"command\":\"trace\",\"args\":{\"vm_id\":2,\"action\":\"dump\"}}");
    traces_refused += strstr(answer, "no memory for the trace") != NULL;
}

static pid_t executor;

/* Asked before anything fails: the answer could be what fails. */
static void executor_find(const struct e2e_host *h)
{
    e2e_eventually((executor = e2e_executor_pid(h, "A")) > 0, "pool A stays down");
}

static void executor_again(const struct e2e_host *h)
{
    off_t from = log_bytes(h);

    e2e_check(kill(executor, SIGKILL) == 0, "executor %d: %s", (int)executor, strerror(errno));
    for (int i = 0;
         i < 5000 && !__atomic_load_n(&shared->fired, __ATOMIC_ACQUIRE) && !log_says(h, from, "exec-A is ready"); i++)
        e2e_sleep_ms(1);
}

static void nothing(const struct e2e_host *h)
{
    (void)h;
}

static bool serves(const struct e2e_host *h)
{
    struct vgpu *v = e2e_open_patiently(h, 2);
    struct e2e_flow flow = {.v = v, .work = E2E_VERIFIED, .total = 20};

    e2e_flow_run(&flow);
    e2e_flow_check(&flow);
    bool good = flow.status[VGPU_OK] == 20;
    e2e_flow_free(&flow);
    vgpu_close(v);
    return good;
}

/* An action, with each call that it makes failing in turn. */
static void each_call(const struct e2e_host *h, const char *what, void (*prepare)(const struct e2e_host *h),
                      void (*action)(const struct e2e_host *h), unsigned limit)
{
    unsigned tried = 0, functions = 0;

    signal(SIGPIPE, SIG_IGN);
    prepare(h);
    action(h); /* whatever is made once, at the first time, is there afterwards */
    e2e_check(serves(h), "the host does not serve");
    const struct holdings before = holdings_of(h->pid);
    for (int f = 0; f < FAILCALL_COUNT; f++) {
        bool fired = true;
        for (int nth = 1; fired && nth <= (int)limit; nth++) {
            prepare(h);
            arm(f, nth);
            action(h);
            fired = disarm();
            tried += fired;
            functions += fired && nth == 1;
            if (getenv("VGPU_LADDERS_VERBOSE"))
                printf("# %s: call %d of %s\n", what, nth, names[f]);
            e2e_check(e2e_host_alive(h), "vgpud died: %s, call %d of %s", what, nth, names[f]);
        }
        e2e_check(serves(h), "%s: after failures of %s nobody is served", what, names[f]);
    }
    holdings_check(h->pid, what, &before, 8192);
    e2e_check(tried > 10, "%s: only %u calls failed: is the library preloaded?", what, tried);
    e2e_shows("%s: %u calls of %u functions failed, one at a time; the same vgpud serves on and holds no more", what,
              tried, functions);
}

static void running_host(struct e2e_host *h, const char *program, bool in_process)
{
    preload(program);
    e2e_host_start(h, &(struct e2e_options){.pools = 2, .in_process = in_process});
    preload_end();
    e2e_register(h, 1, 2, "A", "medium", NULL);
}

static void attach(void)
{
    struct e2e_host h;

    running_host(&h, "vgpud", false);
    each_call(&h, "attach", nothing, attach_and_leave, MOST_CALLS);
    host_stop(&h);
}

static void leaving(void)
{
    struct e2e_host h;

    running_host(&h, "vgpud", false);
    each_call(&h, "leaving", leave_prepare, leave, MOST_CALLS);
    host_stop(&h);
}

static void control(void)
{
    struct e2e_host h;

    running_host(&h, "vgpud", false);
    each_call(&h, "control", nothing, ask_all, 40);
    host_stop(&h);
}

static void trace(void)
{
    struct e2e_host h;

    running_host(&h, "vgpud", false);
    each_call(&h, "trace", nothing, ask_trace, 40);
    e2e_check(traces_refused > 0, "no dump of a trace was without memory");
    host_stop(&h);
}

static void executors(void)
{
    struct e2e_host h;

    running_host(&h, "vgpud", false);
    each_call(&h, "restart of an executor", executor_find, executor_again, 12);
    host_stop(&h);
}

/* The executor's own calls: it ends with a reason, and is started once more. */
static void executor_itself(void)
{
    struct e2e_host h;

    running_host(&h, "vgpu-exec", false);
    each_call(&h, "start of an executor", executor_find, executor_again, 40);
    host_stop(&h);
}

/* ---- while it starts ---- */

/* One start with that call failing. Returns whether it was reached. */
static bool one_start(struct e2e_host *h, int f, int nth, unsigned *refused)
{
    off_t was = log_bytes(h);

    arm(f, nth);
    if (e2e_host_begin(h)) {
        bool fired = disarm();
        e2e_host_stop(h);
        return fired;
    }
    e2e_check(disarm(), "vgpud does not start, though no call failed");
    e2e_check(log_bytes(h) > was, "vgpud ends without a word when call %d of %s fails", nth, names[f]);
    ++*refused;
    return true;
}

static void starts(bool in_process)
{
    struct e2e_host h;
    unsigned tried = 0, refused = 0, functions = 0;
    uint64_t span = e2e_number("VGPU_TEST_LADDERS_S", e2e_number("VGPU_TEST_SLICE_S", 60) / 12) * 1000;
    uint64_t until = e2e_now_ms() + span;
    int from = (int)(e2e_random() % FAILCALL_COUNT), done = 0;
    const struct machine_holdings before = holdings_of_machine();

    running_host(&h, "vgpud", in_process); /* makes the store */
    host_stop(&h);
    preload("vgpud");
    for (; done < FAILCALL_COUNT && e2e_now_ms() < until; done++) {
        int f = (from + done) % FAILCALL_COUNT;
        bool fired = true;
        for (int nth = 1; fired && nth <= MOST_CALLS && e2e_now_ms() < until; nth++) {
            fired = one_start(&h, f, nth, &refused);
            tried += fired;
            functions += fired && nth == 1;
        }
    }
    preload_end();
    unlink(getenv("VGPU_FAILCALL"));
    holdings_check_machine(&before);
    e2e_check(tried > 0, "no call failed");
    e2e_shows("start%s: %u calls of %u functions failed, one at a time%s: %u starts ended with a reason, the others "
              "succeeded; "
              "nothing left behind (seed %llu)",
              in_process ? " with its executors inside" : "", tried, functions,
              done == FAILCALL_COUNT ? "" : " (not all of them in this time)", refused, (unsigned long long)e2e_seed());
}

static void start(void)
{
    starts(false);
}
static void start_in_process(void)
{
    starts(true);
}

static const struct e2e_test tests[] = {
    {"attach", attach, 1800},       {"leaving", leaving, 1800},
    {"control", control, 1800},
    {"trace", trace, 1800},         {"executors", executors, 1800},
    {"executor_itself", executor_itself, 1800}, {"start", start, 3600},
    {"start_in_process", start_in_process, 3600},
};
E2E_MAIN(tests)
