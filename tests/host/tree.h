/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a tree like /proc, /sys and /dev below a directory from a short description, so that odd machines are test
 * fixtures of some lines. A description is lines of
 *
 *   include NAME            another description (fixtures/NAME.txt)
 *   f PATH TEXT             a file of one line; \n \t \\ and \xHH are understood; folders are made as needed
 *   n PATH TEXT             the same without a newline at its end
 *   a PATH TEXT             one more line behind what is there
 *   b PATH HEX              a file of bytes
 *   z PATH BYTES            a file of so many zeros (sparse)
 *   d PATH                  a folder
 *   l PATH TARGET           a symbolic link
 *   p PATH                  a FIFO
 *   m MODE PATH             permissions, octal
 *   x PATH                  removes what is there, with what is below
 *   node N KEY=VALUE...     a NUMA node: cpus=0-3 memory=64G distance=10,21 huge2m=0 huge1g=0
 *   cpus COUNT KEY=VALUE... online CPUs: per_core=2 per_package=8 governor=performance model=... (last: rest of line)
 *   pci ADDRESS KEY=VALUE.. a PCI device: below=ADDRESS class=030200 id=10de:2330 node=0 group=5 driver=nvidia
 *                           link=32.0x16 max=32.0x16 port=endpoint|root|up|down acs=1d/1d ats=on payload=256/512
 *                           bar0=.. reset=flr
 *
 * '#' starts a comment line. What is described later replaces what was before.
 */
#ifndef VGPU_TEST_HOST_TREE_H
#define VGPU_TEST_HOST_TREE_H

/* Applies the fixture of that name to an existing directory; ends the program with a message if that fails. */
void tree_make(const char *directory, const char *fixture);
/* Applies lines of a description; text is not changed. */
void tree_apply(const char *directory, const char *text);
/* A new directory below TMPDIR, /dev/shm or /tmp, in a static buffer of its own for each of the last 4 calls. */
char *tree_new(void);
void tree_remove(const char *directory);

#endif
