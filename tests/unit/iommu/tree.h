/* SPDX-License-Identifier: Apache-2.0 */
/* A directory tree that stands for a machine's sysfs, made in a test and removed behind it. */
#ifndef TREE_H
#define TREE_H

#include <stdint.h>

/* A fresh empty root; free with tree_free(). */
char *tree_make(void);
void tree_free(char *root);
void tree_file(const char *root, const char *path, const char *text);
void tree_link(const char *root, const char *path, const char *target);
/* A PCI device; group -1: in none; driver NULL: none. */
void tree_pci(const char *root, const char *address, int group, const char *driver);

#endif
