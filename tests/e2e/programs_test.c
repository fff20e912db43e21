/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Workers of compiled programs as processes: who starts them, whose they are, and that none is left when the VM, the
 * worker, the executor or vgpud goes, however it goes. They run nothing (tests/unit/pmd-gpu/fake_worker.c); suite ml runs
 * real ones.
 */
#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "tests/unit/pmd-gpu/fake_worker.h"

static struct e2e_host host;

static void start(const char *more)
{
    static char programs[400];

    snprintf(programs, sizeof(programs), "plugin=/dev/null,worker=%s,deadline_ms=10000%s", getenv("VGPU_E2E_WORKER"), more);
    e2e_host_start(&host, &(struct e2e_options){.pools = 2, .programs = programs});
    e2e_register(&host, 1, 3, "A", "medium", NULL);
    e2e_register(&host, 4, 4, "B", "medium", NULL);
}

static pid_t parent_of(pid_t pid)
{
    char path[64];
    int ppid = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%*d (%*[^)]) %*c %d", &ppid) != 1)
        ppid = 0;
    if (f)
        fclose(f);
    return ppid;
}

/* Processes whose binary has this name, of our vgpud's family or left behind by it. Returns how many; the first in *pid. */
static unsigned processes(const char *name, pid_t *pid)
{
    char path[300], exe[300];
    const struct dirent *one;
    unsigned n = 0;
    DIR *dir = opendir("/proc");

    e2e_check(dir, "/proc: %s", strerror(errno));
    while ((one = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "/proc/%.16s/exe", one->d_name);
        ssize_t bytes = one->d_name[0] >= '0' && one->d_name[0] <= '9' ? readlink(path, exe, sizeof(exe) - 1) : -1;
        if (bytes <= 0)
            continue;
        exe[bytes] = 0;
        pid_t it = atoi(one->d_name), up = parent_of(it);
        for (int i = 0; i < 4 && up != host.pid && up != getpid() && up > 1; i++)
            up = parent_of(up);
        if (strcmp(strrchr(exe, '/') + 1, name) == 0 && (up == host.pid || up == getpid())) {
            n++;
            if (pid)
                *pid = it;
        }
    }
    closedir(dir);
    return n;
}

static unsigned workers(pid_t *pid)
{
    return processes("fake-worker", pid);
}

/* Runs `program` once and returns its status. */
static uint16_t run(struct vgpu *v, uint32_t program)
{
    struct vgpu_tensor shapes[8] = {{0}}, out[8];
    struct vgpu_program p = {.handle = program, .outputs = 8, .output = shapes};
    struct vgpu_buffer list;
    struct vgpu_request req;
    struct vgpu_completion c;

    e2e_check(vgpu_arena_alloc(v, 64, &list) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_req_execute(v, &p, NULL, 0, out, &list, &req) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_submit(v, &req, NULL) == 0, "%s", vgpu_strerror(v));
    e2e_check(vgpu_wait(v, &c, 1, UINT64_C(20000000000)) == 1, "no completion");
    for (int i = 0; i < 8; i++)
        vgpu_tensor_forget(v, &out[i]);
    vgpu_arena_free(v, &list);
    return c.status;
}

static void ok(struct vgpu *v, uint32_t program)
{
    uint16_t status = run(v, program);

    e2e_check(status == VGPU_OK, "program %u: %s", program, vgpu_status_string(status));
}

/* For how long programs of this VM had the device, ns. */
static json_int_t used(unsigned vm_id)
{
    json_t *stats = e2e_ask(&host, "stats", json_pack("{s:i}", "vm_id", (int)vm_id), NULL, 0);
    json_int_t ns = json_integer_value(json_object_get(json_array_get(json_object_get(stats, "vms"), 0), "program_ns"));

    json_decref(stats);
    return ns;
}

/* One for each VM that uses programs, from its first program on; gone with its VM. */
static void one_for_each_vm(void)
{
    start("");
    struct vgpu *v[3];
    pid_t pid = 0, spawner;
    for (unsigned i = 0; i < 3; i++)
        v[i] = e2e_open(&host, i + 1, NULL);
    e2e_check(workers(NULL) == 0, "%u workers before the first program", workers(NULL));
    ok(v[0], FAKE_OK);
    ok(v[0], FAKE_OK);
    e2e_check(workers(&pid) == 1, "%u workers of one VM", workers(NULL));
    /* The fake one says 1000 ns of each, which counts as far as that much time went by. */
    e2e_check(used(1) > 0 && used(1) <= 2000, "two programs had the device for %lld ns", (long long)used(1));
    e2e_check(used(2) == 0, "no program had it for %lld ns", (long long)used(2));
    spawner = parent_of(pid);
    e2e_check(parent_of(spawner) == host.pid, "worker %d is a child of %d, which is not vgpud's spawner", (int)pid, (int)spawner);
    ok(v[1], FAKE_OK);
    e2e_check(workers(NULL) == 2, "%u workers of two VMs", workers(NULL));
    vgpu_close(v[0]);
    e2e_eventually(workers(NULL) == 1, "a VM has left, and %u workers are there", workers(NULL));
    v[0] = e2e_open(&host, 1, NULL);
    ok(v[0], FAKE_OK);
    e2e_check(workers(NULL) == 2, "%u workers", workers(NULL));
    e2e_check(used(1) > 1000 && used(1) <= 3000, "over two attachments: %lld ns", (long long)used(1));
    for (unsigned i = 0; i < 3; i++)
        vgpu_close(v[i]);
    e2e_eventually(workers(NULL) == 0, "all VMs have left, and %u workers are there", workers(NULL));
    e2e_host_stop(&host);
}

static void a_worker_dies(void)
{
    start("");
    struct vgpu *a = e2e_open(&host, 1, NULL), *b = e2e_open(&host, 2, NULL);
    pid_t pid = 0;
    ok(a, FAKE_OK);
    for (unsigned i = 0; i < 5; i++) {
        e2e_check(workers(&pid) == 1, "%u workers", workers(NULL));
        e2e_check(kill(pid, SIGKILL) == 0, "%s", strerror(errno));
        e2e_eventually(workers(NULL) == 0, "it was killed and is there");
        uint16_t status = run(a, FAKE_OK); /* sent to the one that has just died, or to its successor */
        e2e_check(status == VGPU_OK || status == VGPU_E_LOST, "%s", vgpu_status_string(status));
        ok(a, FAKE_OK);
    }
    uint16_t status = run(a, FAKE_DIE);
    e2e_check(status == VGPU_E_LOST, "%s", vgpu_status_string(status));
    ok(a, FAKE_OK);
    ok(b, FAKE_OK);
    e2e_check(workers(NULL) == 2, "%u workers", workers(NULL));
    vgpu_close(a);
    vgpu_close(b);
    e2e_host_stop(&host);
}

/* The workers of an executor go with it, those of another stay. */
static void the_executor_dies(void)
{
    start("");
    struct vgpu *a = e2e_open(&host, 1, NULL), *b = e2e_open(&host, 4, NULL);
    pid_t of_b = 0, of_a = 0, executor = 0;
    ok(b, FAKE_OK);
    e2e_check(workers(&of_b) == 1, "%u workers", workers(NULL));
    executor = e2e_executor_pid(&host, "A");
    ok(a, FAKE_OK);
    e2e_check(workers(NULL) == 2, "%u workers", workers(NULL));
    e2e_check(kill(executor, SIGKILL) == 0, "%s", strerror(errno));
    e2e_eventually(workers(&of_a) == 1 && of_a == of_b, "%u workers, one of them %d; pool B's is %d", workers(NULL), (int)of_a,
                   (int)of_b);
    ok(b, FAKE_OK);
    uint64_t until = e2e_now_ms() + E2E_WAIT_MS;
    while (run(a, FAKE_OK) != VGPU_OK)
        e2e_check(e2e_now_ms() < until, "VM 1 has no programs any more");
    vgpu_close(a);
    vgpu_close(b);
    e2e_host_stop(&host);
}

/* Neither vgpud nor the process that starts workers leaves any, whichever is killed. */
static void vgpud_dies(void)
{
    for (unsigned i = 0; i < 2; i++) {
        pid_t pid = 0;
        if (i == 0)
            start("");
        else
            e2e_host_restart(&host);
        struct vgpu *v = e2e_open(&host, 1, NULL);
        ok(v, FAKE_OK);
        e2e_check(workers(&pid) == 1, "%u workers", workers(NULL));
        if (i) { /* then vgpud ends too: it could start no executor any more */
            e2e_check(kill(parent_of(pid), SIGKILL) == 0, "%s", strerror(errno));
            e2e_eventually(!e2e_host_alive(&host), "vgpud goes on without the process that starts executors");
            while (waitpid(-1, NULL, 0) > 0) /* we adopt what it leaves: all of it ends */
                ;
        } else {
            e2e_host_kill(&host);
        }
        e2e_eventually(workers(NULL) == 0, "vgpud is gone, and %u workers are there", workers(NULL));
        vgpu_close(v);
    }
}

/* What cannot start is said, and costs its VM nothing but programs. */
static void no_worker(void)
{
    start(",client=fails");
    struct vgpu *v = e2e_open(&host, 1, NULL);
    uint16_t status = run(v, FAKE_OK);
    e2e_check(status == VGPU_E_BACKEND, "%s", vgpu_status_string(status));
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_eventually(workers(NULL) == 0, "%u workers", workers(NULL));
    e2e_host_stop(&host);
}

/* What vgpud would not start with, --check-config says too. */
static void checked(void)
{
    static const struct {
        const char *programs, *said;
    } rows[] = {
        {"plugn=/x", "there is no \"plugn\""},
        {"plugin=/nowhere.so", "cannot read the plugin /nowhere.so"},
        {"plugin=/dev/null,worker=/nowhere", "cannot run /nowhere"},
        {"plugin=/dev/null,deadline_ms=0", "deadline_ms needs a whole number"},
        {"plugin=/dev/null", "good"},
    };
    for (uint32_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char path[] = "/tmp/vgpu-e2e-check-XXXXXX", command[512], said[1024] = "";
        int fd = mkstemp(path);
        e2e_check(fd >= 0, "%s", strerror(errno));
        dprintf(fd, "executors:\n  - {name: exec0, backend: cpu, programs: \"%s\"}\n", rows[i].programs);
        dprintf(fd, "pools:\n  - {name: A, executor: exec0}\n");
        close(fd);
        snprintf(command, sizeof(command), "%s --check-config %s 2>&1", getenv("VGPU_E2E_VGPUD"), path);
        FILE *f = popen(command, "r");
        e2e_check(f, "%s: %s", command, strerror(errno));
        said[fread(said, 1, sizeof(said) - 1, f)] = 0;
        int status = pclose(f);
        unlink(path);
        e2e_check(strstr(said, rows[i].said), "%s: %s", rows[i].programs, said);
        e2e_check((status == 0) == (strcmp(rows[i].said, "good") == 0), "%s: status %x", rows[i].programs, (unsigned)status);
    }
}

static const struct e2e_test tests[] = {
    {"one_for_each_vm", one_for_each_vm, 0}, {"a_worker_dies", a_worker_dies, 0}, {"the_executor_dies", the_executor_dies, 0},
    {"vgpud_dies", vgpud_dies, 0},           {"no_worker", no_worker, 0},
    {"checked", checked, 0},
};
E2E_MAIN(tests)
