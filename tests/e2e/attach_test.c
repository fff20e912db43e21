/* SPDX-License-Identifier: Apache-2.0 */
/* Who may attach, and with what memory: each refusal has its own error and its own sentence. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "raw.h"

static void has(const char *text, const char *part)
{
    e2e_check(strstr(text, part), "\"%s\" does not say \"%s\"", text, part);
}

static void start(struct e2e_host *h)
{
    e2e_host_start(h, NULL);
    e2e_register(h, 1, 4, "A", "medium", NULL);
}

/* The host is as good as before: an honest guest attaches and works. */
static void still_good(const struct e2e_host *h, unsigned vm_id)
{
    struct vgpu *v = e2e_open_patiently(h, vm_id);

    e2e_check(vgpu_nop(v) == 0, "%s", vgpu_strerror(v));
    vgpu_close(v);
}

static int try_open(const struct vgpu_options *o, char *error, size_t bytes)
{
    struct vgpu *v = NULL;
    int rc = vgpu_open(o, &v, error, bytes);

    e2e_check((rc == 0) == (v != NULL), "rc %d", rc);
    vgpu_close(v);
    return rc;
}

/* ---- who ---- */

static void library_errors(void)
{
    struct e2e_host h;
    struct e2e_paths paths, other;
    char error[256];

    start(&h);
    struct vgpu_options good = e2e_guest_options(&h, 1, &paths), o = good;
    o.socket_path = "/tmp/there-is-no-vgpud-here.sock";
    e2e_check(try_open(&o, error, sizeof(error)) == -ENOENT, "%s", error);
    has(error, "there-is-no-vgpud-here");
    o = good;
    o.token_path = "/tmp/there-is-no-token-here";
    e2e_check(try_open(&o, error, sizeof(error)) == -EACCES, "%s", error);
    has(error, "register-vm");
    o = good;
    o.vm_id = 77; /* nobody */
    e2e_check(try_open(&o, error, sizeof(error)) == -EACCES, "%s", error);
    has(error, "not registered");
    o = good;
    o.token_path = e2e_guest_options(&h, 2, &other).token_path; /* somebody else's */
    e2e_check(try_open(&o, error, sizeof(error)) == -EACCES, "%s", error);
    has(error, "token");
    o = good;
    o.ring_slots = 100;
    e2e_check(try_open(&o, error, sizeof(error)) == -EINVAL, "%s", error);
    has(error, "power of two");
    o = good;
    o.ring_slots = 8192;
    e2e_check(try_open(&o, error, sizeof(error)) == -E2BIG, "%s", error);
    o = good;
    o.arena_bytes = 64 << 20;
    e2e_check(try_open(&o, error, sizeof(error)) == -E2BIG, "%s", error);
    has(error, "register it with more");
    o = good;
    o.flags = 0x8000;
    e2e_check(try_open(&o, error, sizeof(error)) == -EINVAL, "%s", error);
    e2e_check(try_open(&good, error, sizeof(error)) == 0, "%s", error);
    e2e_host_stop(&h);
}

static void removed_vm(void)
{
    static const char *const args[] = {"remove-vm", "--vm-id=3", NULL};
    struct e2e_host h;
    struct raw_guest g;
    char error[512];

    start(&h);
    raw_connect(&g, &h, 3); /* reads the token while it is there */
    struct vgpu *v = e2e_open(&h, 3, NULL);
    e2e_check(e2e_ctl(&h, NULL, error, sizeof(error), args) != 0, "removed while attached");
    has(error, "EBUSY");
    vgpu_close(v);
    e2e_check(e2e_ctl(&h, NULL, error, sizeof(error), args) == 0, "%s", error);
    char path[2 * E2E_PATH_BYTES];
    e2e_token_path(&h, 3, path, sizeof(path));
    e2e_check(access(path, F_OK) && errno == ENOENT, "the token outlives its VM");
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_UNKNOWN_VM, "a removed VM: %s", g.error.text);
    raw_close(&g);
    still_good(&h, 4);
    e2e_host_stop(&h);
}

static void no_identity(void)
{
    static const char *const args[] = {"register-vm", "--vm-id=9", "--pool=A", NULL};
    struct e2e_host h;
    struct raw_guest g;
    char error[512];

    start(&h);
    e2e_check(e2e_ctl(&h, NULL, error, sizeof(error), args) == 0, "%s", error);
    raw_connect(&g, &h, 9);
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_UNKNOWN_VM, "a VM without uid attached");
    has(g.error.text, "--uid");
    raw_close(&g);
    memset(&g, 0, sizeof(g));
    raw_connect(&g, &h, 1);
    memset(g.hello.token, 0, sizeof(g.hello.token));
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_UNKNOWN_VM, "no token at all");
    raw_close(&g);
    raw_connect(&g, &h, 1);
    g.hello.token[VGPU_TOKEN_BYTES - 1] ^= 1; /* one bit */
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_UNKNOWN_VM, "a wrong token");
    has(g.error.text, "token");
    raw_close(&g);
    e2e_host_stop(&h);
}

struct stranger {
    const struct e2e_host *h;
    struct raw_guest g;
};

/* Has the right token (read before), and is somebody else. */
static void as_stranger(void *arg)
{
    struct stranger *s = arg;

    e2e_check(setgid(65534) == 0 && setuid(65534) == 0, "setuid: %s", strerror(errno));
    e2e_check(raw_hello(&s->g) == VGPU_ATTACH_OK, "credentials are those of the connect, which was ours: %s",
              s->g.error.text);
    raw_close(&s->g);
    char path[2 * E2E_PATH_BYTES];
    e2e_token_path(s->h, 1, path, sizeof(path));
    e2e_check(open(path, O_RDONLY) < 0 && errno == EACCES, "a stranger can read the token");
    uint8_t token[VGPU_TOKEN_BYTES];
    memcpy(token, s->g.hello.token, sizeof(token));
    raw_connect(&s->g, s->h, 2); /* its token cannot be read now: remains zero */
    s->g.hello.vm_id = 1;
    memcpy(s->g.hello.token, token, sizeof(token));
    e2e_check(raw_hello(&s->g) == VGPU_ATTACH_E_UNKNOWN_VM, "another uid attached with a stolen token");
    has(s->g.error.text, "uid (65534)");
    raw_close(&s->g);
}

static void wrong_uid(void)
{
    struct e2e_host h;
    struct stranger s = {.h = &h};

    if (getuid() != 0)
        e2e_skip("only root can try another uid");
    start(&h);
    raw_connect(&s.g, &h, 1);
    e2e_check(e2e_reap(e2e_fork(as_stranger, &s)), "the stranger");
    raw_close(&s.g);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

static void busy(void)
{
    struct e2e_host h;
    struct e2e_paths paths;
    struct raw_guest g;
    char error[256];

    start(&h);
    struct vgpu *v = e2e_open(&h, 1, NULL);
    struct vgpu_options o = e2e_guest_options(&h, 1, &paths);
    e2e_check(try_open(&o, error, sizeof(error)) == -EBUSY, "%s", error);
    has(error, "attached already");
    raw_connect(&g, &h, 1);
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_BUSY, "%s", g.error.text);
    raw_close(&g);
    e2e_check(vgpu_nop(v) == 0, "the first one suffered: %s", vgpu_strerror(v));
    vgpu_close(v);
    e2e_check(try_open(&o, error, sizeof(error)) == 0, "after closing: %s", error);
    /* Two that said HELLO before either attached: the second to attach is refused. */
    struct raw_guest a, b;
    raw_connect(&a, &h, 1);
    raw_connect(&b, &h, 1);
    e2e_check(raw_hello(&a) == 0 && raw_hello(&b) == 0, "HELLO");
    int fd_a = raw_region(&a, 0, RAW_SEALS_GOOD), fd_b = raw_region(&b, 0, RAW_SEALS_GOOD);
    e2e_check(raw_attach(&a, a.header.region_bytes, &fd_a, 1) == 0, "%s", a.error.text);
    e2e_check(raw_attach(&b, b.header.region_bytes, &fd_b, 1) == VGPU_ATTACH_E_BUSY, "%s", b.error.text);
    raw_close(&b);
    raw_close(&a);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

/* ---- versions and messages ---- */

static void versions(void)
{
    struct e2e_host h;
    struct raw_guest g;
    static const uint32_t wrong[] = {0, 1, (VGPU_ABI_MAJOR + 1) << 16, (VGPU_ABI_MAJOR - 1) << 16 | 7, UINT32_MAX};

    start(&h);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        raw_connect(&g, &h, 1);
        g.hello.abi_version = wrong[i];
        e2e_check(raw_hello(&g) == VGPU_ATTACH_E_VERSION, "version %x: error %u", wrong[i], g.error.error);
        has(g.error.text, "ABI");
        raw_close(&g);
        raw_connect(&g, &h, 1);
        e2e_check(raw_hello(&g) == 0, "%s", g.error.text);
        g.header.abi_version = wrong[i];
        int fd = raw_region(&g, 0, RAW_SEALS_GOOD);
        e2e_check(raw_attach(&g, g.header.region_bytes, &fd, 1) == VGPU_ATTACH_E_VERSION, "header version %x", wrong[i]);
        has(g.error.text, "ABI");
        raw_close(&g);
    }
    /* A later minor version is fine. */
    raw_connect(&g, &h, 1);
    g.hello.abi_version = g.header.abi_version = VGPU_ABI_VERSION + 5;
    int fd = raw_region(&g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_hello(&g) == 0 && raw_attach(&g, g.header.region_bytes, &fd, 1) == 0, "minor: %s", g.error.text);
    raw_close(&g);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

static void messages(void)
{
    struct e2e_host h;
    struct raw_guest g;
    struct vgpu_msg_attach early = {.magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACH};
    uint8_t junk[256] = {1, 2, 3};

    start(&h);
    static const size_t sizes[] = {1, 7, 8, 63, 65, 128, 256};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        raw_connect(&g, &h, 1);
        e2e_check(raw_exchange(&g, junk, sizes[i], NULL, 0) == VGPU_ATTACH_E_PROTOCOL, "junk of %zu bytes", sizes[i]);
        raw_close(&g);
        raw_connect(&g, &h, 1);
        memcpy(junk + 128, &g.hello, 64);
        if (sizes[i] < 128 && sizes[i] != 64)
            e2e_check(raw_exchange(&g, junk + 128, sizes[i], NULL, 0) == VGPU_ATTACH_E_PROTOCOL, "HELLO of %zu bytes",
                      sizes[i]);
        raw_close(&g);
    }
    raw_connect(&g, &h, 1);
    e2e_check(raw_exchange(&g, &early, sizeof(early), NULL, 0) == VGPU_ATTACH_E_PROTOCOL, "ATTACH before HELLO");
    has(g.error.text, "unexpected message");
    raw_close(&g);
    raw_connect(&g, &h, 1);
    int fd = raw_region(&g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_exchange(&g, &g.hello, sizeof(g.hello), &fd, 1) == VGPU_ATTACH_E_PROTOCOL, "HELLO with a descriptor");
    raw_close(&g);
    raw_connect(&g, &h, 1);
    e2e_check(raw_hello(&g) == 0, "%s", g.error.text);
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_PROTOCOL, "HELLO twice");
    raw_close(&g);
    raw_connect(&g, &h, 1);
    g.hello.reserved[9] = 1;
    e2e_check(raw_hello(&g) == VGPU_ATTACH_E_PROTOCOL, "reserved bytes");
    has(g.error.text, "reserved");
    raw_close(&g);
    raw_connect(&g, &h, 1);
    fd = raw_region(&g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_hello(&g) == 0 && raw_attach(&g, g.header.region_bytes, &fd, 1) == 0, "%s", g.error.text);
    early.region_bytes = g.header.region_bytes;
    e2e_check(raw_exchange(&g, &early, sizeof(early), &fd, 1) == VGPU_ATTACH_E_PROTOCOL, "ATTACH twice");
    raw_close(&g);
    raw_connect(&g, &h, 1);
    fd = raw_region(&g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_hello(&g) == 0, "%s", g.error.text);
    early.reserved[47] = 1;
    e2e_check(raw_exchange(&g, &early, sizeof(early), &fd, 1) == VGPU_ATTACH_E_PROTOCOL, "reserved bytes of ATTACH");
    has(g.error.text, "reserved");
    raw_close(&g);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

/* ---- the region ---- */

struct offer {
    const char *what;
    unsigned memfd_flags;
    int seals;
    int n_fds;             /* 1 unless said otherwise */
    int64_t claim_more;    /* region_bytes of ATTACH is off by this */
    uint32_t error;
    const char *sentence;
};
static const struct offer offers[] = {
    {"unsealed", 0, 0, 1, 0, VGPU_ATTACH_E_REGION, "F_SEAL_SHRINK"},
    {"sealed against growing only", 0, F_SEAL_GROW, 1, 0, VGPU_ATTACH_E_REGION, "F_SEAL_SHRINK"},
    {"sealed against writing", 0, F_SEAL_SHRINK | F_SEAL_WRITE, 1, 0, VGPU_ATTACH_E_REGION, "against writing"},
    {"no descriptor", 0, RAW_SEALS_GOOD, 0, 0, VGPU_ATTACH_E_PROTOCOL, "0 descriptors"},
    {"two descriptors", 0, RAW_SEALS_GOOD, 2, 0, VGPU_ATTACH_E_PROTOCOL, "2 descriptors"},
    {"eight descriptors", 0, RAW_SEALS_GOOD, 8, 0, VGPU_ATTACH_E_PROTOCOL, "8 descriptors"},
    {"smaller than claimed", 0, RAW_SEALS_GOOD, 1, 4096, VGPU_ATTACH_E_REGION, "region_bytes"},
    {"larger than claimed", 0, RAW_SEALS_GOOD, 1, -4096, VGPU_ATTACH_E_REGION, "region_bytes"},
};

static void one_offer(const struct e2e_host *h, const struct offer *o)
{
    struct raw_guest g;
    int fds[8];

    raw_connect(&g, h, 1);
    e2e_check(raw_hello(&g) == 0, "%s: %s", o->what, g.error.text);
    int fd = raw_region(&g, o->memfd_flags, o->seals);
    for (int i = 0; i < 8; i++)
        fds[i] = fd;
    uint32_t error = raw_attach(&g, g.header.region_bytes + (uint64_t)o->claim_more, fds, o->n_fds);
    e2e_check(error == o->error, "%s: error %u, not %u: %s", o->what, error, o->error, g.error.text);
    has(g.error.text, o->sentence);
    raw_close(&g);
}

static void foreign_descriptor(const struct e2e_host *h, int fd, const char *what)
{
    struct raw_guest g;

    e2e_check(fd >= 0, "%s: %s", what, strerror(errno));
    raw_connect(&g, h, 1);
    e2e_check(raw_hello(&g) == 0, "%s", g.error.text);
    uint32_t error = raw_attach(&g, g.header.region_bytes, &fd, 1);
    e2e_check(error == VGPU_ATTACH_E_REGION, "%s: error %u: %s", what, error, g.error.text);
    has(g.error.text, "memfd");
    raw_close(&g);
    close(fd);
}

/* A memfd that is good in all but how it was opened. */
static void read_only(const struct e2e_host *h)
{
    struct raw_guest g;
    char path[64];

    raw_connect(&g, h, 1);
    e2e_check(raw_hello(&g) == 0, "%s", g.error.text);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", raw_region(&g, 0, RAW_SEALS_GOOD));
    int fd = open(path, O_RDONLY);
    e2e_check(fd >= 0, "%s: %s", path, strerror(errno));
    uint32_t error = raw_attach(&g, g.header.region_bytes, &fd, 1);
    e2e_check(error == VGPU_ATTACH_E_REGION, "error %u: %s", error, g.error.text);
    has(g.error.text, "for reading and writing");
    raw_close(&g);
    close(fd);
}

static void regions(void)
{
    struct e2e_host h;
    int pipes[2];
    char path[2 * E2E_PATH_BYTES];

    start(&h);
    for (size_t i = 0; i < sizeof(offers) / sizeof(offers[0]); i++)
        one_offer(&h, &offers[i]);
    snprintf(path, sizeof(path), "%s/a-file", h.dir);
    int file = open(path, O_RDWR | O_CREAT, 0600);
    e2e_check(file >= 0 && ftruncate(file, 16 * 4096) == 0, "%s", strerror(errno));
    foreign_descriptor(&h, file, "a file");
    e2e_check(pipe(pipes) == 0, "%s", strerror(errno));
    foreign_descriptor(&h, pipes[0], "a pipe");
    close(pipes[1]);
    foreign_descriptor(&h, open("/dev/zero", O_RDWR), "a device");
    foreign_descriptor(&h, open("/", O_RDONLY | O_DIRECTORY), "a directory");
    foreign_descriptor(&h, open("/", O_PATH), "an O_PATH descriptor");
    read_only(&h);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

struct bad_header {
    const char *what;
    size_t at, bytes; /* field */
    uint64_t value;
    uint32_t error;
    const char *sentence;
};
#define FIELD(f) offsetof(struct vgpu_region_header, f), sizeof(((struct vgpu_region_header *)0)->f)
#define E_REGION VGPU_ATTACH_E_REGION
static const struct bad_header bad_headers[] = {
    {"magic", FIELD(magic), 0, E_REGION, "magic"},
    {"header size", FIELD(header_bytes), 64, E_REGION, "header size"},
    {"region size", FIELD(region_bytes), 4096, E_REGION, "region_bytes"},
    {"region size beyond all", FIELD(region_bytes), UINT64_MAX, E_REGION, "region_bytes"},
    {"control page on the header", FIELD(guest_ctrl_off), 0, E_REGION, "guest control page"},
    {"control page unaligned", FIELD(guest_ctrl_off), 4097, E_REGION, "guest control page"},
    {"control page outside", FIELD(host_ctrl_off), 16 * 4096, E_REGION, "host control page"},
    {"control page far outside", FIELD(host_ctrl_off), UINT64_MAX - 4095, E_REGION, "host control page"},
    {"control pages on each other", FIELD(host_ctrl_off), 4096, E_REGION, "share a page"},
    {"ring on a control page", FIELD(sq_off), 2 * 4096, E_REGION, "share a page"},
    {"rings on each other", FIELD(cq_off), 3 * 4096, E_REGION, "share a page"},
    {"ring past the end", FIELD(sq_off), UINT64_C(1) << 63, E_REGION, "submission ring"},
    {"completion ring past the end", FIELD(cq_off), UINT64_MAX & ~UINT64_C(4095), E_REGION, "completion ring"},
    {"arena on a ring", FIELD(arena_off), 4 * 4096, E_REGION, "share a page"},
    {"arena past the end", FIELD(arena_off), 6 * 4096, E_REGION, "arena"},
    {"arena that wraps", FIELD(arena_off), UINT64_MAX - 4095, E_REGION, "arena"},
    {"arena larger than the region", FIELD(arena_bytes), 12 * 4096, E_REGION, "arena"},
    {"arena larger than registered", FIELD(arena_bytes), (1 << 20) + 1, VGPU_ATTACH_E_LIMIT, "registered with"},
    {"arena beyond all", FIELD(arena_bytes), UINT64_MAX, VGPU_ATTACH_E_LIMIT, "registered with"},
    {"no slots", FIELD(sq_slots), 0, E_REGION, "power of two"},
    {"four slots", FIELD(cq_slots), 4, E_REGION, "power of two"},
    {"63 slots", FIELD(sq_slots), 63, E_REGION, "power of two"},
    {"more slots than any", FIELD(cq_slots), 131072, E_REGION, "power of two"},
    {"slots of 2^31", FIELD(sq_slots), UINT64_C(1) << 31, E_REGION, "power of two"},
    {"more slots than allowed", FIELD(sq_slots), 8192, VGPU_ATTACH_E_LIMIT, "limits.ring_slots"},
    {"more slots than the region holds", FIELD(cq_slots), 2048, E_REGION, "completion ring"},
    {"reserved bytes", offsetof(struct vgpu_region_header, reserved) + 39, 1, 1, E_REGION, "reserved"},
};

static void headers(void)
{
    struct e2e_host h;
    struct raw_guest g;

    start(&h);
    for (size_t i = 0; i < sizeof(bad_headers) / sizeof(bad_headers[0]); i++) {
        const struct bad_header *b = &bad_headers[i];
        raw_connect(&g, &h, 1);
        e2e_check(raw_hello(&g) == 0, "%s: %s", b->what, g.error.text);
        uint64_t real = g.header.region_bytes;
        struct vgpu_region_header good = g.header;
        memcpy((char *)&g.header + b->at, &b->value, b->bytes);
        struct vgpu_region_header bad = g.header;
        g.header = good;
        int fd = raw_region(&g, 0, 0);
        e2e_check(pwrite(fd, &bad, sizeof(bad), 0) == sizeof(bad), "pwrite: %s", strerror(errno));
        e2e_check(fcntl(fd, F_ADD_SEALS, RAW_SEALS_GOOD) == 0, "seals: %s", strerror(errno));
        uint32_t error = raw_attach(&g, real, &fd, 1);
        e2e_check(error == b->error, "%s: error %u, not %u: %s", b->what, error, b->error, g.error.text);
        has(g.error.text, b->sentence);
        raw_close(&g);
    }
    still_good(&h, 1);
    e2e_host_stop(&h);
}

/* More than registered, from a library that does not look at WELCOME. */
static void larger_than_registered(void)
{
    struct e2e_host h;
    struct raw_guest g;

    start(&h);
    raw_connect(&g, &h, 1);
    e2e_check(raw_hello(&g) == 0 && g.welcome.max_arena_bytes == 1 << 20, "%s", g.error.text);
    g.header.arena_bytes = 2 << 20;
    g.header.region_bytes = g.header.arena_off + g.header.arena_bytes;
    int fd = raw_region(&g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_attach(&g, g.header.region_bytes, &fd, 1) == VGPU_ATTACH_E_LIMIT, "error %u", g.error.error);
    has(g.error.text, "registered with 1048576");
    raw_close(&g);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

/* The properties page and the doorbells give a guest no more than it needs. */
static void what_a_guest_gets(void)
{
    struct e2e_host h;
    struct raw_guest g;

    start(&h);
    signal(SIGPIPE, SIG_IGN);
    raw_connect(&g, &h, 1);
    int fd = raw_region(&g, 0, RAW_SEALS_GOOD);
    e2e_check(raw_hello(&g) == 0 && raw_attach(&g, g.header.region_bytes, &fd, 1) == 0, "%s", g.error.text);
    e2e_check(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, g.fds[0], 0) == MAP_FAILED,
              "the properties page can be mapped for writing");
    e2e_check(pwrite(g.fds[0], "x", 1, 0) < 0 && ftruncate(g.fds[0], 0) < 0, "the properties page can be written");
    const struct vgpu_props *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, g.fds[0], 0);
    e2e_check(p != MAP_FAILED && p->magic == VGPU_PROPS_MAGIC && p->vm_id == 1, "properties");
    e2e_check(p->epoch == g.attached.epoch && p->sq_start == g.attached.sq_start, "epoch and positions");
    e2e_check(mprotect((void *)(uintptr_t)p, 4096, PROT_READ | PROT_WRITE) != 0, "the mapping can be made writable");
    e2e_check(write(g.fds[2], "x", 1) < 0, "the guest can write into its own doorbell");
    /* Whatever it does with its ends, the host does not wait: made blocking, filled to the brim, closed. */
    for (int i = 1; i < 3; i++)
        e2e_check(fcntl(g.fds[i], F_SETFL, 0) == 0, "F_SETFL: %s", strerror(errno));
    uint64_t most = UINT64_MAX - 1;
    e2e_check(write(g.fds[1], &most, sizeof(most)) == sizeof(most), "doorbell: %s", strerror(errno));
    still_good(&h, 2);
    close(g.fds[1]);
    close(g.fds[2]);
    g.fds[1] = g.fds[2] = -1;
    still_good(&h, 2);
    raw_close(&g);
    still_good(&h, 1);
    still_good(&h, 2);
    e2e_host_stop(&h);
}

#define MANY 12u

static long long daemon_figure(const struct e2e_host *h, const char *command, const char *part, const char *name)
{
    char error[256];
    json_t *all = e2e_ask(h, command, json_object(), error, sizeof(error));
    const json_t *of = part ? json_object_get(all, part) : all, *figure = json_object_get(of, name);

    e2e_check(json_is_integer(figure), "%s says no %s", command, name);
    long long value = json_integer_value(figure);
    json_decref(all);
    return value;
}

/* All of its threads, by the signal that is sent. */
static void daemon_stopped(const struct e2e_host *h, bool stop)
{
    char path[64], state = 0;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)h->pid);
    e2e_check(kill(h->pid, stop ? SIGSTOP : SIGCONT) == 0, "kill: %s", strerror(errno));
    for (int i = 0; stop && state != 'T' && i < 5000; i++) {
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
            state = 0;
        if (f)
            fclose(f);
        e2e_sleep_ms(1);
    }
    e2e_check(!stop || state == 'T', "vgpud does not stop");
}

/* A change of the poll cores' tables waits for all of them, which is long where CPUs are few: one serves all who leave. */
static void leave_together(void)
{
    struct e2e_host h;
    struct raw_guest g[MANY];

    e2e_host_start(&h, NULL);
    e2e_register(&h, 1, MANY, "A", "medium", NULL);
    for (unsigned i = 0; i < MANY; i++) {
        raw_connect(&g[i], &h, i + 1);
        e2e_check(raw_hello(&g[i]) == 0, "%s", g[i].error.text);
        int fd = raw_region(&g[i], 0, RAW_SEALS_GOOD);
        e2e_check(raw_attach(&g[i], g[i].header.region_bytes, &fd, 1) == 0, "%s", g[i].error.text);
        close(fd);
    }
    long long before = daemon_figure(&h, "stats", "daemon", "table_changes");
    daemon_stopped(&h, true);
    for (unsigned i = 0; i < MANY; i++)
        raw_close(&g[i]);
    daemon_stopped(&h, false);
    e2e_eventually(daemon_figure(&h, "status", NULL, "attached_vms") == 0, "they do not leave");
    long long changes = daemon_figure(&h, "stats", "daemon", "table_changes") - before;
    e2e_check(changes > 0 && changes <= 3, "%u guests left in %lld changes of the tables", MANY, changes);
    e2e_shows("%u guests that ended at once left in %lld grace periods", MANY, changes);
    still_good(&h, 1);
    e2e_host_stop(&h);
}

static const struct e2e_test tests[] = {
    {"library_errors", library_errors, 0},
    {"removed_vm", removed_vm, 0},
    {"no_identity", no_identity, 0},
    {"wrong_uid", wrong_uid, 0},
    {"busy", busy, 0},
    {"versions", versions, 0},
    {"messages", messages, 0},
    {"regions", regions, 0},
    {"headers", headers, 0},
    {"larger_than_registered", larger_than_registered, 0},
    {"what_a_guest_gets", what_a_guest_gets, 0},
    {"leave_together", leave_together, 0},
};
E2E_MAIN(tests)
