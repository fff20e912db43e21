/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Probes for bpftrace, perf and gdb at the hops of a descriptor (docs/tracing.md): a nop each, and a note in the program
 * that says where it is and where its arguments are. Where sys/sdt.h is missing at build time there are none. Sources of
 * which a build with probes is made are compiled with VGPU_HAVE_SDT.
 */
#ifndef VGPU_BASE_PROBE_H
#define VGPU_BASE_PROBE_H

#ifdef VGPU_HAVE_SDT
#include <sys/sdt.h>
#define VGPU_PROBE3(name, a, b, c) DTRACE_PROBE3(vgpu, name, a, b, c)
#define VGPU_PROBE4(name, a, b, c, d) DTRACE_PROBE4(vgpu, name, a, b, c, d)
#else
#define VGPU_PROBE3(name, a, b, c) ((void)0)
#define VGPU_PROBE4(name, a, b, c, d) ((void)0)
#endif

#endif
