/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is taken away while it is mapped: touched inside a watched range it becomes a private zero page. */
#include "core/base/sigbus.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/atomic.h"

#define PAGE 4096u

static uint32_t broken[2];

/* Four pages of a file that is then cut to one: touching the others raises SIGBUS. */
static volatile char *cut_mapping(void)
{
    int fd = memfd_create("cut", MFD_CLOEXEC);

    cr_assert(fd >= 0 && ftruncate(fd, 4 * PAGE) == 0);
    char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert(p != MAP_FAILED);
    for (int i = 0; i < 4; i++)
        p[i * PAGE] = (char)('a' + i);
    cr_assert_eq(ftruncate(fd, PAGE), 0);
    close(fd);
    return p;
}

Test(sigbus, a_watched_page_reads_as_zero_and_its_region_is_broken)
{
    volatile char *p = cut_mapping(), *q = cut_mapping();

    cr_assert_eq(vgpu_sigbus_install(), 0);
    int id = vgpu_sigbus_add((void *)p, 4 * PAGE, PAGE, &broken[0]);
    int other = vgpu_sigbus_add((void *)q, 4 * PAGE, PAGE, &broken[1]);
    cr_assert(id >= 0 && other >= 0 && id != other);
    errno = 1234;
    cr_expect_eq(p[2 * PAGE], 0);
    cr_expect_eq(errno, 1234, "the handler leaves errno alone");
    cr_expect(vgpu_load_acquire(&broken[0]) == 1 && vgpu_load_acquire(&broken[1]) == 0, "only the one that faulted");
    p[2 * PAGE + 5] = 'x';
    cr_expect_eq(p[2 * PAGE + 5], 'x', "the page is usable");
    cr_expect_eq(p[0], 'a', "what is still there stays");
    p[4 * PAGE - 1] = 'y'; /* the last byte of the range, by a store */
    cr_expect_eq(p[4 * PAGE - 1], 'y');
    vgpu_sigbus_del(id);
    vgpu_sigbus_del(other);
}

Test(sigbus, elsewhere_it_kills_as_before, .signal = SIGBUS)
{
    volatile char *p = cut_mapping(), *q = cut_mapping();

    cr_assert_eq(vgpu_sigbus_install(), 0);
    cr_assert(vgpu_sigbus_add((void *)p, 4 * PAGE, PAGE, &broken[0]) >= 0);
    (void)q[PAGE];
}

Test(sigbus, no_longer_watched_no_longer_saved, .signal = SIGBUS)
{
    volatile char *p = cut_mapping();

    cr_assert_eq(vgpu_sigbus_install(), 0);
    int id = vgpu_sigbus_add((void *)p, 4 * PAGE, PAGE, &broken[0]);
    cr_expect_eq(p[PAGE], 0);
    vgpu_sigbus_del(id);
    (void)p[3 * PAGE];
}

Test(sigbus, ranges_are_given_back_and_run_out)
{
    char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    cr_assert(p != MAP_FAILED);
    for (int i = 0; i < VGPU_SIGBUS_RANGES; i++)
        cr_assert_eq(vgpu_sigbus_add(p, PAGE, PAGE, &broken[0]), i);
    cr_expect_eq(vgpu_sigbus_add(p, PAGE, PAGE, &broken[0]), -ENOSPC);
    vgpu_sigbus_del(-1);
    vgpu_sigbus_del(17);
    cr_expect_eq(vgpu_sigbus_add(p, PAGE, PAGE, &broken[0]), 17);
}
