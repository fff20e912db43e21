/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host half of the local transport, driven by a script: connections that send anything, with any descriptors, in
 * any order, to a daemon that accepts, refuses or waits. Whatever the script: answers are well-formed, the events come
 * in their order, and in the end nothing is left open.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/fdpass.h"
#include "core/base/sigbus.h"
#include "core/base/transport.h"
#include "fuzz.h"

#define CONNECTIONS  4u
#define SESSIONS     64u
#define REGION_BYTES (16u * VGPU_PAGE_BYTES)

static char dir[] = "/tmp/vgpu-fuzz-XXXXXX", path[64];
static struct vgpu_transport *transport;
static uint8_t verdicts; /* of the script: what the daemon says to HELLO and to ATTACH */
static long open_at_rest;

/* Sessions that offered a region, in the daemon's hands. */
static struct vgpu_session *waiting[SESSIONS];
static unsigned waiting_count;

/* ---- the daemon ---- */

static int on_hello(void *ctx, struct vgpu_session *s, const struct vgpu_peer *peer, struct vgpu_attach_limits *limits,
                    struct vgpu_refusal *r)
{
    (void)ctx;
    (void)s;
    fuzz_check(peer->uid == getuid() && peer->pid == getpid(), "a wrong peer");
    if (peer->vm_id > 9) {
        *r = (struct vgpu_refusal){.error = VGPU_ATTACH_E_UNKNOWN_VM, .text = "no such VM"};
        return -1;
    }
    *limits = (struct vgpu_attach_limits){
        .arena_bytes = 1 << 20, .device_bytes = 1 << 20, .in_flight = 64, .ring_slots = 256};
    return 0;
}

static void on_attach(void *ctx, struct vgpu_session *s)
{
    const struct vgpu_region *region = &s->region;

    (void)ctx;
    fuzz_check(s->props && s->doorbell_in >= 0 && s->doorbell_out >= 0 && region->fd >= 0, "an incomplete session");
    int seals = fcntl(region->fd, F_GET_SEALS);
    fuzz_check(seals >= 0 && seals & F_SEAL_SHRINK && !(seals & F_SEAL_WRITE), "seals %x", (unsigned)seals);
    fuzz_check(lseek(region->fd, 0, SEEK_END) == (off_t)region->layout.region_bytes, "a region of another size");
    /* All of what was announced is there, to be read and written. */
    s->props->vm_id = s->peer.vm_id;
    *(volatile uint64_t *)&region->host_ctrl->sq_head = *(const volatile uint64_t *)&region->guest_ctrl->cq_head;
    memset((void *)region->sq, 1, region->layout.sq_slots * VGPU_SLOT_BYTES);
    memset((void *)region->cq, 2, region->layout.cq_slots * VGPU_SLOT_BYTES);
    if (verdicts & 1) {
        const struct vgpu_refusal r = {.error = VGPU_ATTACH_E_NOMEM, .text = "not today"};
        s->ops->session_refuse(s, &r);
        return;
    }
    fuzz_check(waiting_count < SESSIONS, "too many sessions");
    waiting[waiting_count++] = s;
    if (verdicts & 2) {
        const struct vgpu_msg_attached reply = {
            .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACHED, .epoch = 1, .sq_start = 5, .cq_start = 7};
        s->ops->session_accept(s, &reply); /* -errno: `gone` follows */
    }
}

static void on_gone(void *ctx, struct vgpu_session *s)
{
    unsigned i = 0;

    (void)ctx;
    while (i < waiting_count && waiting[i] != s)
        i++;
    fuzz_check(i < waiting_count, "gone: a session that was not offered, or twice");
    vgpu_doorbell_ring(s->doorbell_out);
    waiting[i] = waiting[--waiting_count];
    s->ops->session_close(s);
}

/* ---- set up ---- */

static long open_count(void)
{
    DIR *d = opendir("/proc/self/fd");
    long n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void leave(void)
{
    vgpu_transport_local.close(transport);
    rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    static const struct vgpu_transport_events events = {.hello = on_hello, .attach = on_attach, .gone = on_gone};
    struct vgpu_transport_options options = {.address = path};
    struct vgpu_err err;

    (void)argc;
    (void)argv;
    signal(SIGPIPE, SIG_IGN);
    vgpu_sigbus_install();
    if (!mkdtemp(dir))
        abort();
    snprintf(path, sizeof(path), "%s/a.sock", dir);
    fuzz_check(vgpu_transport_local.open(&options, &events, NULL, &transport, &err) == 0, "%s", err.text);
    atexit(leave);
    open_at_rest = open_count();
    return 0;
}

/* ---- the script ---- */

static int region_make(struct feed *f, uint64_t *bytes)
{
    struct vgpu_region_header h = {.magic = VGPU_REGION_MAGIC,
                                   .abi_version = VGPU_ABI_VERSION,
                                   .header_bytes = sizeof(h),
                                   .region_bytes = REGION_BYTES,
                                   .guest_ctrl_off = 1 * VGPU_PAGE_BYTES,
                                   .host_ctrl_off = 2 * VGPU_PAGE_BYTES,
                                   .sq_off = 3 * VGPU_PAGE_BYTES,
                                   .cq_off = 4 * VGPU_PAGE_BYTES,
                                   .arena_off = 5 * VGPU_PAGE_BYTES,
                                   .arena_bytes = 11 * VGPU_PAGE_BYTES,
                                   .sq_slots = 64,
                                   .cq_slots = 64};
    uint8_t how = (uint8_t)feed_int(f, 1);
    int fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (how & 1) {
        uint64_t words[16];
        memcpy(words, &h, sizeof(words));
        words[feed_int(f, 1) % 16] = feed_edge(f);
        memcpy(&h, words, sizeof(h));
    }
    *bytes = how & 2 ? h.region_bytes : REGION_BYTES;
    if (fd < 0 || pwrite(fd, &h, how & 4 ? sizeof(h) / 2 : sizeof(h), 0) < 0 ||
        ftruncate(fd, how & 8 ? 64 : REGION_BYTES))
        abort();
    fcntl(fd, F_ADD_SEALS, how & 16 ? (int)feed_int(f, 1) & 0x1f : F_SEAL_SHRINK | F_SEAL_GROW);
    return fd;
}

static int descriptor_make(struct feed *f, uint64_t *bytes)
{
    int pair[2];

    switch (feed_int(f, 1) % 6) {
    case 0:
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    case 1:
        if (pipe2(pair, O_CLOEXEC))
            abort();
        close(pair[1]);
        return pair[0];
    case 2:
        return open("/", O_RDONLY | O_CLOEXEC);
    default:
        return region_make(f, bytes);
    }
}

static void send_message(struct feed *f, int sock, uint8_t kind)
{
    union {
        struct vgpu_msg_hello hello;
        struct vgpu_msg_attach attach;
        uint8_t bytes[512];
    } m = {0};
    int fds[VGPU_FDPASS_MAX], n = 0;
    uint64_t region_bytes = REGION_BYTES;
    size_t bytes = 64;

    if (kind & 8)
        for (unsigned want = (kind & 16) ? 1 : (unsigned)feed_int(f, 1) % (VGPU_FDPASS_MAX + 1); (unsigned)n < want;
             n++)
            fds[n] = descriptor_make(f, &region_bytes);
    if (kind & 1)
        m.hello = (struct vgpu_msg_hello){
            .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_HELLO, .abi_version = VGPU_ABI_VERSION, .vm_id = 1};
    else
        m.attach = (struct vgpu_msg_attach){
            .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACH, .region_bytes = region_bytes};
    if (kind & 2) {
        size_t at = feed_int(f, 1) % 64;
        m.bytes[at] ^= (uint8_t)feed_int(f, 1);
    }
    if (kind & 4) {
        bytes = feed_int(f, 2) % (sizeof(m) + 1);
        feed_bytes(f, m.bytes, bytes < 8 ? bytes : 8);
    }
    vgpu_fd_send(sock, &m, bytes, fds, n, MSG_DONTWAIT);
    while (n > 0)
        close(fds[--n]);
}

/* Answers are of the protocol; returns what they brought. */
static void read_answers(int sock)
{
    union {
        struct vgpu_msg_welcome welcome;
        struct vgpu_msg_error error;
        uint8_t bytes[512];
    } m;
    int fds[VGPU_FDPASS_MAX], n;
    ssize_t got;

    for (;;) {
        n = VGPU_FDPASS_MAX;
        got = vgpu_fd_recv(sock, &m, sizeof(m), fds, &n, MSG_DONTWAIT);
        if (got <= 0)
            return;
        fuzz_check(m.welcome.magic == VGPU_ATTACH_MAGIC, "an answer without magic");
        switch (m.welcome.type) {
        case VGPU_ATTACH_WELCOME:
            fuzz_check(got == 64 && n == 0, "WELCOME of %zd bytes", got);
            break;
        case VGPU_ATTACH_ATTACHED:
            fuzz_check(got == 64 && n == 3, "ATTACHED of %zd bytes, %d descriptors", got, n);
            fuzz_check(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0) == MAP_FAILED,
                       "writable properties");
            break;
        case VGPU_ATTACH_ERROR:
            fuzz_check(got == sizeof(m.error) && n == 0 && m.error.error >= 1 && m.error.error <= 8 &&
                           memchr(m.error.text, 0, sizeof(m.error.text)) && m.error.text[0],
                       "ERROR of %zd bytes", got);
            break;
        default:
            fuzz_check(false, "an answer of type %u", m.welcome.type);
        }
        while (n > 0)
            close(fds[--n]);
    }
}

static void dispatch(void)
{
    struct pollfd p = {.fd = vgpu_transport_local.fd(transport), .events = POLLIN};

    for (int i = 0; i < 64 && poll(&p, 1, 0) == 1; i++)
        vgpu_transport_local.dispatch(transport);
}

static int connect_one(void)
{
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    strcpy(sun.sun_path, path);
    fuzz_check(sock >= 0 && connect(sock, (struct sockaddr *)&sun, sizeof(sun)) == 0, "connect: %s", strerror(errno));
    return sock;
}

static void step(struct feed *f, int *sock)
{
    uint8_t what = (uint8_t)feed_int(f, 1);

    switch (what % 8) {
    case 0:
        if (*sock >= 0)
            close(*sock);
        *sock = -1;
        break;
    case 1:
        if (*sock >= 0)
            shutdown(*sock, (what >> 3) % 3);
        break;
    case 2:
        verdicts = what >> 3;
        break;
    case 3:
    case 4:
        dispatch();
        if (*sock >= 0)
            read_answers(*sock);
        break;
    default:
        if (*sock < 0)
            *sock = connect_one();
        send_message(f, *sock, what >> 3);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct feed f = {data, bytes};
    int sock[CONNECTIONS];

    memset(sock, 0xff, sizeof(sock));
    verdicts = 0;
    for (unsigned n = 0; f.left && n < 64; n++)
        step(&f, &sock[feed_int(&f, 1) % CONNECTIONS]);
    for (unsigned i = 0; i < CONNECTIONS; i++)
        if (sock[i] >= 0) {
            dispatch();
            read_answers(sock[i]);
            close(sock[i]);
        }
    dispatch();
    fuzz_check(waiting_count == 0, "%u sessions outlive their guests", waiting_count);
    for (int i = 0; i < 50000 && vgpu_fd_discarding(); i++)
        usleep(10);
    long now = open_count();
    fuzz_check(now == open_at_rest, "%ld descriptors are open, %ld were", now, open_at_rest);
    return 0;
}
