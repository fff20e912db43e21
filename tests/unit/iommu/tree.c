/* SPDX-License-Identifier: Apache-2.0 */
#include "tree.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *tree_make(void)
{
    char *root = strdup("/tmp/vgpu-tree-XXXXXX");

    if (!root || !mkdtemp(root))
        abort();
    return root;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

void tree_free(char *root)
{
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(root);
}

static void parents(char *path)
{
    for (char *p = path + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0755);
        *p = '/';
    }
}

void tree_file(const char *root, const char *path, const char *text)
{
    char full[512];

    snprintf(full, sizeof(full), "%s/%s", root, path);
    parents(full);
    FILE *f = fopen(full, "w");
    if (!f || fputs(text, f) < 0 || fclose(f))
        abort();
}

void tree_link(const char *root, const char *path, const char *target)
{
    char full[512];

    snprintf(full, sizeof(full), "%s/%s", root, path);
    parents(full);
    if (symlink(target, full))
        abort();
}

void tree_pci(const char *root, const char *address, int group, const char *driver)
{
    char path[256], target[256];

    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/vendor", address);
    tree_file(root, path, "0x1234\n");
    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/device", address);
    tree_file(root, path, "0x11e8\n");
    snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/class", address);
    tree_file(root, path, "0x00ff00\n");
    if (driver) {
        snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/driver", address);
        snprintf(target, sizeof(target), "../../../bus/pci/drivers/%s", driver);
        tree_link(root, path, target);
    }
    if (group >= 0) {
        snprintf(path, sizeof(path), "sys/bus/pci/devices/%s/iommu_group", address);
        snprintf(target, sizeof(target), "../../../kernel/iommu_groups/%d", group);
        tree_link(root, path, target);
        snprintf(path, sizeof(path), "sys/kernel/iommu_groups/%d/devices/%s", group, address);
        snprintf(target, sizeof(target), "../../../../bus/pci/devices/%s", address);
        tree_link(root, path, target);
    }
}
