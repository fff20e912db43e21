/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake host as a program: fake-host SOCKET TOKEN-FILE [VM-ID]. Writes the token file, then serves until SIGTERM or
 * end of file on its standard input. Lets client programs be tried without vgpud.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fake_host.h"

int main(int argc, char **argv)
{
    struct fake_options o;
    char sink[64];

    if (argc < 3) {
        fprintf(stderr, "usage: fake-host SOCKET TOKEN-FILE [VM-ID]\n");
        return 2;
    }
    fake_options_defaults(&o, argv[1]);
    o.vm_id = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 3;
    o.max_arena_bytes = 64 << 20;
    o.spin_polls = 200000;
    FILE *f = fopen(argv[2], "w");
    if (!f) {
        perror(argv[2]);
        return 1;
    }
    for (unsigned i = 0; i < sizeof(o.token); i++)
        fprintf(f, "%02x", o.token[i]);
    fputc('\n', f);
    fclose(f);
    struct fake_host *h = fake_host_start(&o);
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, sink, sizeof(sink)) > 0)
        ;
    fake_host_stop(h);
    return 0;
}
