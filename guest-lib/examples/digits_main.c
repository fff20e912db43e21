/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-digits: classifies 1,797 real handwritten digits on the device. Each image is judged by a network that never saw
 * it, and each prediction must be that of the CPU.
 */
#include <stdio.h>
#include <string.h>

#include "guest-lib/examples/digits.h"

static int usage(void)
{
    fprintf(stderr,
            "usage: vgpu-digits [--json] [--data FILE] [--weights FILE]\n"
            "Classifies handwritten digits with five-fold cross-validated networks and checks accuracy and\n"
            "predictions. The VM is named by VGPU_VM_ID, the host by VGPU_SOCKET, the token by VGPU_TOKEN_FILE.\n");
    return 2;
}

int main(int argc, char **argv)
{
    const char *data = NULL, *weights = NULL;
    bool json = false, good = false;
    struct digits_result r = {0};
    struct digits d;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            json = true;
        else if (strcmp(argv[i], "--data") == 0 && i + 1 < argc)
            data = argv[++i];
        else if (strcmp(argv[i], "--weights") == 0 && i + 1 < argc)
            weights = argv[++i];
        else
            return usage();
    }
    if (digits_load_data(&d, digits_data_path(data)) && digits_load_weights(&d, digits_weights_path(weights))) {
        struct vgpu *v = ex_open();
        uint64_t before = ex_now_ns();
        bool ran = v && digits_infer(v, &d, digits_run_plain, NULL, &r);
        double ms = (double)(ex_now_ns() - before) / 1e6;
        double accuracy = r.images ? (double)r.correct / r.images : 0;
        good = ran && r.images == d.images && r.differ == 0 && accuracy >= DIGITS_ACCURACY_MIN;
        if (ran && json)
            printf("{\"images\":%u,\"accuracy\":%.4f,\"matches_reference\":%s,\"descriptors\":%u,\"ms\":%.1f,"
                   "\"verified\":%s}\n", r.images, accuracy, r.differ == 0 ? "true" : "false", r.descriptors, ms,
                   good ? "true" : "false");
        else if (ran)
            printf("%u images, accuracy %.2f %%, %u descriptors in %.1f ms, predictions %s those of the CPU\n",
                   r.images, 100 * accuracy, r.descriptors, ms, r.differ == 0 ? "equal" : "DIFFER FROM");
        vgpu_close(v);
    }
    digits_free(&d);
    return good ? 0 : 1;
}
