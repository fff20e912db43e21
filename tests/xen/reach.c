/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-lab-reach: may this domain reach into another one? Talks to the hypervisor itself, without libvgpu.
 *
 *   map DOMID REF ro|rw       maps one granted page; "mapped", or the error
 *   write DOMID REF ro|rw     maps it and writes to it what stands there: a page that is mapped read-only the CPU must
 *                             refuse (a signal)
 *   bind DOMID PORT           binds an event channel
 *   offer DOMID               opens an event channel for that domain alone, prints its port, and waits to be killed
 *   garbage ROUNDS            writes anything to the nodes of its own device, or removes them, again and again
 *   nodes read|write PATH...  how many of these xenstore nodes it can read, or write to; "N of M"; 0: all, 1: not all
 *
 * Exit 0: reached; 1: refused (the line says how); 2: wrong arguments or no Xen here.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <xenevtchn.h>
#include <xengnttab.h>
#include <xenstore.h>

static sigjmp_buf refused;

static void on_fault(int signal)
{
    siglongjmp(refused, signal);
}

static int map(uint32_t domid, uint32_t ref, int prot)
{
    xengnttab_handle *x = xengnttab_open(NULL, 0);

    if (!x) {
        printf("gntdev: %s\n", strerror(errno));
        return 2;
    }
    volatile uint32_t *page = xengnttab_map_grant_ref(x, domid, ref, prot);
    if (!page) {
        printf("refused: %s\n", strerror(errno));
        return 1;
    }
    printf("mapped, first word %08x\n", page[0]);
    return 0;
}

static int write_to(uint32_t domid, uint32_t ref, int prot)
{
    xengnttab_handle *x = xengnttab_open(NULL, 0);
    uint32_t *page = x ? xengnttab_map_grant_ref(x, domid, ref, prot) : NULL;

    if (!page) {
        printf("not mapped: %s\n", strerror(errno));
        return 2;
    }
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    int how = sigsetjmp(refused, 1);
    if (how) {
        printf("refused: signal %d\n", how);
        return 1;
    }
    __atomic_fetch_or(page, 0, __ATOMIC_RELAXED); /* a write that changes nothing: the page may be in use */
    printf("written\n");
    return 0;
}

static int bind_channel(uint32_t domid, uint32_t port)
{
    xenevtchn_handle *x = xenevtchn_open(NULL, 0);

    if (!x) {
        printf("evtchn: %s\n", strerror(errno));
        return 2;
    }
    int local = xenevtchn_bind_interdomain(x, domid, port);
    if (local < 0) {
        printf("refused: %s\n", strerror(errno));
        return 1;
    }
    printf("bound as %d\n", local);
    return 0;
}

static int offer_channel(uint32_t domid)
{
    xenevtchn_handle *x = xenevtchn_open(NULL, 0);
    int port = x ? xenevtchn_bind_unbound_port(x, domid) : -1;

    if (port < 0) {
        printf("evtchn: %s\n", strerror(errno));
        return 2;
    }
    printf("%d\n", port);
    fflush(stdout);
    for (;;)
        pause();
}

static int nodes_reach(bool writing, char **paths, int n)
{
    struct xs_handle *xs = xs_open(0);
    int reached = 0;

    if (!xs) {
        printf("xenstore: %s\n", strerror(errno));
        return 2;
    }
    for (int i = 0; i < n; i++) {
        unsigned bytes;
        char *value = writing ? NULL : xs_read(xs, XBT_NULL, paths[i], &bytes);
        reached += writing ? xs_write(xs, XBT_NULL, paths[i], "2", 1) : value != NULL;
        free(value);
    }
    xs_close(xs);
    printf("%d of %d\n", reached, n);
    return reached == n ? 0 : 1;
}

/* Handshakes made of anything, while an attachment may come and go. */
static int garbage(unsigned rounds)
{
    static const char *const values[] = {"", "4294967297", "-1", "2", "rubbish"};
    struct xs_handle *xs = xs_open(0);
    uint64_t rng = (uint64_t)getpid() << 16 | 1;
    unsigned written = 0, removed = 0;

    if (!xs) {
        printf("xenstore: %s\n", strerror(errno));
        return 2;
    }
    for (unsigned i = 0; i < rounds; i++) {
        unsigned n = 0;
        char path[128], state[4];
        char **names = xs_directory(xs, XBT_NULL, "device/vgpu/0", &n);
        for (unsigned k = 0; names && k < n; k++) {
            rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
            const char *value = values[rng % 5];
            snprintf(path, sizeof(path), "device/vgpu/0/%.60s", names[k]);
            if (rng >> 32 & 3)
                written += xs_write(xs, XBT_NULL, path, value, (unsigned)strlen(value));
            else
                removed += xs_rm(xs, XBT_NULL, path);
        }
        free(names);
        /* A whole request with rubbish in it, which is answered; every other one goes on to an offer. */
        snprintf(path, sizeof(path), "%016llx", (unsigned long long)rng);
        snprintf(state, sizeof(state), "%u", i % 8);
        written += xs_write(xs, XBT_NULL, "device/vgpu/0/request-id", path, 16);
        written += xs_write(xs, XBT_NULL, "device/vgpu/0/abi-version", "65536", 5);
        written += xs_write(xs, XBT_NULL, "device/vgpu/0/ring-ref", values[i % 5], (unsigned)strlen(values[i % 5]));
        written += xs_write(xs, XBT_NULL, "device/vgpu/0/state", state, 1);
        usleep(20000);
    }
    xs_close(xs);
    printf("%u nodes written, %u removed\n", written, removed);
    return written >= rounds && removed ? 0 : 1;
}

int main(int argc, char **argv)
{
    char *end = NULL;

    if (argc == 3 && strcmp(argv[1], "offer") == 0)
        return offer_channel((uint32_t)strtoul(argv[2], NULL, 10));
    if (argc == 3 && strcmp(argv[1], "garbage") == 0)
        return garbage((unsigned)strtoul(argv[2], NULL, 10));
    if (argc < 4)
        return 2;
    if (strcmp(argv[1], "nodes") == 0)
        return nodes_reach(strcmp(argv[2], "write") == 0, argv + 3, argc - 3);
    uint32_t domid = (uint32_t)strtoul(argv[2], NULL, 10), number = (uint32_t)strtoul(argv[3], &end, 10);
    if (end == argv[3] || *end != '\0') {
        printf("%s is no number\n", argv[3]);
        return 2;
    }
    if (strcmp(argv[1], "map") == 0 && argc > 4)
        return map(domid, number, strcmp(argv[4], "rw") == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
    if (strcmp(argv[1], "write") == 0 && argc > 4)
        return write_to(domid, number, strcmp(argv[4], "rw") == 0 ? PROT_READ | PROT_WRITE : PROT_READ);
    if (strcmp(argv[1], "bind") == 0)
        return bind_channel(domid, number);
    return 2;
}
