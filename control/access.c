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

static void user_name(struct vgpu_caller *caller)
{
    char buffer[4096];
    struct passwd entry, *found = NULL;

    if (getpwuid_r((uid_t)caller->uid, &entry, buffer, sizeof(buffer), &found) == 0 && found)
        snprintf(caller->user, sizeof(caller->user), "%s", found->pw_name);
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
    user_name(caller);
    if (cred.uid == 0 || cred.uid == geteuid() || peer_in(fd, caller, config->admin_group))
        caller->role = VGPU_ROLE_ADMIN;
    else if (peer_in(fd, caller, config->viewer_group))
        caller->role = VGPU_ROLE_VIEWER;
}

void vgpu_caller_self(struct vgpu_caller *caller)
{
    *caller = (struct vgpu_caller){.uid = geteuid(), .gid = getegid(), .pid = getpid(), .role = VGPU_ROLE_ADMIN};
    user_name(caller);
}

void vgpu_caller_signal(struct vgpu_caller *caller, int64_t uid, int64_t pid)
{
    *caller = (struct vgpu_caller){.uid = uid, .gid = -1, .pid = pid, .role = VGPU_ROLE_ADMIN};
    user_name(caller);
}

const struct vgpu_caller *vgpu_control_caller(const struct vgpu_control *c)
{
    return c ? c->caller : NULL;
}

/*
 * The file lets those through who may do something, or nobody could use a role. One group becomes the file's; of two, a
 * file can name only one, so everybody may connect then, and who has no role is told so and loses the connection (it
 * takes no slot, so it keeps nobody out).
 */
void vgpu_socket_access(struct vgpu_control *c)
{
    const struct vgpu_config *config = c->params.config;
    const char *names[] = {config->admin_group, config->viewer_group};
    static const char *const keys[] = {"control.admin_group", "control.viewer_group"};
    gid_t gid[2] = {0, 0};
    bool have[2];

    if (!c->socket_path[0])
        return;
    for (int i = 0; i < 2; i++) {
        have[i] = group_find(names[i], &gid[i]);
        if (names[i][0] && !have[i])
            vgpu_log(VGPU_LOG_WARN, "%s: there is no group %s on this host", keys[i], names[i]);
    }
    uint32_t mode = c->params.socket_mode ? c->params.socket_mode : 0660;
    bool both = have[0] && have[1] && gid[0] != gid[1];
    bool one = !both && (have[0] || have[1]);
    bool given = one && chown(c->socket_path, (uid_t)-1, have[0] ? gid[0] : gid[1]) == 0;
    if (!c->params.socket_mode && (both || (one && !given)))
        mode = 0666; /* a daemon that is not root, or not any more, can give a file only to its own groups */
    if (c->socket_given && !given && chown(c->socket_path, (uid_t)-1, getegid()))
        vgpu_log(VGPU_LOG_WARN, "control socket %s: %s", c->socket_path, strerror(errno));
    c->socket_given = given;
    if (chmod(c->socket_path, mode))
        vgpu_log(VGPU_LOG_WARN, "control socket %s: %s", c->socket_path, strerror(errno));
}
