/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker that speaks pmd-gpu/programs/worker.h and runs nothing: what an EXECUTE does follows from the program's
 * number (programs_test.c), and it writes when it began and ended to the place that its list of tensors would be at.
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "fake_worker.h"
#include "pmd-gpu/programs/worker.h"

static void nap_us(long us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

    nanosleep(&t, NULL);
}

int main(int argc, char **argv)
{
    struct vgpu_worker_shm *shm = mmap(NULL, sizeof(*shm), PROT_READ | PROT_WRITE, MAP_SHARED, VGPU_WORKER_FD_SHM, 0);
    struct vgpu_cons req;
    struct vgpu_prod rep;
    struct vgpu_slot slot;
    static char kept[FAKE_KEEPS];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc < 5 || shm == MAP_FAILED)
        return 2;
    const char *how = argv[2], *colon = strchr(argv[3], ':');
    char *arena = mmap(NULL, strtoull(colon + 1, NULL, 10), PROT_READ | PROT_WRITE, MAP_SHARED, VGPU_WORKER_FD_ARENA,
                       (off_t)strtoull(argv[3], NULL, 10));
    if (strcmp(how, "dies") == 0)
        return 1;
    while (strcmp(how, "never") == 0)
        nap_us(1000000);
    if (strcmp(how, "fails") == 0) {
        strcpy(shm->text, "it fails as it was told to");
        vgpu_store_release(&shm->state, VGPU_WORKER_FAILED); /* W1 */
        pause();
    }
    static uint64_t nowhere; /* where one that tells us of no room publishes it */
    vgpu_cons_init(&req, shm->req, VGPU_WORKER_SLOTS, strcmp(how, "keeps") == 0 ? &nowhere : &shm->req_head, 0, true);
    vgpu_prod_init(&rep, shm->rep, VGPU_WORKER_SLOTS, &shm->rep_head, 0);
    vgpu_store_release(&shm->state, VGPU_WORKER_READY); /* W1 */
    for (;;) {
        if (vgpu_cons_pop(&req, &slot, 1) != 1) {
            nap_us(50);
            continue;
        }
        const struct vgpu_work *w = (const struct vgpu_work *)&slot;
        struct vgpu_worker_reply r = {.status = VGPU_OK, .value = w->n, .device_ns = 1000};
        struct fake_span *span = w->opcode == VGPU_OP_EXECUTE ? (struct fake_span *)(arena + w->src1) : NULL;
        if (span)
            span->from_ns = vgpu_now_ns();
        switch (span ? w->arg[0] : FAKE_OK) {
        case FAKE_HANG:
            for (;;)
                pause();
        case FAKE_SCRIBBLE: /* into the arena for ever */
            for (;;)
                __atomic_add_fetch((uint64_t *)(arena + FAKE_GATE_OFF), 1, __ATOMIC_RELAXED);
        case FAKE_DIE:
            raise(SIGKILL);
            break;
        case FAKE_GATE:
            while (*(volatile uint32_t *)(arena + FAKE_GATE_OFF) == 0)
                nap_us(100);
            break;
        case FAKE_SLOW:
            nap_us(FAKE_SLOW_US);
            break;
        case FAKE_LIE:
            r = (struct vgpu_worker_reply){.status = 999, .value = 5, .device_ns = UINT64_MAX};
            break;
        case FAKE_FLOOD: /* replies that nobody asked for */
            for (int i = 0; i < 200; i++)
                vgpu_prod_push(&rep, (const struct vgpu_slot *)&r, 1);
            break;
        default:
            break;
        }
        if (w->opcode == VGPU_OP_BUFFER_PUT && w->n <= sizeof(kept)) /* one tensor, whatever its number */
            memcpy(kept, arena + w->src0, w->n);
        if (w->opcode == VGPU_OP_BUFFER_GET && w->n <= sizeof(kept))
            memcpy(arena + w->dst, kept, w->n);
        if (span)
            span->to_ns = vgpu_now_ns();
        vgpu_prod_push(&rep, (const struct vgpu_slot *)&r, 1);
    }
}
