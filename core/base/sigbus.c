/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/sigbus.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>

#include "core/base/atomic.h"

struct range {
    uintptr_t base; /* 0: free. Written last on add, first on del (B1) */
    uint64_t bytes;
    uint64_t page_bytes;
    uint32_t *broken;
};
static struct range ranges[VGPU_SIGBUS_RANGES];
static uint32_t range_count; /* entries ever used */

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
    uintptr_t at = (uintptr_t)info->si_addr;
    int saved = errno;

    (void)context;
    uint32_t n = vgpu_load_acquire(&range_count);
    for (uint32_t i = 0; i < n; i++) {
        uintptr_t base = vgpu_load_acquire(&ranges[i].base); /* B1 pairs with B1 in vgpu_sigbus_add() */
        uint64_t bytes = vgpu_load_acquire(&ranges[i].bytes), page_bytes = vgpu_load_acquire(&ranges[i].page_bytes);
        uint32_t *broken = vgpu_load_acquire(&ranges[i].broken);
        /* B1: the entry may be given to another region while we read it; never mix the two. */
        if (base == 0 || vgpu_load_relaxed(&ranges[i].base) != base || at < base || at - base >= bytes)
            continue;
        uintptr_t page = at & ~(uintptr_t)(page_bytes - 1);
        vgpu_store_release(broken, 1); /* first: who finds the new page finds the mark */
        void *p = mmap((void *)page, page_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            break;
        errno = saved;
        return;
    }
    /* Not ours: die as without us, at the same instruction. */
    signal(sig, SIG_DFL);
    errno = saved;
}

int vgpu_sigbus_install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigemptyset(&sa.sa_mask);
    return sigaction(SIGBUS, &sa, NULL) ? -errno : 0;
}

int vgpu_sigbus_add(void *base, uint64_t bytes, uint64_t page_bytes, uint32_t *broken)
{
    for (uint32_t i = 0; i < VGPU_SIGBUS_RANGES; i++) {
        if (vgpu_load_relaxed(&ranges[i].base) != 0)
            continue;
        vgpu_store_release(&ranges[i].bytes, bytes); /* B1: who sees these sees base 0 or the new one */
        vgpu_store_release(&ranges[i].page_bytes, page_bytes);
        vgpu_store_release(&ranges[i].broken, broken);
        vgpu_store_release(&ranges[i].base, (uintptr_t)base); /* B1 pairs with B1 in on_sigbus() */
        if (i >= range_count)
            vgpu_store_release(&range_count, i + 1);
        return (int)i;
    }
    return -ENOSPC;
}

void vgpu_sigbus_del(int id)
{
    if (id >= 0)
        vgpu_store_release(&ranges[id].base, 0);
}
