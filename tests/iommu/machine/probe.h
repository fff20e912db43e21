/* SPDX-License-Identifier: Apache-2.0 */
/* What guest and probe agree upon. */
#ifndef PROBE_H
#define PROBE_H

#define PROBE_QUIET_BYTES (8u * 4096u)  /* at the start of each arena: filled once, then only devices write there */
#define PROBE_PATTERN(vm) (0xa0 + (vm)) /* what it is filled with */
#define PROBE_GUEST_FILE  "/tmp/guest-%u"

#endif
