/* SPDX-License-Identifier: Apache-2.0 */
/* Who asks, what it may, and whom the socket's file lets through. */
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/control_int.h"

void vgpu_user_name(int64_t uid, char *out, size_t bytes)
{
    char buffer[4096];
    struct passwd entry, *found = NULL;

    out[0] = 0;
    if (uid >= 0 && getpwuid_r((uid_t)uid, &entry, buffer, sizeof(buffer), &found) == 0 && found)
        snprintf(out, bytes, "%s", found->pw_name);
}

static bool group_find(const char *name, gid_t *gid)
{
    char buffer[16384]; /* a group with many members has a long entry */
    struct group entry, *found = NULL;

    if (!name[0] || getgrnam_r(name, &entry, buffer, sizeof(buffer), &found) || !found)
        return false;
    *gid = found->gr_gid;
    return true;
}

/* Is the peer in this group? Its process's own groups count, which the kernel tells: nobody's database is asked. */
static bool peer_in(int fd, const struct vgpu_caller *caller, const char *group)
{
    gid_t groups[1024], wanted;
    socklen_t bytes = sizeof(groups);

    if (!group_find(group, &wanted))
        return false;
    if ((gid_t)caller->gid == wanted)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &bytes))
        return false; /* also one with more groups than there is room for */
    for (size_t i = 0; i < bytes / sizeof(groups[0]); i++)
        if (groups[i] == wanted)
            return true;
    return false;
}

void vgpu_caller_of(const struct vgpu_control *c, int fd, struct vgpu_caller *caller)
{
    const struct vgpu_config *config = c->params.config;
    struct ucred cred;
    socklen_t bytes = sizeof(cred);

    *caller = (struct vgpu_caller){.uid = -1, .gid = -1, .pid = -1};
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes))
        return;
    caller->uid = cred.uid;
    caller->gid = cred.gid;
    caller->pid = cred.pid;
    if (cred.uid == 0 || cred.uid == geteuid() || peer_in(fd, caller, config->admin_group))
        caller->role = VGPU_ROLE_ADMIN;
    else if (peer_in(fd, caller, config->viewer_group))
        caller->role = VGPU_ROLE_VIEWER;
}

void vgpu_caller_self(struct vgpu_caller *caller)
{
    *caller = (struct vgpu_caller){.uid = geteuid(), .gid = getegid(), .pid = getpid(), .role = VGPU_ROLE_ADMIN};
}

void vgpu_caller_signal(struct vgpu_caller *caller, int64_t uid, int64_t pid)
{
    *caller = (struct vgpu_caller){.uid = uid, .gid = -1, .pid = pid, .role = VGPU_ROLE_ADMIN};
}

const struct vgpu_caller *vgpu_control_caller(const struct vgpu_control *c)
{
    return c ? c->caller : NULL;
}

void vgpu_groups_look(const struct vgpu_control *c)
{
    const struct vgpu_config *config = c->params.config;
    const char *names[] = {config->admin_group, config->viewer_group};
    static const char *const keys[] = {"control.admin_group", "control.viewer_group"};
    gid_t gid;

    for (int i = 0; i < 2; i++)
        if (names[i][0] && !group_find(names[i], &gid))
            vgpu_log(VGPU_LOG_WARN, "%s: there is no group %s on this host", keys[i], names[i]);
}

int vgpu_access_refuse(const struct vgpu_control *c, const struct vgpu_caller *caller, const char *what, struct vgpu_err *err)
{
    const char *admins = c->params.config->admin_group, *viewers = c->params.config->viewer_group;
    bool viewer = caller->role == VGPU_ROLE_VIEWER, told = viewers[0] && !viewer;
    char user[64];

    vgpu_user_name(caller->uid, user, sizeof(user));
    return vgpu_err_set(err, EPERM,
                        "%s: uid %" PRId64 "%s%s%s %s; administrators are root, the user that runs vgpud%s%s%s%s%s%s; try sudo",
                        what, caller->uid, user[0] ? " (" : "", user, user[0] ? ")" : "",
                        viewer ? "is a viewer, and may not change anything" : "may not use vgpud",
                        admins[0] ? " and the group " : " (control.admin_group names no group)", admins,
                        admins[0] ? " (control.admin_group)" : "", told ? ", viewers the group " : "", told ? viewers : "",
                        told ? " (control.viewer_group)" : "");
}
