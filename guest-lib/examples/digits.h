/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Handwritten digits: data, trained networks, and inference on the CPU (the reference) and on the device.
 *
 * A network is two matrices; each layer is one GEMM. The bias is folded in: an image has a 65th input that is always 1,
 * and the hidden layer makes its own constant 1 as its last unit, so that the second layer has a bias too.
 * There are five networks; that of fold f was trained on all images of other folds, and classifies those of fold f.
 */
#ifndef VGPU_EXAMPLES_DIGITS_H
#define VGPU_EXAMPLES_DIGITS_H

#include "guest-lib/examples/common.h"

#define DIGITS_FOLDS 5u
#define DIGITS_PIXELS 64u
#define DIGITS_IN (DIGITS_PIXELS + 1)  /* and the constant */
#define DIGITS_HIDDEN (64u + 1)        /* and the constant */
#define DIGITS_OUT 10u
#define DIGITS_IMAGES_MAX 4096u
#define DIGITS_ACCURACY_MIN 0.95

struct digits_net {
    float w1[DIGITS_IN * DIGITS_HIDDEN]; /* [in][hidden] */
    float w2[DIGITS_HIDDEN * DIGITS_OUT];
};

struct digits {
    uint32_t images;
    float (*x)[DIGITS_IN];      /* [images], pixels from 0 to 1, then 1 */
    uint8_t *label;             /* [images] */
    uint8_t *fold;              /* [images], from the weights file */
    uint8_t *reference;         /* [images], what the CPU says */
    struct digits_net *net;     /* [DIGITS_FOLDS] */
};

struct digits_result {
    uint32_t images;
    uint32_t correct;
    uint32_t differ;            /* predictions that are not the reference's */
    uint32_t descriptors;
};

/* Where the files are: the argument, or the build's, or the installed ones. NULL when there are none. */
const char *digits_data_path(const char *argument);
const char *digits_weights_path(const char *argument);

/* Images and labels. False after printing why not. */
bool digits_load_data(struct digits *d, const char *path);
/* Networks and folds, which must have been made from this very data; then computes the reference. */
bool digits_load_weights(struct digits *d, const char *path);
bool digits_save_weights(const struct digits *d, const char *path);
void digits_free(struct digits *d);
/* The class that a network gives an image, computed in double. */
unsigned digits_classify(const struct digits_net *net, const float *x);

/* Runs requests in order and returns 0 when all completed with status 0; else -errno after saying what went wrong. */
typedef int digits_run_fn(void *ctx, struct vgpu *v, struct vgpu_request *reqs, unsigned n);
/* The simplest one: submits and waits. */
int digits_run_plain(void *ctx, struct vgpu *v, struct vgpu_request *reqs, unsigned n);
/* Classifies every image on the device. False after printing why not. */
bool digits_infer(struct vgpu *v, const struct digits *d, digits_run_fn *run, void *ctx, struct digits_result *out);

#endif
