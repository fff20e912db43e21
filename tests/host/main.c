/* SPDX-License-Identifier: Apache-2.0 */
/* host-tree FIXTURE DIRECTORY [LINE...]: makes a captured-like tree in a folder, for tests of whole programs and by
 * hand. */
#include <err.h>
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tests/host/tree.h"

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr,
                "host-tree FIXTURE DIRECTORY [LINE...]; fixtures: tests/host/fixtures, lines: tests/host/tree.h\n");
        return 2;
    }
    if (mkdir(argv[2], 0755) && errno != EEXIST)
        err(1, "%s", argv[2]);
    tree_make(argv[2], argv[1]);
    for (int i = 3; i < argc; i++)
        tree_apply(argv[2], argv[i]);
    return 0;
}
