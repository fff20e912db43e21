/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile guest does at the door. Each function leaves nothing open on its own side unless it means to. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/fdpass.h"
#include "hostile.h"

bool hostile_attach(struct hostile *x, struct raw_guest *g, unsigned vm_id)
{
    raw_connect(g, x->h, vm_id);
    struct vgpu_region_header *h = &g->header;
    h->sq_slots = 8u << hostile_below(x, 7);
    h->cq_slots = 8u << hostile_below(x, 7);
    h->cq_off = h->sq_off + (((uint64_t)h->sq_slots * VGPU_SLOT_BYTES + 4095) & ~UINT64_C(4095));
    h->arena_off = h->cq_off + (((uint64_t)h->cq_slots * VGPU_SLOT_BYTES + 4095) & ~UINT64_C(4095));
    h->arena_bytes = hostile_below(x, 8) ? hostile_below(x, 64) * 4096 : 0;
    h->region_bytes = h->arena_off + h->arena_bytes;
    if (raw_hello(g) == VGPU_ATTACH_OK) {
        int fd = raw_region(g, 0, RAW_SEALS_GOOD);
        if (raw_attach(g, h->region_bytes, &fd, 1) == VGPU_ATTACH_OK) {
            hostile_count(&x->shared->attachments);
            return true;
        }
    }
    raw_close(g);
    return false;
}

/* What a message may carry beside what it should. */
static int any_fd(struct hostile *x, unsigned kind)
{
    int pair[2];

    switch (kind) {
    case 0:
    case 1:
        if (pipe2(pair, O_CLOEXEC | (kind ? O_NONBLOCK : 0)))
            return -1;
        close(pair[kind]);
        return pair[!kind];
    case 2:
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
            return -1;
        close(pair[0]);
        return pair[1];
    case 3:
        return open("/dev/zero", O_RDWR | O_CLOEXEC);
    case 4:
        return open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    case 5:
        return open("/", O_PATH | O_CLOEXEC);
    case 6:
        return open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    case 7:
        return dup(x->g.sock); /* its own connection, or one that is closed */
    default:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    }
}
#define ANY_FDS 9u

/* A memfd with seals and a mode that do not do. */
static int wrong_memfd(struct hostile *x, struct raw_guest *g, unsigned kind)
{
    static const int seals[] = {0, F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_WRITE, F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE};
    char path[64];

    if (kind == 0)
        g->header.region_bytes = 1 + hostile_below(x, 4095);
    int fd = raw_region(g, 0, kind < 4 ? seals[kind] : RAW_SEALS_GOOD);
    if (kind < 4)
        return fd;
    /* Good, but opened for reading or by path only. */
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, kind == 4 ? O_RDONLY | O_CLOEXEC : O_PATH | O_CLOEXEC);
}
#define WRONG_MEMFDS 6u

void hostile_wrong_fd(struct hostile *x)
{
    struct raw_guest g;
    unsigned kind = (unsigned)hostile_below(x, ANY_FDS + WRONG_MEMFDS + 1);
    bool own = kind < ANY_FDS || kind > ANY_FDS + 3;

    raw_connect(&g, x->h, x->other_vm_id);
    if (raw_hello(&g) == VGPU_ATTACH_OK) {
        uint64_t bytes = g.header.region_bytes;
        int fd = -1;
        if (kind < ANY_FDS)
            fd = any_fd(x, kind);
        else if (kind < ANY_FDS + WRONG_MEMFDS)
            fd = wrong_memfd(x, &g, kind - ANY_FDS);
        else if (x->attached)
            fd = dup(x->g.fds[0]); /* a properties page as a region */
        if (fd >= 0) {
            uint32_t rc = raw_attach(&g, hostile_below(x, 4) ? bytes : hostile_edge(x), &fd, 1);
            e2e_check(rc != VGPU_ATTACH_OK, "descriptor of kind %u was taken for a region", kind);
        }
        if (own && fd >= 0)
            close(fd);
    }
    raw_close(&g);
}

/* One random field of the header gets a value near an edge. Accepted is fine too: the field may not matter so much. */
void hostile_header(struct hostile *x)
{
    struct raw_guest g;

    raw_connect(&g, x->h, x->other_vm_id);
    if (raw_hello(&g) == VGPU_ATTACH_OK) {
        uint64_t real = g.header.region_bytes;
        int fd = raw_region(&g, 0, 0);
        uint64_t words[sizeof(g.header) / 8];
        memcpy(words, &g.header, sizeof(words));
        for (uint64_t n = 1 + hostile_below(x, 3); n; n--) {
            uint64_t at = hostile_below(x, sizeof(words) / 8);
            words[at] = hostile_below(x, 3) ? hostile_edge(x) : words[at] ^ UINT64_C(1) << hostile_below(x, 64);
        }
        e2e_check(pwrite(fd, words, sizeof(words), 0) == sizeof(words), "pwrite: %s", strerror(errno));
        if (hostile_below(x, 8) == 0) /* far larger than what it holds */
            real = ftruncate(fd, INT64_C(1) << 45) ? real : UINT64_C(1) << 45;
        fcntl(fd, F_ADD_SEALS, RAW_SEALS_GOOD);
        raw_attach(&g, hostile_below(x, 2) ? real : words[2], &fd, 1);
    }
    raw_close(&g);
}

/* Says nothing, or stops after any step; closes some of them at once and leaves the rest to the host's deadline. */
void hostile_half_open(struct hostile *x)
{
    static struct raw_guest held[16];
    static bool open_now[16];

    for (uint64_t n = 1 + hostile_below(x, 8); n; n--) {
        unsigned i = (unsigned)hostile_below(x, 16);
        struct raw_guest *g = &held[i];
        if (open_now[i])
            raw_close(g);
        raw_connect(g, x->h, hostile_below(x, 4) ? x->other_vm_id : (unsigned)hostile_below(x, 20));
        open_now[i] = true;
        if (hostile_below(x, 2)) {
            vgpu_fd_send(g->sock, &g->hello, sizeof(g->hello), NULL, 0, 0);
            if (hostile_below(x, 2)) {
                struct vgpu_msg_attach m = {
                    .magic = VGPU_ATTACH_MAGIC, .type = VGPU_ATTACH_ATTACH, .region_bytes = g->header.region_bytes};
                int fd = raw_region(g, 0, RAW_SEALS_GOOD);
                vgpu_fd_send(g->sock, &m, sizeof(m), &fd, 1, 0); /* and never reads the answer */
            }
        }
        if (hostile_below(x, 2)) {
            raw_close(g);
            open_now[i] = false;
        }
    }
}

void hostile_bytes(struct hostile *x)
{
    struct raw_guest g;
    uint64_t message[64];
    int fds[VGPU_FDPASS_MAX], n_fds = 0;

    raw_connect(&g, x->h, x->other_vm_id);
    for (uint64_t n = 1 + hostile_below(x, 4); n; n--) {
        size_t bytes = hostile_below(x, 2) ? 64 : hostile_below(x, 4) ? hostile_below(x, sizeof(message) + 1) : 0;
        for (size_t i = 0; i < 64; i++)
            message[i] = hostile_below(x, 2) ? e2e_next(&x->rng) : 0;
        if (hostile_below(x, 2)) {
            memcpy(message, &g.hello, sizeof(g.hello));
            message[hostile_below(x, 8)] ^= UINT64_C(1) << hostile_below(x, 64);
        }
        for (n_fds = 0; n_fds < (int)hostile_below(x, VGPU_FDPASS_MAX + 1); n_fds++)
            fds[n_fds] = any_fd(x, ANY_FDS - 1);
        vgpu_fd_send(g.sock, message, bytes, fds, n_fds, MSG_DONTWAIT);
        while (n_fds > 0)
            close(fds[--n_fds]);
    }
    if (hostile_below(x, 2))
        shutdown(g.sock, (int)hostile_below(x, 3));
    raw_close(&g);
}

void hostile_storm(struct hostile *x)
{
    struct raw_guest g;

    for (uint64_t n = 1 + hostile_below(x, 40); n; n--) {
        if (!hostile_attach(x, &g, x->other_vm_id))
            continue;
        if (hostile_below(x, 2)) { /* something to cancel */
            uint8_t *mem = mmap(NULL, g.header.region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, g.region_fd, 0);
            e2e_check(mem != MAP_FAILED, "mmap: %s", strerror(errno));
            struct vgpu_desc *slots = (void *)(mem + g.header.sq_off);
            for (uint64_t p = g.attached.sq_start; p < g.attached.sq_start + g.header.sq_slots; p++)
                __atomic_store_n(&slots[p % g.header.sq_slots].seq, p + 1, __ATOMIC_RELEASE);
            uint64_t one = 1;
            e2e_check(write(g.fds[1], &one, sizeof(one)) > 0, "doorbell: %s", strerror(errno));
            munmap(mem, g.header.region_bytes);
        }
        raw_close(&g);
    }
}
