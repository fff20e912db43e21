/* SPDX-License-Identifier: Apache-2.0 */
/* A control server over a real socket and a real store, with a daemon that only pretends. For tests. */
#ifndef VGPU_TESTS_CONTROL_RIG_H
#define VGPU_TESTS_CONTROL_RIG_H

#include "control/control.h"

struct control_rig {
    char dir[32];
    char socket[64];
    struct vgpu_config config;
    struct vgpu_store *store;
    struct vgpu_control *control;
    uint32_t attached_vm; /* vm_live says that this one is; 0: none */
    const char *attached_state;
    bool pool_b_down;
    unsigned looks; /* how often the daemon was asked for its figures */
    const char *fallback, *fault; /* of pool A's executor; NULL: none */
    bool stats_fail;
};

/* Pools A (3 VMs) and B (32), in a fresh directory. Exits on failure. */
void control_rig_setup(struct control_rig *r, uint32_t deadline_ms);
void control_rig_teardown(struct control_rig *r);
/* Opens the server (again); 0 or -errno. */
int control_rig_open(struct control_rig *r, uint32_t deadline_ms, struct vgpu_err *err);
/* Serves until the descriptor that it is given becomes readable. */
void control_rig_serve(struct control_rig *r, int stop_fd);
/* The same, set up and served in a child process: the caller only knows the paths. VM attached_vm counts as attached.
 */
struct control_rig_child {
    int pid, stop_fd;
    char dir[32];
    char socket[64];
};
struct control_rig_child control_rig_start(uint32_t attached_vm);
/* Ends the child and removes its directory. */
void control_rig_stop(struct control_rig_child *child);

#endif
