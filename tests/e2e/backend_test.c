/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What vgpud makes of backends: which one an executor gets, what a VM's engine and arena become there, and an executor
 * whose driver takes its time. No GPU is needed: what one would do, fault:cpu does.
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define NO_DRIVER "driver=/nonexistent/libcuda.so.1" /* for a build with cuda; one without does not look */

/* A text of a pool, as list-pools has it; "" for null. */
static void pool_text(const struct e2e_host *h, const char *pool, const char *key, char *out, size_t bytes)
{
    static const char *const args[] = {"list-pools", NULL};
    char error[512];
    json_t *answer = NULL, *one;
    size_t i;

    out[0] = 0;
    int rc = e2e_ctl(h, &answer, error, sizeof(error), args);
    e2e_check(rc == 0, "list-pools: %s", error);
    json_array_foreach(json_object_get(answer, "pools"), i, one)
    {
        const char *text = json_string_value(json_object_get(one, key));
        e2e_check(json_object_get(one, key), "list-pools has no \"%s\"", key);
        if (strcmp(json_string_value(json_object_get(one, "name")), pool) == 0)
            snprintf(out, bytes, "%s", text ? text : "");
    }
    json_decref(answer);
}

static void vm_text(const struct e2e_host *h, unsigned vm_id, const char *key, char *out, size_t bytes)
{
    char id[32], error[512];
    const char *args[] = {"show-vm", id, NULL};
    json_t *answer = NULL;

    snprintf(id, sizeof(id), "--vm-id=%u", vm_id);
    int rc = e2e_ctl(h, &answer, error, sizeof(error), args);
    e2e_check(rc == 0, "show-vm: %s", error);
    const json_t *value = json_object_get(json_object_get(answer, "vm"), key);
    e2e_check(value, "show-vm has no \"%s\"", key);
    snprintf(out, bytes, "%s", json_is_string(value) ? json_string_value(value) : "");
    json_decref(answer);
}

static void has(const char *text, const char *part)
{
    e2e_check(strstr(text, part), "\"%s\" does not say \"%s\"", text, part);
}

/* All that vgpud has logged. */
static const char *log_of(const struct e2e_host *h)
{
    static char text[65536];
    char path[2 * E2E_PATH_BYTES];

    snprintf(path, sizeof(path), "%s/vgpud.log", h->dir);
    FILE *f = fopen(path, "r");
    e2e_check(f, "%s: %s", path, strerror(errno));
    text[fread(text, 1, sizeof(text) - 1, f)] = 0;
    fclose(f);
    return text;
}

static struct vgpu_properties properties(struct vgpu *v)
{
    struct vgpu_properties p;

    e2e_check(vgpu_properties_get(v, &p) == 0, "%s", vgpu_strerror(v));
    return p;
}

static bool build_has_cuda(void)
{
    char command[512], line[256] = "";

    snprintf(command, sizeof(command), "%s --help", getenv("VGPU_E2E_EXEC"));
    FILE *f = popen(command, "r");
    e2e_check(f && fgets(line, sizeof(line), f) && strstr(line, "Backends: null, cpu"), "%s: %s", command, line);
    pclose(f);
    return strstr(line, ", cuda") != NULL;
}

/* A stand-in for vgpu-exec that answers a probe for cuda with these lines of shell, and runs cuda as cpu. */
static void pretend(const char *dir, const char *answer)
{
    static char path[2 * E2E_PATH_BYTES];
    const char *real = getenv("VGPU_E2E_EXEC");

    snprintf(path, sizeof(path), "%s/pretend-exec", dir);
    FILE *f = fopen(path, "w");
    e2e_check(f && real, "%s: %s", path, strerror(errno));
    fprintf(f,
            "#!/bin/sh\n"
            "case \"$*\" in *--probe=cuda*) %s;; esac\n"
            "for a do\n"
            "  shift\n"
            "  if [ \"$a\" = --backend=cuda ]; then a=--backend=cpu; fi\n"
            "  set -- \"$@\" \"$a\"\n"
            "done\n"
            "exec %s \"$@\"\n",
            answer, real);
    e2e_check(fclose(f) == 0 && chmod(path, 0755) == 0, "%s: %s", path, strerror(errno));
    setenv("VGPU_E2E_EXEC", path, 1);
}

/* Starts with auto and that answer; what it must come to. */
static void auto_with(const char *answer, const char *backend, const char *device, const char *fallback)
{
    struct e2e_host h;
    char text[512], dir[] = "/tmp/vgpu-e2e-pretend-XXXXXX", path[64];

    e2e_check(mkdtemp(dir), "%s", strerror(errno));
    if (answer)
        pretend(dir, answer);
    e2e_host_start(&h, &(struct e2e_options){.backend = "auto", .backend_options = answer ? "" : NO_DRIVER, .pools = 2});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    for (int p = 0; p < 2; p++) {
        const char *pool = p ? "B" : "A";
        pool_text(&h, pool, "backend", text, sizeof(text));
        e2e_check(strcmp(text, backend) == 0, "pool %s runs %s", pool, text);
        pool_text(&h, pool, "device", text, sizeof(text));
        e2e_check(strcmp(text, device) == 0, "pool %s: device \"%s\"", pool, text);
        pool_text(&h, pool, "fallback", text, sizeof(text));
        e2e_check(fallback[0] ? strstr(text, fallback) != NULL : !text[0], "pool %s: fallback \"%s\"", pool, text);
    }
    has(log_of(&h), fallback[0] ? fallback : device);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    e2e_check(strcmp(properties(v).backend, backend) == 0, "the guest sees %s", properties(v).backend);
    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
    snprintf(path, sizeof(path), "%s/pretend-exec", dir);
    unlink(path);
    rmdir(dir);
}

static void auto_without_driver(void)
{
    auto_with(NULL, "cpu", "", build_has_cuda() ? "cuda does not work here: " : "no backend 'cuda' in this build");
}
static void auto_with_gpu(void)
{
    auto_with("echo 'noise of a driver'; echo 'a GPU of paper'; exit 0", "cuda", "a GPU of paper", "");
}
static void auto_with_broken_driver(void)
{
    auto_with("echo 'the driver is too old'; exit 1", "cpu", "", "cuda does not work here: the driver is too old");
}
static void auto_with_crashing_driver(void)
{
    auto_with("kill -SEGV $$", "cpu", "", "cuda does not work here: trying cuda ended with signal 11");
}

/* A vgpud with this backend that must not start; what it logs. */
static const char *refused(const char *backend, const char *options)
{
    static struct e2e_host h;
    char text[8192] = "", rest[8192], *at;
    const char was[] = "backend: cpu\n    options: \"\"";

    e2e_host_start(&h, &(struct e2e_options){.backend = "cpu"});
    e2e_host_stop(&h);
    FILE *f = fopen(h.config, "r");
    e2e_check(f, "%s: %s", h.config, strerror(errno));
    text[fread(text, 1, sizeof(text) - 512, f)] = 0;
    fclose(f);
    e2e_check((at = strstr(text, was)) != NULL, "the configuration reads otherwise");
    snprintf(rest, sizeof(rest), "%s", at + strlen(was));
    snprintf(at, sizeof(text) - (size_t)(at - text), "backend: %s\n    options: \"%s\"%s", backend, options, rest);
    f = fopen(h.config, "w");
    e2e_check(f && fputs(text, f) >= 0 && fclose(f) == 0, "%s", strerror(errno));
    e2e_check(e2e_host_try(&h) == 1, "vgpud starts with backend %s, options %s", backend, options);
    return log_of(&h);
}

/* Who asks for a GPU and has none is told so, and what to do; nothing is started instead. */
static void cuda_without_driver(void)
{
    const char *log = refused("cuda", NO_DRIVER);

    has(log, "executor exec-A: backend ");
    if (build_has_cuda()) {
        has(log, "backend cuda does not work here: ");
        has(log, "/nonexistent/libcuda.so.1");
        has(log, "install the NVIDIA driver");
    } else {
        has(log, "backend 'cuda' is not in this build (it has: null, cpu, ");
    }
    has(log, "auto");
}

/* A slip in the options is told, and not taken for a host without GPU. */
static void auto_with_wrong_options(void)
{
    if (build_has_cuda())
        has(refused("auto", "devcie=1"), "executor exec-A: backend cuda: no option \"devcie\"");
    else
        auto_with("echo 'backend cuda: what else'; exit 1", "cpu", "", "cuda does not work here: what else");
}

/* The example for a GPU is good where the build has cuda; elsewhere it is refused for that and nothing else. */
static void gpu_example(void)
{
    char command[512], said[1024] = "";

    e2e_check(getenv("VGPU_E2E_CONFIG"), "VGPU_E2E_CONFIG must name the folder of configurations (meson test sets it)");
    snprintf(command, sizeof(command), "%s --check-config %s/gpu.yaml 2>&1", getenv("VGPU_E2E_VGPUD"),
             getenv("VGPU_E2E_CONFIG"));
    FILE *f = popen(command, "r");
    e2e_check(f, "%s: %s", command, strerror(errno));
    said[fread(said, 1, sizeof(said) - 1, f)] = 0;
    int status = pclose(f);
    if (build_has_cuda()) {
        e2e_check(status == 0, "%s", said);
        has(said, "gpu.yaml: good");
    } else {
        e2e_check(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %x: %s", (unsigned)status, said);
        has(said, "executor gpu0: backend cuda is not in this build; expected one of null, cpu, ");
        e2e_check(strchr(said, '\n') == said + strlen(said) - 1, "more than one fault: %s", said);
    }
}

/* The engine of a VM's registration reaches the backend, at each attach and after each restart of the executor. */
static void engine(void)
{
    struct e2e_host h;
    struct e2e_paths paths;
    struct vgpu *v = NULL, *none = NULL;
    char text[512];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .backend_options = "engine_must=3"});
    e2e_register(&h, 1, 1, "A", "medium", (const char *const[]){"--engine=resident", NULL});
    e2e_register(&h, 2, 2, "A", "medium", (const char *const[]){"--engine=stream", NULL});
    e2e_register(&h, 3, 3, "A", "medium", NULL);
    v = e2e_open(&h, 1, NULL);
    for (unsigned id = 2; id <= 3; id++) {
        struct vgpu_options o = e2e_guest_options(&h, id, &paths);
        e2e_check(vgpu_open(&o, &none, text, sizeof(text)) != 0, "VM %u attaches with another engine", id);
        has(text, id == 2 ? "engine 1 where engine_must wants 3" : "engine 0 where engine_must wants 3");
    }
    vm_text(&h, 1, "engine", text, sizeof(text));
    e2e_check(strcmp(text, "resident") == 0, "%s", text);
    vm_text(&h, 3, "engine", text, sizeof(text));
    e2e_check(strcmp(text, "auto") == 0, "%s", text);
    pid_t pid = e2e_executor_pid(&h, "A"), now = 0;
    e2e_check(pid > 0 && kill(pid, SIGKILL) == 0, "executor %d", (int)pid);
    e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != pid, "the executor does not come back");
    e2e_check(vgpu_nop(v) == 0, "after the restart: %s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_host_stop(&h);
}

static void arena_access_with(const char *options, const char *want)
{
    struct e2e_host h;
    char text[64];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .backend_options = options});
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    vm_text(&h, 1, "arena_access", text, sizeof(text));
    e2e_check(!text[0], "%s before it is attached", text);
    for (int i = 0; i < 2; i++) {
        struct vgpu *v = e2e_open_patiently(&h, 1);
        vm_text(&h, 1, "arena_access", text, sizeof(text));
        e2e_check(strcmp(text, want) == 0, "arena access \"%s\", not %s", text, want);
        pid_t pid = e2e_executor_pid(&h, "A"), now = 0;
        e2e_check(pid > 0 && kill(pid, SIGKILL) == 0, "executor %d", (int)pid);
        e2e_eventually((now = e2e_executor_pid(&h, "A")) > 0 && now != pid, "the executor does not come back");
        e2e_eventually((vm_text(&h, 1, "arena_access", text, sizeof(text)), strcmp(text, want) == 0),
                       "after a restart: \"%s\", not %s", text, want);
        vgpu_close(v);
    }
    e2e_host_stop(&h);
}
static void arena_direct(void)
{
    arena_access_with("", "direct");
}
static void arena_bounced(void)
{
    arena_access_with("bounced=1", "bounce");
}

/* What a guest breaks for good: what is in flight is lost, the device comes back, the operator can read why. */
static void device_fault(void)
{
    enum { BEFORE = 50, AFTER = 50 };
    struct e2e_host h;
    struct vgpu_request r[BEFORE + 1 + AFTER] = {0};
    struct vgpu_completion c[64];
    char text[512];

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .debug = true});
    e2e_register(&h, 1, 2, "A", "medium", NULL);
    struct vgpu *v = e2e_open(&h, 1, NULL), *other = e2e_open(&h, 2, NULL);
    pool_text(&h, "A", "fault", text, sizeof(text));
    e2e_check(!text[0], "a fault before the fault: %s", text);
    for (uint32_t i = 0; i < BEFORE + 1 + AFTER; i++)
        r[i].tag = i;
    r[BEFORE].opcode = VGPU_OP_DEBUG;
    r[BEFORE].sub = VGPU_DEBUG_DEVICE_FAULT;
    for (unsigned round = 0; round < 3; round++) {
        unsigned seen[BEFORE + 1 + AFTER] = {0}, lost = 0;
        uint64_t generation = properties(v).device_generation;
        e2e_check(vgpu_submit_burst(v, r, BEFORE + 1 + AFTER, NULL) == BEFORE + 1 + AFTER, "%s", vgpu_strerror(v));
        while (vgpu_outstanding(v)) {
            int n = vgpu_wait(v, c, 64, UINT64_C(20000000000));
            e2e_check(n > 0, "%d: %s", n, vgpu_strerror(v));
            for (int i = 0; i < n; i++) {
                seen[c[i].tag]++;
                lost += c[i].status == VGPU_E_LOST;
                e2e_check(c[i].status == (c[i].tag < BEFORE ? VGPU_OK : VGPU_E_LOST), "tag %u: status %u", c[i].tag,
                          c[i].status);
            }
        }
        for (unsigned i = 0; i < BEFORE + 1 + AFTER; i++)
            e2e_check(seen[i] == 1, "round %u: tag %u came %u times", round, i, seen[i]);
        e2e_check(lost == 1 + AFTER, "%u lost", lost);
        e2e_check(vgpu_nop(v) == 0 && vgpu_nop(other) == 0, "afterwards: %s", vgpu_strerror(v));
        e2e_check(properties(v).device_generation == generation + 1, "generation %llu after %llu",
                  (unsigned long long)properties(v).device_generation, (unsigned long long)generation);
        pool_text(&h, "A", "fault", text, sizeof(text));
        has(text, "exited with status 3 (device lost: a DEVICE_FAULT operation broke it)");
    }
    e2e_check(e2e_vm_stat(&h, 2, "lost") == 0, "the neighbour lost descriptors that it did not have");
    vgpu_close(v);
    vgpu_close(other);
    e2e_host_stop(&h);
}

/* ---- a driver that takes its time ---- */

#define REGISTER_MS "6000" /* longer than an executor may take to let go of a VM, and than a guest's handshake */

struct opener {
    const struct e2e_host *h;
    unsigned vm_id;
    struct vgpu *v;
};

static void *open_one(void *arg)
{
    struct opener *o = arg;

    o->v = e2e_open(o->h, o->vm_id, NULL);
    return NULL;
}

/*
 * Attaching takes long, and the executor does nothing else meanwhile: two VMs attach one behind the other, one leaves
 * while a third attaches; the executor is not taken for dead, and who is attached notices nothing.
 */
static void slow_registration(void)
{
    struct e2e_host h;
    struct opener o[3];
    pthread_t thread[3];
    uint64_t worst_ms = 0, rounds = 0;

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .backend_options = "region_add_ms=" REGISTER_MS});
    e2e_register(&h, 1, 3, "A", "medium", NULL);
    pid_t pid = e2e_executor_pid(&h, "A");
    for (unsigned i = 0; i < 3; i++)
        o[i] = (struct opener){.h = &h, .vm_id = i + 1};
    e2e_thread(open_one, &o[0], &thread[0]);
    e2e_thread(open_one, &o[1], &thread[1]);
    pthread_join(thread[0], NULL);
    pthread_join(thread[1], NULL);
    e2e_thread(open_one, &o[2], &thread[2]);
    e2e_sleep_ms(100); /* so that its registration is under way */
    vgpu_close(o[0].v);
    for (uint64_t until = e2e_now_ms() + 6000; e2e_now_ms() < until; rounds++) {
        uint64_t start = e2e_now_ms();
        e2e_check(vgpu_nop(o[1].v) == 0, "the attached VM: %s", vgpu_strerror(o[1].v));
        if (e2e_now_ms() - start > worst_ms)
            worst_ms = e2e_now_ms() - start;
    }
    pthread_join(thread[2], NULL);
    e2e_check(vgpu_nop(o[2].v) == 0, "%s", vgpu_strerror(o[2].v));
    /* One that waited for a registration took 6 s; a machine may be busy enough for a second. */
    e2e_check(worst_ms < 4000 && rounds > 100, "an attached VM ran %llu NOPs, one of them in %llu ms",
              (unsigned long long)rounds, (unsigned long long)worst_ms);
    e2e_check(e2e_executor_pid(&h, "A") == pid, "the executor was killed");
    e2e_shows("while others registered for %s ms, an attached VM ran %llu NOPs one by one, the slowest in %llu ms",
              REGISTER_MS, (unsigned long long)rounds, (unsigned long long)worst_ms);
    vgpu_close(o[1].v);
    vgpu_close(o[2].v);
    e2e_host_stop(&h);
}

/* Starting takes long: guests wait for their own pool's executor, and nobody else does. */
static void slow_start(void)
{
    struct e2e_host h;
    uint64_t worst_ms = 0, rounds = 0, back = 0, start_ms = e2e_now_ms();

    e2e_host_start(&h, &(struct e2e_options){.backend = "fault:cpu", .backend_options = "open_ms=3000", .pools = 2});
    e2e_check(e2e_now_ms() - start_ms >= 3000, "ready before the executors are");
    e2e_register(&h, 1, 1, "A", "medium", NULL);
    e2e_register(&h, 2, 2, "B", "medium", NULL);
    struct vgpu *a = e2e_open(&h, 1, NULL), *b = e2e_open(&h, 2, NULL);
    pid_t pid_a = e2e_executor_pid(&h, "A"), pid_b = e2e_executor_pid(&h, "B");
    e2e_check(pid_b > 0 && kill(pid_b, SIGKILL) == 0, "executor %d", (int)pid_b);
    struct vgpu_request nop = {.opcode = VGPU_OP_NOP};
    struct vgpu_completion c;
    e2e_eventually(properties(b).state == VGPU_VM_PAUSED, "the death is not noticed");
    e2e_check(vgpu_submit(b, &nop, NULL) == 0, "%s", vgpu_strerror(b));
    for (start_ms = e2e_now_ms(); !back; rounds++) {
        uint64_t before = e2e_now_ms();
        e2e_check(before < start_ms + E2E_WAIT_MS, "pool B does not come back");
        e2e_check(vgpu_nop(a) == 0, "pool A: %s", vgpu_strerror(a));
        if (e2e_now_ms() - before > worst_ms)
            worst_ms = e2e_now_ms() - before;
        if (vgpu_poll(b, &c, 1) == 1)
            back = e2e_now_ms() - start_ms;
    }
    e2e_check(c.status == VGPU_OK && back >= 2000, "status %u after %llu ms", c.status, (unsigned long long)back);
    /* One that waited for the start took as long as it. */
    e2e_check(worst_ms < 2000 && rounds > 100, "pool A ran %llu NOPs, one of them in %llu ms",
              (unsigned long long)rounds, (unsigned long long)worst_ms);
    e2e_check(e2e_executor_pid(&h, "A") == pid_a, "pool A has a new executor");
    e2e_shows("pool A ran %llu NOPs one by one, the slowest in %llu ms, while pool B's executor took 3 s to start",
              (unsigned long long)rounds, (unsigned long long)worst_ms);
    vgpu_close(a);
    vgpu_close(b);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"auto_without_driver", auto_without_driver, 0},
    {"auto_with_gpu", auto_with_gpu, 0},
    {"auto_with_broken_driver", auto_with_broken_driver, 0},
    {"auto_with_crashing_driver", auto_with_crashing_driver, 0},
    {"cuda_without_driver", cuda_without_driver, 0},
    {"auto_with_wrong_options", auto_with_wrong_options, 0},
    {"gpu_example", gpu_example, 0},
    {"engine", engine, 0},
    {"arena_direct", arena_direct, 0},
    {"arena_bounced", arena_bounced, 0},
    {"device_fault", device_fault, 0},
    {"slow_start", slow_start, 0},
    {"slow_registration", slow_registration, 90},
};
E2E_MAIN(tests)
