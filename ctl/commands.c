/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of all commands, in the order in which help lists them. A row without `run` is one request of the control
 * protocol; docs/control-protocol.md says what its arguments mean.
 */
#include "ctl/local.h"

#include "rings/abi/vgpu_abi.h"
#include "store/store.h"

#define BYTES_MAX (UINT64_C(1) << 40)

#define IDS(text)                                                                                                      \
    {                                                                                                                  \
        .name = "vm-id", .argument = "vm_ids", .type = VGPU_CTL_IDS, .required = true, .min = 1,                       \
        .max = VGPU_VM_ID_MAX, .doc = text                                                                             \
    }
#define ID(needed, text)                                                                                               \
    {                                                                                                                  \
        .name = "vm-id", .argument = "vm_id", .type = VGPU_CTL_ID, .required = needed, .min = 1,                       \
        .max = VGPU_VM_ID_MAX, .doc = text                                                                             \
    }
#define POOL(needed, text)                                                                                             \
    {                                                                                                                  \
        .name = "pool", .argument = "pool", .type = VGPU_CTL_NAME, .required = needed, .doc = text                     \
    }
#define PRIORITY(needed, text)                                                                                         \
    {                                                                                                                  \
        .name = "priority", .argument = "priority", .type = VGPU_CTL_WORD, .required = needed,                         \
        .choices = "high|medium|low", .doc = text                                                                      \
    }
#define ENGINE(text)                                                                                                   \
    {                                                                                                                  \
        .name = "engine", .argument = "engine", .type = VGPU_CTL_WORD, .choices = "auto|stream|batch|resident",        \
        .doc = text                                                                                                    \
    }
#define COUNT(flag, key, from, to, text)                                                                               \
    {                                                                                                                  \
        .name = flag, .argument = key, .type = VGPU_CTL_COUNT, .min = from, .max = to, .doc = text                     \
    }
#define SIZE(flag, key, from, text)                                                                                    \
    {                                                                                                                  \
        .name = flag, .argument = key, .type = VGPU_CTL_SIZE, .min = from, .max = BYTES_MAX, .doc = text               \
    }
#define FLAG(flag, text)                                                                                               \
    {                                                                                                                  \
        .name = flag, .argument = flag, .type = VGPU_CTL_FLAG, .doc = text                                             \
    }
#define WORD(flag, list, text)                                                                                         \
    {                                                                                                                  \
        .name = flag, .argument = flag, .type = VGPU_CTL_WORD, .choices = list, .doc = text                            \
    }
#define FILE_NAME(flag, text)                                                                                          \
    {                                                                                                                  \
        .name = flag, .argument = flag, .type = VGPU_CTL_PATH, .doc = text                                             \
    }
#define REPORT_NAME(flag, text)                                                                                        \
    {                                                                                                                  \
        .name = flag, .argument = flag, .type = VGPU_CTL_NAME, .doc = text                                             \
    }
/* Limits of a VM; default: the configuration's. */
#define LIMITS                                                                                                         \
    {.name = "in-flight",                                                                                              \
     .argument = "in_flight",                                                                                          \
     .type = VGPU_CTL_COUNT,                                                                                           \
     .min = 1,                                                                                                         \
     .max = VGPU_RING_SLOTS_MAX,                                                                                       \
     .choices = "default",                                                                                             \
     .doc = "descriptors accepted, not completed"},                                                                    \
        {.name = "arena-bytes",                                                                                        \
         .argument = "arena_bytes",                                                                                    \
         .type = VGPU_CTL_SIZE,                                                                                        \
         .min = VGPU_PAGE_BYTES,                                                                                       \
         .max = BYTES_MAX,                                                                                             \
         .choices = "default",                                                                                         \
         .doc = "largest shared arena"},                                                                               \
    {                                                                                                                  \
        .name = "device-bytes", .argument = "device_bytes", .type = VGPU_CTL_SIZE, .min = 0, .max = BYTES_MAX,         \
        .choices = "default", .doc = "device memory; 0: none"                                                          \
    }
#define ISOLATION                                                                                                      \
    {                                                                                                                  \
        .name = "isolation", .argument = "isolation", .type = VGPU_CTL_WORD, .choices = "shared|dedicated",            \
        .doc = "dedicated: shares its IOMMU domain with no other VM; default shared"                                   \
    }
#define IOMMU_DOMAIN                                                                                                   \
    COUNT("iommu-domain", "iommu_domain", 0, VGPU_VM_ID_MAX,                                                           \
          "which VFIO-bound devices reach its memory (iommu.devices); default 0, the shared one")
#define REASON                                                                                                         \
    {                                                                                                                  \
        .name = "reason", .argument = "reason", .type = VGPU_CTL_TEXT, .max = VGPU_REASON_BYTES - 1,                   \
        .doc = "why; shown with the VM"                                                                                \
    }
#define DRY_RUN(text)                                                                                                  \
    {                                                                                                                  \
        .name = "dry-run", .argument = "dry_run", .type = VGPU_CTL_FLAG, .doc = text                                   \
    }
#define POOL_PARTS                                                                                                     \
    COUNT("capacity", "capacity", 1, VGPU_VM_ID_MAX, "VMs that may be members"),                                       \
        {.name = "executor", .argument = "executor", .type = VGPU_CTL_NAME, .doc = "which one serves it"},             \
        COUNT("sm-share", "sm_share", 0, 100, "percent of the GPU's multiprocessors; 0: no limit")
#define VM_NAME                                                                                                        \
    {                                                                                                                  \
        .name = "name", .argument = "name", .type = VGPU_CTL_NAME, .doc = "for one VM; default vm-ID"                  \
    }
#define UID                                                                                                            \
    {                                                                                                                  \
        .name = "uid", .argument = "uid", .type = VGPU_CTL_USER, .max = 4294967294u,                                   \
        .doc = "user that may attach; without it nobody can"                                                           \
    }
#define DOMAIN_UUID                                                                                                    \
    {                                                                                                                  \
        .name = "uuid", .argument = "uuid", .type = VGPU_CTL_UUID, .doc = "of the Xen domain that is this VM"          \
    }

const struct vgpu_ctl_command vgpu_ctl_commands[] = {
    {.name = "register-vm",
     .print = vgpu_ctl_print_registered,
     .doc = "Register one VM or a range of them, all or nothing.",
     .example = "vgpu-ctl register-vm --vm-id=1-7 --pool=A --priority=high --uid=1000",
     .options = {IDS("ids to register"), POOL(true, "the pool that serves them"), PRIORITY(false, "default medium"),
                 ENGINE("preferred on a GPU; default auto"), VM_NAME, UID, DOMAIN_UUID, LIMITS, ISOLATION,
                 IOMMU_DOMAIN}},
    {.name = "update-vm",
     .print = vgpu_ctl_print_changed,
     .doc = "Change VMs, running or not, all or nothing.",
     .example = "vgpu-ctl update-vm --vm-id=3 --priority=low --device-bytes=1G",
     .change = true,
     .options = {IDS("ids to change"), POOL(false, "move them there"), PRIORITY(false, "from the next operation on"),
                 ENGINE("preferred on a GPU"), VM_NAME, UID, DOMAIN_UUID, LIMITS, ISOLATION, IOMMU_DOMAIN}},
    {.name = "set-pool",
     .print = vgpu_ctl_print_changed,
     .doc = "Move VMs to another pool, running or not.",
     .example = "vgpu-ctl set-pool --vm-id=1-7 --pool=B",
     .options = {IDS("ids to move"), POOL(true, "where to")}},
    {.name = "set-priority",
     .print = vgpu_ctl_print_changed,
     .doc = "Change the priority of VMs, running or not.",
     .example = "vgpu-ctl set-priority --vm-id=3 --priority=high",
     .options = {IDS("ids to change"), PRIORITY(true, "from the next operation on")}},
    {.name = "set-limit",
     .print = vgpu_ctl_print_changed,
     .doc = "Change limits of VMs, running or not.",
     .example = "vgpu-ctl set-limit --vm-id=3 --in-flight=64",
     .change = true,
     .options = {IDS("ids to change"), LIMITS}},
    {.name = "remove-vm",
     .print = vgpu_ctl_print_removed,
     .doc = "Remove VMs that are not attached, all or nothing.",
     .example = "vgpu-ctl remove-vm --vm-id=8-10",
     .options = {IDS("ids to remove")}},
    {.name = "list-vms",
     .print = vgpu_ctl_print_vms,
     .doc = "List the registered VMs.",
     .example = "vgpu-ctl list-vms --pool=A --priority=high",
     .options = {POOL(false, "only this pool's"), PRIORITY(false, "only those of this priority")}},
    {.name = "show-vm",
     .print = vgpu_ctl_print_vm,
     .doc = "Show all there is to know about one VM.",
     .example = "vgpu-ctl show-vm --vm-id=3",
     .options = {ID(true, "which VM")}},
    {.name = "drain-vm",
     .print = vgpu_ctl_print_changed,
     .doc = "Let VMs finish what they have, and accept nothing new.",
     .example = "vgpu-ctl drain-vm --vm-id=3 --reason=maintenance",
     .options = {IDS("ids to drain"), REASON, FLAG("undo", "let them work again")}},
    {.name = "quarantine-vm",
     .print = vgpu_ctl_print_changed,
     .doc = "Detach VMs at once and let them attach no more.",
     .example = "vgpu-ctl quarantine-vm --vm-id=3 --reason=misbehaves",
     .options = {IDS("ids to lock out"), REASON}},
    {.name = "clear-quarantine",
     .print = vgpu_ctl_print_changed,
     .doc = "Let quarantined VMs attach again.",
     .example = "vgpu-ctl clear-quarantine --vm-id=3",
     .options = {IDS("ids to let in")}},
    {.name = "attach",
     .print = vgpu_ctl_print_changed,
     .doc = "Say that a VM starts, for the hooks of a hypervisor; twice is fine.",
     .example = "vgpu-ctl attach --uuid=01234567-89ab-cdef-0123-456789abcdef --pool=A",
     .either = true,
     .options = {ID(false, "which VM"), DOMAIN_UUID, POOL(false, "register it there, if it is not registered"),
                 PRIORITY(false, "where it is registered by this; likewise all below"),
                 ENGINE("preferred on a GPU; default auto"), VM_NAME, UID, LIMITS, ISOLATION, IOMMU_DOMAIN}},
    {.name = "detach",
     .print = vgpu_ctl_print_changed,
     .doc = "Say that a VM has stopped, likewise.",
     .example = "vgpu-ctl detach --vm-id=3",
     .either = true,
     .options = {ID(false, "which VM"), DOMAIN_UUID}},
    {.name = "list-pools",
     .print = vgpu_ctl_print_pools,
     .doc = "List the pools, their executors and members.",
     .example = "vgpu-ctl list-pools"},
    {.name = "show-pool",
     .print = vgpu_ctl_print_pool,
     .doc = "Show one pool and its VMs.",
     .example = "vgpu-ctl show-pool --pool=A",
     .options = {POOL(true, "which pool")}},
    {.name = "create-pool",
     .print = vgpu_ctl_print_pool,
     .doc = "Make a pool that an executor of the configuration serves.",
     .example = "vgpu-ctl create-pool --pool=C --executor=exec-A --capacity=16",
     .options = {POOL(true, "its name"), POOL_PARTS}},
    {.name = "update-pool",
     .print = vgpu_ctl_print_pool,
     .doc = "Change a pool.",
     .example = "vgpu-ctl update-pool --pool=C --capacity=24",
     .change = true,
     .options = {POOL(true, "which pool"), POOL_PARTS}},
    {.name = "remove-pool",
     .print = vgpu_ctl_print_removed,
     .doc = "Remove a pool that has no members.",
     .example = "vgpu-ctl remove-pool --pool=C",
     .options = {POOL(true, "which pool")}},
    {.name = "history",
     .print = vgpu_ctl_print_history,
     .doc = "Show who changed or tried to change what, and when.",
     .example = "vgpu-ctl history --vm-id=3 --since=2h",
     .options = {ID(false, "only this VM"),
                 {.name = "since",
                  .argument = "since_us",
                  .type = VGPU_CTL_SINCE,
                  .doc = "only after this: so long ago, or a time of UTC"},
                 COUNT("limit", "limit", 1, 10000, "the last so many; default 100")}},
    {.name = "export",
     .doc = "Write all VMs and pools as a document that import takes.",
     .example = "vgpu-ctl export --output=registry.json",
     .options = {FILE_NAME("output", "where to; default standard output")},
     .run = vgpu_ctl_export},
    {.name = "import",
     .doc = "Put a document of export in force, all or nothing.",
     .example = "vgpu-ctl import registry.json --mode=replace --dry-run",
     .options = {{.name = "input",
                  .argument = "input",
                  .type = VGPU_CTL_PATH,
                  .required = true,
                  .doc = "the document; also without --input="},
                 WORD("mode", "merge|replace", "replace: what is not in it goes; default merge"),
                 DRY_RUN("only say what would change")},
     .file = "input",
     .run = vgpu_ctl_import},
    {.name = "status",
     .print = vgpu_ctl_print_any,
     .doc = "Show what vgpud runs and what is degraded.",
     .example = "vgpu-ctl status"},
    {.name = "reload-config",
     .print = vgpu_ctl_print_reload,
     .doc = "Let vgpud read its configuration again.",
     .example = "vgpu-ctl reload-config --dry-run",
     .options = {DRY_RUN("only say what would change")}},
    {.name = "stats",
     .print = vgpu_ctl_print_stats,
     .doc = "Show counters, queue depths and latencies.",
     .example = "vgpu-ctl stats --vm-id=3 --json",
     .options = {ID(false, "only this VM")}},
    {.name = "trace",
     .doc = "Record when a VM's descriptors pass which hop, and show where their time goes.",
     .example = "vgpu-ctl trace --vm-id=1 dump",
     .words = "on|off|dump",
     .options = {ID(true, "which VM"),
                 COUNT("sample", "sample", 1, 65536, "on: one of so many descriptors, a power of two; default 1"),
                 COUNT("limit", "limit", 1, 16384, "dump: the newest so many; default all there are"),
                 FILE_NAME("guest", "dump: with the guest's own two hops, which libvgpu wrote there (VGPU_TRACE)"),
                 FILE_NAME("chrome", "dump: write a trace that ui.perfetto.dev opens")},
     .run = vgpu_ctl_trace},
    {.name = "top",
     .doc = "Show rates, queues and latencies, again and again; q quits.",
     .example = "vgpu-ctl top --pool=A",
     .options = {POOL(false, "only this pool's VMs"),
                 COUNT("interval-ms", "interval_ms", 100, 60000, "time between screens; default 1000"),
                 COUNT("count", "count", 1, 1000000, "print so many, one after another, and end"),
                 FLAG("once", "the same as --count=1")},
     .run = vgpu_ctl_top},
    {.name = "watch",
     .doc = "Print what changes about VMs, pools and vgpud, as it happens.",
     .example = "vgpu-ctl watch --json",
     .options = {ID(false, "only this VM"),
                 COUNT("interval-ms", "interval_ms", 20, 60000, "time between looks; default 500"),
                 COUNT("count", "count", 1, 1000000, "end after so many changes"),
                 COUNT("seconds", "seconds", 1, 86400, "end after so long")},
     .run = vgpu_ctl_watch},
    {.name = "version",
     .print = vgpu_ctl_print_any,
     .doc = "Show the daemon's version.",
     .example = "vgpu-ctl version"},
    {.name = "show-iommu-status",
     .doc = "Show the IOMMU, its groups, what devices reach of the VMs' memory, and faults.",
     .example = "vgpu-ctl show-iommu-status --vm-id=3",
     .options = {ID(false, "only this VM"), FILE_NAME("root", "show the host captured there; it has no VMs")},
     .run = vgpu_ctl_iommu},
    {.name = "topology",
     .doc = "Draw this host: NUMA nodes, cores and their roles, devices, links, IOMMU groups, paths.",
     .example = "vgpu-ctl topology --svg=host.svg",
     .options =
         {{.name = "svg", .argument = "svg", .type = VGPU_CTL_PATH, .doc = "write a drawing to this file; - is stdout"},
          {.name = "root", .argument = "root", .type = VGPU_CTL_PATH, .doc = "a copy of another host's /proc and /sys"},
          {.name = "poll-cpus",
           .argument = "poll_cpus",
           .type = VGPU_CTL_TEXT,
           .max = 200,
           .doc = "show these as poll cores, not what vgpud has"},
          {.name = "executor-cpus",
           .argument = "executor_cpus",
           .type = VGPU_CTL_TEXT,
           .max = 200,
           .doc = "show these as executors', likewise"}},
     .run = vgpu_ctl_topology},
    {.name = "precheck",
     .doc = "Is this host ready, what is wrong, and what to type. Needs no daemon.",
     .example = "vgpu-ctl precheck --profile=performance --against=bare-kvm-host",
     .options = {WORD("profile", "performance|balanced|maximum-security", "what to judge by; default balanced"),
                 FILE_NAME("root", "judge the tree captured there instead of this machine"),
                 FILE_NAME("capture", "copy what the checks read into this new directory, without secrets"),
                 REPORT_NAME("save", "keep the report under this name"),
                 REPORT_NAME("against", "say what differs from a saved report or a shipped reference"),
                 FLAG("history", "list what was saved, and the trend"),
                 FLAG("all", "list also what passed and what does not apply")},
     .run = vgpu_ctl_precheck},
    {.name = "doctor",
     .doc = "What is the matter with a running system.",
     .example = "vgpu-ctl doctor --bundle=vgpu-report.tar",
     .options = {FILE_NAME("bundle", "also write a tar for a bug report, with nothing secret in it")},
     .run = vgpu_ctl_doctor},
    {.name = "completion",
     .doc = "Print what makes a shell complete these command lines.",
     .example = "vgpu-ctl completion bash",
     .run = vgpu_ctl_completion,
     .words = "bash|zsh|fish"},
};
const uint32_t vgpu_ctl_command_count = sizeof(vgpu_ctl_commands) / sizeof(vgpu_ctl_commands[0]);
