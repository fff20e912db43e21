/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-program-overhead guest|native [--inputs-first] BUNDLE [PLUGIN [CLIENT-OPTIONS]]: one side of the comparison. Loads the
 * bundle, checks what its first batch gives, says "ready", and then does what stdin says, a line of numbers for each:
 *
 *   once N            N single executions: the ns of each
 *   load S DEPTH      S seconds with DEPTH in flight: executions per second
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/programs/overhead.h"

#define TOLERANCE 1e-3 /* of the largest number; the tests are stricter, this only sees that it is the same program */

static int bundle_open(struct overhead_bundle *b)
{
    int rc = ex_tensors_open(b->directory, "weights.tensors", 1, &b->weights);

    rc = rc == -ENOENT ? 0 : rc;
    rc = rc ? rc : ex_tensors_open(b->directory, "inputs.tensors", 0, &b->inputs);
    return rc ? rc : ex_tensors_open(b->directory, "expected.tensors", 0, &b->expected);
}

/* How many of the inputs are the first batch's. */
static int batch_find(const struct overhead_side *side, struct overhead_bundle *b)
{
    uint32_t outputs = side->outputs(), batches = outputs ? b->expected.count / outputs : 0;

    if (!batches || b->expected.count % outputs || b->inputs.count % batches) {
        fprintf(stderr, "%s: inputs, expected results and the program's %u outputs do not fit together\n", b->directory, outputs);
        return -EINVAL;
    }
    b->n_in = b->inputs.count / batches;
    return 0;
}

static int result_check(const struct overhead_side *side, const struct overhead_bundle *b)
{
    for (uint32_t i = 0; i < side->outputs(); i++) {
        const struct vgpu_tensor *shape;
        void *data;
        if (side->output(i, &shape, &data))
            return -1;
        if (shape->bytes != b->expected.shape[i].bytes ||
            !(ex_tensor_difference(shape, data, b->expected.data[i]) < TOLERANCE)) {
            fprintf(stderr, "%s: output %u is not what is expected\n", side->name, i);
            return -1;
        }
    }
    return 0;
}

static int command(const struct overhead_side *side, const char *line)
{
    unsigned long n;
    double seconds, per_s;
    unsigned depth;

    if (sscanf(line, "once %lu", &n) == 1) {
        for (unsigned long i = 0; i < n; i++) {
            uint64_t ns;
            if (side->once(&ns))
                return 1;
            printf("%s%llu", i ? " " : "", (unsigned long long)ns);
        }
    } else if (sscanf(line, "load %lf %u", &seconds, &depth) == 2 && depth && depth <= OVERHEAD_DEPTH_MAX) {
        if (side->load(seconds, depth, &per_s))
            return 1;
        printf("%.3f", per_s);
    } else {
        fprintf(stderr, "not a command: %s", line);
        return 1;
    }
    printf("\n");
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    const struct overhead_side *side = argc > 1 && strcmp(argv[1], "native") == 0 ? &overhead_native : &overhead_guest;
    struct overhead_bundle b = {.inputs_first = argc > 2 && strcmp(argv[2], "--inputs-first") == 0};
    char **rest = argv + 2 + b.inputs_first, line[256];
    int left = argc - 2 - b.inputs_first;

    if (left < 1 || (side == &overhead_native && left < 2) || (side == &overhead_guest && strcmp(argv[1], "guest") != 0)) {
        fprintf(stderr, "usage: vgpu-program-overhead guest [--inputs-first] BUNDLE\n"
                        "       vgpu-program-overhead native [--inputs-first] BUNDLE PLUGIN [CLIENT-OPTIONS]\n"
                        "overhead.py runs both by turns.\n");
        return 2;
    }
    b.directory = rest[0];
    if (bundle_open(&b))
        return 1;
    if (side->open(b.directory, left > 1 ? rest[1] : "", left > 2 ? rest[2] : "") || batch_find(side, &b) || side->put(&b) ||
        result_check(side, &b))
        return 1;
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin))
        if (command(side, line))
            return 1;
    return 0;
}
