/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kill -9 at random moments under load: guests, executors, vgpud, each alone and several in the same instant.
 * Survivors, guests that are never killed, account for each descriptor over all of it: one completion, done or lost, no
 * wrong result, no help from the application. Afterwards nobody holds more than before: processes, descriptors,
 * mappings of memfds, memory, hugepages, files.
 *
 * VGPU_TEST_SEED repeats who is killed and after how long; VGPU_TEST_SLICE_S is how long all tests together kill.
 */
#include "campaign.h"

#define SECONDS 15u

static void run(struct e2e_options o, unsigned share, bool daemon_too)
{
    struct campaign c;

    campaign_open(&c, &o);
    uint64_t until = e2e_now_ms() + e2e_number("VGPU_TEST_SLICE_S", SECONDS) * 1000 * share / 100;
    for (unsigned round = 1; e2e_now_ms() < until; round++)
        campaign_round(&c, round, daemon_too);
    campaign_close(&c, daemon_too);
}

static void executors_and_guests(void)
{
    run((struct e2e_options){0}, 30, false);
}
/* Small queues: much waits with the poll cores when an executor dies. */
static void two_poll_cores(void)
{
    run((struct e2e_options){.poll_cores = 2, .window = 16, .in_flight = 128}, 30, false);
}
static void all(void)
{
    run((struct e2e_options){0}, 40, true);
}

static const struct e2e_test tests[] = {
    {"executors_and_guests", executors_and_guests, 7200},
    {"two_poll_cores", two_poll_cores, 7200},
    {"all", all, 7200},
};
E2E_MAIN(tests)
