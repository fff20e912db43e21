/* SPDX-License-Identifier: Apache-2.0 */
/* What processes and the machine hold, before and after something that must leave nothing behind. */
#ifndef VGPU_TESTS_FAULT_HOLDINGS_H
#define VGPU_TESTS_FAULT_HOLDINGS_H

#include "../e2e/harness.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

struct holdings {
    long fds, maps, memfds, rss_kb; /* memfds: mappings of such, which are regions, properties pages and exchanges */
};
/* Of a process; all 0 for pid 0 (an executor inside vgpud). */
struct holdings holdings_of(pid_t pid);
/* Waits until the process holds no more than before, but for caches of libc; ends the test when it does not come to
 * that. rss_slack_kb: how much more memory it may use. */
void holdings_check(pid_t pid, const char *what, const struct holdings *before, long rss_slack_kb);

/* What outlives processes when somebody forgets it. */
struct machine_holdings {
    long hugepages_free; /* -1: no hugepages here */
    long shm_files;      /* in /dev/shm, named after us or DPDK */
};
struct machine_holdings holdings_of_machine(void);
void holdings_check_machine(const struct machine_holdings *before);

#endif
