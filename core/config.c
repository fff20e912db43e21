/* SPDX-License-Identifier: Apache-2.0 */
/* The table of configuration keys, and what follows from it: defaults, reading of one value, the reference file. */
#include "core/config_int.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#define KI              (UINT64_C(1) << 10)
#define MI              (UINT64_C(1) << 20)
#define GI              (UINT64_C(1) << 30)
#define TI              (UINT64_C(1) << 40)
#define AT(type, field) .offset = offsetof(struct type, field), .bytes = sizeof(((struct type *)0)->field)
#define CONFIG(field)   AT(vgpu_config, field)
#define POOL(field)     AT(vgpu_pool_config, field)
#define EXEC(field)     AT(vgpu_executor_config, field)
#define SECTION(p, d)                                                                                                  \
    {                                                                                                                  \
        .path = p, .type = VGPU_KEY_SECTION, .unit = "", .doc = d                                                      \
    }
#define ROW(p, t, u, lo, hi, v, where, d)                                                                              \
    {                                                                                                                  \
        .path = p, .type = VGPU_KEY_##t, .unit = u, .min = lo, .max = hi, .value = v, .doc = d, where                  \
    }

/* The backends check them; pmd-gpu/cuda/options.c has the ranges. */
static const char programs_doc[] =
    "Compiled programs: key=value,key=value; empty: none are served. plugin=PATH names a PJRT plugin, which each VM that\n"
    "uses programs gets a process of its own for. Others, with their defaults: client= (the plugin's own options,\n"
    "key=value;key=value), deadline_ms=10000 of an execution, load_deadline_ms=300000 of a compilation, start_ms=60000,\n"
    "device_mib=4096 for the tensors of one VM, memory_mib=0 (no limit) for the data of its process, sharing=turns (one\n"
    "VM at a time on the device) or together, quantum_us=8000 of a turn, linger_us=200 that its VM may pause in\n"
    "it, overstay_ms=100 that others wait for what runs beyond its turn, depth=2 executions handed over at once,\n"
    "spin_us=200 before an idle process sleeps, worker=PATH of vgpu-worker (beside vgpu-exec), subprocess=no: the plugin\n"
    "may start programs (yes for NVIDIA's: its compiler runs ptxas).";
static const char options_doc[] =
    "Backend options: key=value,key=value. null and cpu have none. Those of cuda, with their defaults:\n"
    "  device=0          which GPU, as the driver counts them\n"
    "  engine=auto       for VMs that prefer none: stream, batch, resident, or auto: what is done soonest\n"
    "  workers=48        resident workers over all pools, 16 to an SM: 1 to 64\n"
    "  worker_hold=1     1: nothing else runs on the SMs of resident workers; 0: it may\n"
    "  partition=none    pools: each pool has SMs of its own, and does not slow down the others\n"
    "  reserve_sms=0     SMs that medium and low priority never use: 0 to 128; not with partition=pools\n"
    "  deadline_ms=10000 an operation without progress for so long: the executor starts anew; 0: never\n"
    "  park_ms=1000      resident workers without work for so long leave the GPU; 0: never\n"
    "  staging_mib=256   device memory through which GEMM operands in an arena go: 0 to 65536\n"
    "  register=1        0: the GPU does not reach arenas, all goes through copies (for tests)\n"
    "  register_parks=0  1: resident workers stop while an arena is registered (for compute-sanitizer)\n"
    "  launcher_cpu=any  the CPU of the thread that calls the driver\n"
    "  driver=, cublas=, nvml= other files than libcuda.so.1, libcublas.so and libnvidia-ml.so.1";

static const char *const sandbox_words[] = {"auto", "off", "require", NULL};
static const char *const denied_words[] = {"error", "log", "kill", NULL};
#define WORD(p, list, v, where, d)                                                                                     \
    {                                                                                                                  \
        .path = p, .type = VGPU_KEY_WORD, .unit = "", .value = v, .doc = d, .words = list, where                       \
    }

/* In the order of the reference. Sections and lists precede their keys. */
const struct vgpu_key vgpu_keys[] = {
    SECTION("paths", "Where things are. Changing run_dir or state_dir moves what is derived from them."),
    ROW("paths.run_dir", PATH, "", 0, 0, "/run/vgpu", CONFIG(run_dir), "Lock, tokens and sockets; lost at reboot."),
    ROW("paths.state_dir", PATH, "", 0, 0, "/var/lib/vgpu", CONFIG(state_dir), "What persists."),
    ROW("paths.attach_socket", SOCKET, "", 0, 0, NULL, CONFIG(attach_socket), "Guests attach here."),
    ROW("paths.control_socket", SOCKET, "", 0, 0, NULL, CONFIG(control_socket), "vgpu-ctl talks to the daemon here."),
    ROW("paths.store", PATH, "", 0, 0, NULL, CONFIG(store), "The registry of VMs, an SQLite file, mode 0600."),
    ROW("paths.token_dir", PATH, "", 0, 0, NULL, CONFIG(token_dir), "One token file per VM that has an identity."),
    ROW("paths.executor", BINARY, "", 0, 0, "", CONFIG(executor_path), "The vgpu-exec binary; empty: beside vgpud."),

    SECTION("transports", "How guests reach vgpud."),
    ROW("transports.local", BOOL, "", 0, 0, "true", CONFIG(transport_local),
        "Processes and containers of this host, at paths.attach_socket."),
    ROW("transports.xen", TRI, "", 0, 0, "auto", CONFIG(transport_xen),
        "Xen domains that are registered with their uuid; auto: where vgpud runs in Xen's control domain."),
    ROW("transports.xen_devices", BOOL, "", 0, 0, "true", CONFIG(xen_devices),
        "Make the nodes device/vgpu/0 in xenstore for registered domains; false: the toolstack's scripts make them."),
    SECTION("ring", "Rings in the guests' memory."),
    ROW("ring.strict_ro", BOOL, "", 0, 0, "false", CONFIG(strict_ro),
        "Xen domains grant their submission slots read-only: the host cannot write there, and does without the\n"
        "ownership store, which makes a stream several times as fast on AMD."),

    SECTION("poll_cores", "Threads that take descriptors from the guests' rings. Each VM belongs to one of them."),
    ROW("poll_cores.cpus", CPUS, "", 1, VGPU_CONFIG_MAX_POLL_CORES, "[any]", CONFIG(poll_cpu),
        "One poll core for each entry, pinned to that CPU or left to the kernel (any)."),
    ROW("poll_cores.burst", UINT, "descriptors", 1, 256, "32", CONFIG(burst),
        "Taken from one VM in one visit, at most."),
    ROW("poll_cores.sched", SCHED, "", 0, 0, "other", CONFIG(sched),
        "Scheduling class. fifo: no ordinary thread takes a poll core's CPU (needs CAP_SYS_NICE); only with pinned poll\n"
        "cores on isolated CPUs, since nothing else runs where one polls."),
    ROW("poll_cores.sched_priority", UINT, "of 99", 1, 99, "1", CONFIG(sched_priority), "With fifo: the real-time priority."),
    SECTION("poll_cores.idle", "What a poll core does without work: spin, then pause, then sleep on a doorbell."),
    ROW("poll_cores.idle.spin_us", MICROS, "microseconds", 0, 10000000, "20", CONFIG(poll_idle.spin_ns),
        "Polls at full speed for this long after the last work."),
    ROW("poll_cores.idle.pause_us", MICROS, "microseconds", 0, 10000000, "80", CONFIG(poll_idle.pause_ns),
        "Then polls with pause instructions for this long."),
    ROW("poll_cores.idle.sleep", BOOL, "", 0, 0, "true", CONFIG(poll_idle.sleep),
        "Then sleeps until a doorbell rings; false: polls for ever, and guests never ring."),

    {.path = "executors",
     .type = VGPU_KEY_LIST,
     .unit = "",
     .min = 1,
     .max = VGPU_CONFIG_MAX_EXECUTORS,
     .offset = offsetof(struct vgpu_config, executors),
     .bytes = sizeof(struct vgpu_executor_config),
     .count_offset = offsetof(struct vgpu_config, executor_count),
     .doc = "Processes (vgpu-exec) that own a device and run what the poll cores hand them."},
    ROW("executors[].name", NAME, "", 0, 0, NULL, EXEC(name), "Unique; pools name it."),
    ROW("executors[].backend", BACKEND, "", 0, 0, "cpu", EXEC(backend),
        "null (completes at once), cpu, cuda (an NVIDIA GPU), or fault:null and fault:cpu for tests. auto: cuda where\n"
        "it works, as tried at the start, else cpu (without options)."),
    ROW("executors[].options", TEXT, "", 0, 0, "\"\"", EXEC(options), options_doc),
    ROW("executors[].programs", TEXT, "", 0, 0, "\"\"", EXEC(programs), programs_doc),
    ROW("executors[].cpu", CPU, "", 0, 0, "any", EXEC(cpu), "The CPU that it is pinned to, or any."),
    ROW("executors[].in_process", BOOL, "", 0, 0, "false", EXEC(in_process),
        "Runs inside the poll core's loop instead of a process of its own; null and cpu only."),
    ROW("executors[].heap_bytes", SIZE, "bytes", MI, TI, "4G", EXEC(heap_bytes),
        "Device memory (cpu: address space) that the VMs' device buffers are cut from."),
    ROW("executors[].memory_bytes", SIZE, "bytes", 0, TI, "0", EXEC(memory_bytes),
        "Private memory that its process may take beside heap_bytes (those of programs have memory_mib); beyond it\n"
        "there is none to be had, and what needed it fails. At least 64M; 0: no limit. Memory of guests and of a GPU does\n"
        "not count, but copies of arenas do where the GPU cannot reach them (arena_access bounce)."),

    SECTION("executor_idle", "The same for executors."),
    ROW("executor_idle.spin_us", MICROS, "microseconds", 0, 10000000, "20", CONFIG(exec_idle.spin_ns), "As above."),
    ROW("executor_idle.pause_us", MICROS, "microseconds", 0, 10000000, "80", CONFIG(exec_idle.pause_ns), "As above."),
    ROW("executor_idle.sleep", BOOL, "", 0, 0, "true", CONFIG(exec_idle.sleep), "As above."),

    SECTION("recovery", "What happens to an executor that dies. Its VMs stay attached and wait."),
    ROW("recovery.backoff_min_us", MICROS, "microseconds", 1000, 60000000, "20000", CONFIG(recovery.backoff_min_ns),
        "The first wait before it is started again; each further one is twice as long."),
    ROW("recovery.backoff_max_us", MICROS, "microseconds", 1000, 600000000, "5000000", CONFIG(recovery.backoff_max_ns),
        "The longest wait, and how long it must live for the waits to start anew."),
    ROW("recovery.deaths", UINT, "deaths", 0, VGPU_BREAKER_DEATHS_MAX, "8", CONFIG(recovery.deaths),
        "So many within window_s are a crash loop: its pools are down, with a reason, until a trial succeeds; 0: never."),
    ROW("recovery.window_s", UINT, "seconds", 1, 86400, "60", CONFIG(recovery.window_s),
        "See deaths. A trial has succeeded when it has lived for so long."),
    ROW("recovery.retry_s", UINT, "seconds", 1, 86400, "60", CONFIG(recovery.retry_s),
        "How long a crash loop waits before each trial."),
    ROW("recovery.quarantine", UINT, "deaths", 0, 16, "3", CONFIG(quarantine_deaths),
        "An executor that died so often while one VM alone had work in flight: that VM is quarantined; 0: never. Where several\n"
        "had, they are tried in halves first, while the others wait: docs/reliability.md."),

    SECTION("scheduler", "In which order descriptors reach the device."),
    ROW("scheduler.scope", SCOPE, "", 0, 0, "pool", CONFIG(scope),
        "pool: queues per pool, pools do not wait for each other; host: one set of queues for all pools."),
    {.path = "scheduler.window",
     .type = VGPU_KEY_UINT,
     .unit = "items",
     .min = 8,
     .max = 65536,
     CONFIG(window),
     .value = "256",
     .power_of_two = true,
     .doc = "Handed to an executor and not yet started, per poll core, pool and priority; more waits with the VM."},

    {.path = "pools",
     .type = VGPU_KEY_LIST,
     .unit = "",
     .min = 1,
     .max = VGPU_CONFIG_MAX_POOLS,
     .offset = offsetof(struct vgpu_config, pools),
     .bytes = sizeof(struct vgpu_pool_config),
     .count_offset = offsetof(struct vgpu_config, pool_count),
     .doc = "Groups of VMs that share one executor and are isolated from the other pools."},
    ROW("pools[].name", NAME, "", 0, 0, NULL, POOL(name), "Unique; register-vm --pool names it."),
    ROW("pools[].executor", NAME, "", 0, 0, NULL, POOL(executor), "The executor that serves it."),
    ROW("pools[].capacity", UINT, "VMs", 1, VGPU_VM_IDS, "32", POOL(capacity), "VMs that may be registered in it."),
    SECTION("pools[].budget", "In flight on the device at once, per priority: what a higher priority may wait for."),
    ROW("pools[].budget.high", UINT, "descriptors", 1, 65536, "64", POOL(budget[VGPU_PRIO_HIGH]), ""),
    ROW("pools[].budget.medium", UINT, "descriptors", 1, 65536, "32", POOL(budget[VGPU_PRIO_MEDIUM]), ""),
    ROW("pools[].budget.low", UINT, "descriptors", 1, 65536, "16", POOL(budget[VGPU_PRIO_LOW]), ""),

    SECTION("limits", "What one VM, and all of them, may use."),
    ROW("limits.attached_vms", UINT, "VMs", 1, 4096, "64", CONFIG(max_vms), "Attached at once."),
    ROW("limits.in_flight", UINT, "descriptors", 1, VGPU_RING_SLOTS_MAX, "1024", CONFIG(in_flight),
        "Accepted and not completed per VM: the default, and the most that a VM may be registered with."),
    ROW("limits.handles", UINT, "buffers", 1, VGPU_HANDLE_MAX, "1024", CONFIG(max_handles), "Device buffers per VM."),
    {.path = "limits.ring_slots",
     .type = VGPU_KEY_UINT,
     .unit = "slots",
     .min = VGPU_RING_SLOTS_MIN,
     .max = VGPU_RING_SLOTS_MAX,
     CONFIG(ring_slots),
     .value = "4096",
     .power_of_two = true,
     .doc = "Largest submission or completion ring of a guest."},
    ROW("limits.arena_bytes", SIZE, "bytes", 4 * KI, TI, "64M", CONFIG(arena_bytes),
        "Memory that a VM shares with the host: the default."),
    ROW("limits.device_bytes", SIZE, "bytes", 0, TI, "64M", CONFIG(device_bytes),
        "Device memory per VM: the default; 0: none."),
    ROW("limits.max_arena_bytes", SIZE, "bytes", 4 * KI, TI, "4G", CONFIG(max_arena_bytes),
        "Largest arena that a VM may be registered with."),

    SECTION("memory", "vgpud's own memory."),
    ROW("memory.hugepages", BOOL, "", 0, 0, "true", CONFIG(hugepages), "Use huge pages where the host has some."),
    ROW("memory.lock", BOOL, "", 0, 0, "false", CONFIG(lock_memory), "Lock all memory (needs CAP_IPC_LOCK)."),

    SECTION("iommu", "Devices bound to vfio-pci that reach VMs' memory by DMA, each inside an IOMMU domain (a VFIO container)."),
    ROW("iommu.devices", DEVICES, "", 0, VGPU_CONFIG_MAX_DEVICES, "[]", CONFIG(devices),
        "Such a device reaches the arenas of the attached VMs of its domain, and no other memory. @N puts it into domain N,\n"
        "for VMs registered with --iommu-domain=N; without it, into domain 0, which the other VMs share. :ro lets it read\n"
        "only. A GPU that vgpu-exec computes on stays with its own driver: docs/security-iommu.md."),

    SECTION("log", "What goes to stderr, and so to the journal."),
    ROW("log.level", LEVEL, "", 0, 0, "info", CONFIG(log_level),
        "The least that is told. --verbose is debug whatever stands here."),

    SECTION("control", "Who may talk to the daemon over its control socket, besides root and the daemon's own user."),
    ROW("control.admin_group", TEXT, "", 0, 0, "\"\"", CONFIG(admin_group),
        "Members of this group may do everything; empty: no such group."),
    ROW("control.viewer_group", TEXT, "", 0, 0, "\"\"", CONFIG(viewer_group),
        "Members of this group may look, and change nothing; empty: no such group."),

    SECTION("privileges", "What vgpud and its executors give up: docs/threat-model.md says what each part is good for."),
    WORD("privileges.sandbox", sandbox_words, "auto", CONFIG(privileges.sandbox),
        "auto: all of it that this host allows; the log and vgpu-ctl status say what it does not. require: or vgpud does not\n"
        "start. off: nothing is given up."),
    ROW("privileges.user", TEXT, "", 0, 0, "\"\"", CONFIG(privileges.user),
        "The user, a name or a number, that vgpud becomes once it has started as root; it is given run_dir and state_dir.\n"
        "Empty: it stays who it is, without capabilities."),
    ROW("privileges.executor_user", TEXT, "", 0, 0, "\"\"", CONFIG(privileges.executor_user),
        "The user that executors are. Empty: each has a uid of its own, from 60600 on, where vgpud starts as root, but with\n"
        "an MPS daemon or in a Xen dom0, where it is vgpud's: MPS serves one user, /dev/xen/gntdev is root's. same: vgpud's."),
    ROW("privileges.mounts", TRI, "", 0, 0, "auto", CONFIG(privileges.mounts),
        "Executors see libraries read-only, a private /tmp, the devices below, and no other file. true: or they do not start."),
    ROW("privileges.network", TRI, "", 0, 0, "auto", CONFIG(privileges.network),
        "Executors have no network. true: or they do not start."),
    ROW("privileges.seccomp", TRI, "", 0, 0, "auto", CONFIG(privileges.seccomp),
        "System calls that neither vgpud nor an executor has a use for are denied. true: or they do not start."),
    WORD("privileges.denied", denied_words, "error", CONFIG(privileges.denied),
        "What a denied call gets. log: the error too, and a line that names the call. kill: the end of the process."),
    ROW("privileges.devices", TEXT, "", 0, 0, "/dev/nvidia*,/dev/nvidia-caps/*,/dev/dri/*", CONFIG(privileges.devices),
        "Device nodes of executors, patterns with ',' between them."),
    ROW("privileges.read", TEXT, "", 0, 0, "\"\"", CONFIG(privileges.read),
        "More files and folders that executors may read, with ',' between them: libraries outside of /usr and /opt that the\n"
        "loader does not list."),

    SECTION("debug", "For tests; leave them off."),
    ROW("debug.debug_ops", BOOL, "", 0, 0, "false", CONFIG(debug_ops),
        "Serve VGPU_OP_DEBUG: any guest may then stall or kill its executor."),
    ROW("debug.exec_seq", BOOL, "", 0, 0, "false", CONFIG(expose_exec_seq),
        "Show guests the order in which their pool's executor started descriptors."),
};
const uint32_t vgpu_key_count = sizeof(vgpu_keys) / sizeof(vgpu_keys[0]);

const struct vgpu_derived vgpu_derived[VGPU_DERIVED_COUNT] = {
    {"paths.attach_socket", "paths.run_dir", offsetof(struct vgpu_config, run_dir), "attach.sock"},
    {"paths.control_socket", "paths.run_dir", offsetof(struct vgpu_config, run_dir), "control.sock"},
    {"paths.store", "paths.state_dir", offsetof(struct vgpu_config, state_dir), "vgpu.db"},
    {"paths.token_dir", "paths.run_dir", offsetof(struct vgpu_config, run_dir), "tokens"},
};

/* What is there without a file. */
static const struct {
    const char *pool, *executor;
} default_pools[] = {{"A", "exec-A"}, {"B", "exec-B"}};
#define DEFAULT_POOLS (sizeof(default_pools) / sizeof(default_pools[0]))

static const char *const backends[] = {"null", "cpu", "cuda", "auto", "fault:null", "fault:cpu"};

const struct vgpu_key *vgpu_key_find(const char *path)
{
    for (uint32_t i = 0; i < vgpu_key_count; i++)
        if (!strcmp(vgpu_keys[i].path, path))
            return &vgpu_keys[i];
    return NULL;
}

void vgpu_key_quote(const char *text, size_t text_bytes, char *out, size_t bytes)
{
    size_t n = 0, shown = text_bytes > 40 ? 40 : text_bytes;

    out[n++] = '"';
    for (size_t i = 0; i < shown && n + 6 < bytes; i++)
        out[n++] = (unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i];
    /* A cut must not leave half a UTF-8 character. */
    if (shown < text_bytes) {
        while (n > 1 && ((unsigned char)out[n - 1] & 0xc0) == 0x80)
            n--;
        if (n > 1 && ((unsigned char)out[n - 1] & 0x80))
            n--;
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n++] = '"';
    out[n] = 0;
}

static const char *size_text(uint64_t v, char *out, size_t bytes)
{
    static const struct {
        uint64_t unit;
        const char *suffix;
    } units[] = {{TI, "T"}, {GI, "G"}, {MI, "M"}, {KI, "K"}};
    for (uint32_t i = 0; v && i < 4; i++)
        if (v % units[i].unit == 0) {
            /* T is not a suffix of the file's: 1024G says the same. */
            bool tera = i == 0;
            snprintf(out, bytes, "%" PRIu64 "%s", tera ? v / GI : v / units[i].unit, tera ? "G" : units[i].suffix);
            return out;
        }
    snprintf(out, bytes, "%" PRIu64, v);
    return out;
}

void vgpu_key_expected(const struct vgpu_key *k, char *out, size_t bytes)
{
    char lo[32], hi[32];

    switch (k->type) {
    case VGPU_KEY_SECTION:
        snprintf(out, bytes, "keys below it");
        break;
    case VGPU_KEY_LIST:
        snprintf(out, bytes, "a list of %" PRIu64 " to %" PRIu64 " entries", k->min, k->max);
        break;
    case VGPU_KEY_PATH:
        snprintf(out, bytes, "an absolute path");
        break;
    case VGPU_KEY_SOCKET:
        snprintf(out, bytes, "an absolute path of at most %u bytes", VGPU_CONFIG_PATH_BYTES - 1);
        break;
    case VGPU_KEY_BINARY:
        snprintf(out, bytes, "an absolute path, or \"\"");
        break;
    case VGPU_KEY_NAME:
        snprintf(out, bytes, "1 to %u of letters, digits, '.', '_' and '-'", VGPU_NAME_BYTES - 1);
        break;
    case VGPU_KEY_BACKEND:
        snprintf(out, bytes, "null, cpu, cuda, auto, fault:null or fault:cpu");
        break;
    case VGPU_KEY_TEXT:
        snprintf(out, bytes, "at most %zu printable bytes", k->bytes - 1);
        break;
    case VGPU_KEY_UINT:
    case VGPU_KEY_MICROS:
        snprintf(out, bytes, "a %s from %" PRIu64 " to %" PRIu64 " (%s)",
                 k->power_of_two ? "power of two" : "whole number", k->min, k->max, k->unit);
        break;
    case VGPU_KEY_SIZE:
        snprintf(out, bytes, "a size from %s to %s bytes, such as 64M (K, M and G are powers of 1024)",
                 size_text(k->min, lo, sizeof(lo)), size_text(k->max, hi, sizeof(hi)));
        break;
    case VGPU_KEY_BOOL:
        snprintf(out, bytes, "true or false");
        break;
    case VGPU_KEY_TRI:
        snprintf(out, bytes, "auto, true or false");
        break;
    case VGPU_KEY_SCOPE:
        snprintf(out, bytes, "pool or host");
        break;
    case VGPU_KEY_SCHED:
        snprintf(out, bytes, "other or fifo");
        break;
    case VGPU_KEY_LEVEL:
        snprintf(out, bytes, "error, warn, info or debug");
        break;
    case VGPU_KEY_WORD:
        out[0] = 0;
        for (uint32_t i = 0, n = 0; k->words[i] && n < bytes; i++)
            n += (uint32_t)snprintf(out + n, bytes - n, "%s%s", i == 0 ? "" : k->words[i + 1] ? ", " : " or ", k->words[i]);
        break;
    case VGPU_KEY_CPU:
        snprintf(out, bytes, "any, or a CPU number from 0 to %d", VGPU_CPU_MAX);
        break;
    case VGPU_KEY_DEVICE:
        snprintf(out, bytes, "a PCI address such as 0000:01:00.0, then @N for a domain from 1 to %u, then :ro", VGPU_VM_IDS);
        break;
    case VGPU_KEY_DEVICES:
        snprintf(out, bytes, "a list of %" PRIu64 " to %" PRIu64 " PCI addresses, each with @DOMAIN or :ro behind it or not",
                 k->min, k->max);
        break;
    case VGPU_KEY_CPUS:
        snprintf(out, bytes, "a list of %" PRIu64 " to %" PRIu64 " entries, each any or a CPU number from 0 to %d",
                 k->min, k->max, VGPU_CPU_MAX);
        break;
    }
}

/* Digits only. False: not a number. Saturates at UINT64_MAX, which every range refuses. */
static bool parse_u64(const char *text, size_t bytes, uint64_t *out)
{
    uint64_t v = 0;

    if (!bytes)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(text[i] - '0'), &v))
            v = UINT64_MAX;
        if (v == UINT64_MAX) {
            for (i++; i < bytes; i++)
                if (text[i] < '0' || text[i] > '9')
                    return false;
        }
    }
    *out = v;
    return true;
}

static bool parse_size(const char *text, size_t bytes, uint64_t *out)
{
    uint64_t unit = 1;

    if (bytes) {
        char last = text[bytes - 1];
        unit = last == 'K' ? KI : last == 'M' ? MI : last == 'G' ? GI : 1;
    }
    if (!parse_u64(text, bytes - (unit > 1), out))
        return false;
    if (__builtin_mul_overflow(*out, unit, out))
        *out = UINT64_MAX;
    return true;
}

bool vgpu_key_cpu(const char *text, int *out)
{
    uint64_t v;

    if (!strcmp(text, "any")) {
        *out = VGPU_CPU_ANY;
        return true;
    }
    if (!parse_u64(text, strlen(text), &v) || v > VGPU_CPU_MAX)
        return false;
    *out = (int)v;
    return true;
}

/* A PCI address as sysfs writes it: four to eight digits of domain, then bus, slot, function, in lower case. */
static bool pci_address_ok(const char *text, size_t n)
{
    static const char shape[] = "xx:xx.x";
    size_t domain = n > 8 ? n - 8 : 0;

    if (domain < 4 || domain > 6 || text[domain] != ':' || text[n - 1] > '7')
        return false;
    for (size_t i = 0; i < n; i++) {
        char want = i < domain ? 'x' : i == domain ? ':' : shape[i - domain - 1];
        bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
        if (want == 'x' ? !hex : text[i] != want)
            return false;
    }
    return true;
}

bool vgpu_key_device(const char *text, struct vgpu_device_config *out)
{
    struct vgpu_device_config d = {0};
    size_t n = strcspn(text, "@"), end = strlen(text);
    uint64_t domain = 0;

    if (end >= 3 && !strcmp(text + end - 3, ":ro")) {
        d.read_only = true;
        end -= 3;
    }
    if (n < end && (!parse_u64(text + n + 1, end - n - 1, &domain) || domain < 1 || domain > VGPU_VM_IDS))
        return false;
    if (n > end)
        n = end;
    if (!pci_address_ok(text, n) || n >= sizeof(d.address))
        return false;
    memcpy(d.address, text, n);
    d.domain = (uint32_t)domain;
    *out = d;
    return true;
}

void vgpu_key_device_text(const struct vgpu_device_config *d, char *out, size_t bytes)
{
    char domain[16] = "";

    if (d->domain)
        snprintf(domain, sizeof(domain), "@%u", d->domain);
    snprintf(out, bytes, "%s%s%s", d->address, domain, d->read_only ? ":ro" : "");
}

static bool printable(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return false;
    return true;
}

static bool name_ok(const char *text, size_t bytes)
{
    if (!bytes || bytes >= VGPU_NAME_BYTES)
        return false;
    for (size_t i = 0; i < bytes; i++) {
        char ch = text[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') || ch == '.' ||
              ch == '_' || ch == '-'))
            return false;
    }
    return true;
}

/* Strings. NULL, or what is wrong. */
static const char *set_string(const struct vgpu_key *k, char *dst, const char *text, size_t bytes)
{
    if (!printable(text, bytes))
        return "has control characters";
    if (k->type == VGPU_KEY_NAME && !name_ok(text, bytes))
        return "is not a name";
    if (k->type == VGPU_KEY_BACKEND) {
        bool known = false;
        for (uint32_t i = 0; i < sizeof(backends) / sizeof(backends[0]); i++)
            known |= !strcmp(backends[i], text);
        if (!known)
            return "is no backend";
    }
    bool path = k->type == VGPU_KEY_PATH || k->type == VGPU_KEY_SOCKET || k->type == VGPU_KEY_BINARY;
    if (path && !(k->type == VGPU_KEY_BINARY && !bytes) && text[0] != '/')
        return "is not an absolute path";
    if (bytes >= k->bytes)
        return "is too long";
    memset(dst, 0, k->bytes);
    memcpy(dst, text, bytes);
    return NULL;
}

/* Numbers. NULL, or what is wrong. */
static const char *set_number(const struct vgpu_key *k, void *dst, const char *text, size_t bytes)
{
    uint64_t v;
    bool size = k->type == VGPU_KEY_SIZE;

    if (!(size ? parse_size(text, bytes, &v) : parse_u64(text, bytes, &v)))
        return size ? "is not a size" : "is not a whole number";
    if (v < k->min)
        return "is too small";
    if (v > k->max)
        return "is too large";
    if (k->power_of_two && (v & (v - 1)))
        return "is not a power of two";
    if (k->type == VGPU_KEY_UINT) {
        uint32_t v32 = (uint32_t)v; /* max fits */
        memcpy(dst, &v32, sizeof(v32));
    } else {
        if (k->type == VGPU_KEY_MICROS)
            v *= 1000;
        memcpy(dst, &v, sizeof(v));
    }
    return NULL;
}

/* Words. NULL, or what is wrong. */
static const char *set_word(const struct vgpu_key *k, void *dst, const char *text)
{
    if (k->type == VGPU_KEY_BOOL) {
        bool v = !strcmp(text, "true");
        if (!v && strcmp(text, "false"))
            return "is neither";
        memcpy(dst, &v, sizeof(v));
    } else if (k->type == VGPU_KEY_TRI) {
        enum vgpu_tri v = !strcmp(text, "true") ? VGPU_TRI_YES : !strcmp(text, "false") ? VGPU_TRI_NO : VGPU_TRI_AUTO;
        if (v == VGPU_TRI_AUTO && strcmp(text, "auto"))
            return "is none of them";
        memcpy(dst, &v, sizeof(v));
    } else if (k->type == VGPU_KEY_SCOPE) {
        enum vgpu_scope v = !strcmp(text, "host") ? VGPU_SCOPE_HOST : VGPU_SCOPE_POOL;
        if (v == VGPU_SCOPE_POOL && strcmp(text, "pool"))
            return "is no scope";
        memcpy(dst, &v, sizeof(v));
    } else if (k->type == VGPU_KEY_LEVEL) {
        enum vgpu_log_level v = !strcmp(text, "error") ? VGPU_LOG_ERROR
                                : !strcmp(text, "warn") ? VGPU_LOG_WARN
                                : !strcmp(text, "debug") ? VGPU_LOG_DEBUG
                                                         : VGPU_LOG_INFO;
        if (v == VGPU_LOG_INFO && strcmp(text, "info"))
            return "is no level";
        memcpy(dst, &v, sizeof(v));
    } else if (k->type == VGPU_KEY_SCHED) {
        enum vgpu_sched v = !strcmp(text, "fifo") ? VGPU_SCHED_FIFO : VGPU_SCHED_OTHER;
        if (v == VGPU_SCHED_OTHER && strcmp(text, "other"))
            return "is no scheduling class";
        memcpy(dst, &v, sizeof(v));
    } else if (k->type == VGPU_KEY_WORD) {
        int v = 0;
        while (k->words[v] && strcmp(k->words[v], text))
            v++;
        if (!k->words[v])
            return "is none of them";
        memcpy(dst, &v, sizeof(v));
    } else if (k->type == VGPU_KEY_DEVICE) {
        if (!vgpu_key_device(text, dst))
            return "is no such device";
    } else {
        int v;
        if (!vgpu_key_cpu(text, &v))
            return "is no CPU";
        memcpy(dst, &v, sizeof(v));
    }
    return NULL;
}

bool vgpu_key_set(const struct vgpu_key *k, void *base, const char *text, size_t bytes, bool plain, char *why,
                  size_t why_bytes)
{
    void *dst = (char *)base + k->offset;
    const char *wrong;
    char expected[160], quoted[64];

    if (memchr(text, 0, bytes))
        wrong = "holds a NUL";
    else if (k->type == VGPU_KEY_PATH || k->type == VGPU_KEY_SOCKET || k->type == VGPU_KEY_BINARY ||
             k->type == VGPU_KEY_NAME || k->type == VGPU_KEY_BACKEND || k->type == VGPU_KEY_TEXT)
        wrong = set_string(k, dst, text, bytes);
    else if (!plain)
        wrong = "is quoted, so it is text";
    else if (k->type == VGPU_KEY_UINT || k->type == VGPU_KEY_SIZE || k->type == VGPU_KEY_MICROS)
        wrong = set_number(k, dst, text, bytes);
    else
        wrong = set_word(k, dst, text);
    if (!wrong)
        return true;
    vgpu_key_expected(k, expected, sizeof(expected));
    vgpu_key_quote(text, bytes, quoted, sizeof(quoted));
    snprintf(why, why_bytes, "%s %s; expected %s", quoted, wrong, expected);
    return false;
}

/* The table's own defaults go through the same reader; one that does not fit is our bug, found by the first test. */
static void set_default(const struct vgpu_key *k, void *base)
{
    char why[256];
    const char *text = strcmp(k->value, "\"\"") ? k->value : "";

    if (!vgpu_key_set(k, base, text, strlen(text), true, why, sizeof(why))) {
        fprintf(stderr, "vgpu: default of %s: %s\n", k->path, why);
        __builtin_trap();
    }
}

void vgpu_key_element_defaults(const struct vgpu_key *list, void *element)
{
    size_t n = strlen(list->path);

    memset(element, 0, list->bytes);
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (!strncmp(k->path, list->path, n) && !strncmp(k->path + n, "[].", 3) && k->value)
            set_default(k, element);
    }
}

void vgpu_config_pool_defaults(struct vgpu_pool_config *pool)
{
    vgpu_key_element_defaults(vgpu_key_find("pools"), pool);
}

bool vgpu_config_derive(struct vgpu_config *c, const struct vgpu_derived *d)
{
    const struct vgpu_key *k = vgpu_key_find(d->path);
    char *dst = (char *)c + k->offset;
    const char *dir = (const char *)c + d->from_offset;
    size_t n = strlen(dir), leaf = strlen(d->leaf);

    if (dst[0])
        return true;
    while (n > 1 && dir[n - 1] == '/')
        n--;
    if (n == 1)
        n = 0; /* "/" */
    if (n + 1 + leaf >= k->bytes)
        return false;
    memcpy(dst, dir, n);
    dst[n] = '/';
    memcpy(dst + n + 1, d->leaf, leaf + 1);
    return true;
}

/* All but the derived paths, which follow once the file has been read. */
void vgpu_config_defaults_underived(struct vgpu_config *c)
{
    memset(c, 0, sizeof(*c));
    for (uint32_t i = 0; i < vgpu_key_count; i++) {
        const struct vgpu_key *k = &vgpu_keys[i];
        if (k->value && !strstr(k->path, "[]") && k->type != VGPU_KEY_CPUS && k->type != VGPU_KEY_DEVICES)
            set_default(k, c);
    }
    c->poll_core_count = 1;
    for (uint32_t i = 0; i < VGPU_CONFIG_MAX_POLL_CORES; i++)
        c->poll_cpu[i] = VGPU_CPU_ANY;
    c->pool_count = c->executor_count = DEFAULT_POOLS;
    for (uint32_t i = 0; i < DEFAULT_POOLS; i++) {
        vgpu_key_element_defaults(vgpu_key_find("pools"), &c->pools[i]);
        vgpu_key_element_defaults(vgpu_key_find("executors"), &c->executors[i]);
        snprintf(c->pools[i].name, VGPU_NAME_BYTES, "%s", default_pools[i].pool);
        snprintf(c->pools[i].executor, VGPU_NAME_BYTES, "%s", default_pools[i].executor);
        snprintf(c->executors[i].name, VGPU_NAME_BYTES, "%s", default_pools[i].executor);
    }
}

void vgpu_config_defaults(struct vgpu_config *c)
{
    vgpu_config_defaults_underived(c);
    for (uint32_t i = 0; i < VGPU_DERIVED_COUNT; i++)
        vgpu_config_derive(c, &vgpu_derived[i]);
}
