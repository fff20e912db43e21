/* SPDX-License-Identifier: Apache-2.0 */
/*
 * digits-train DATA OUT: trains the five networks of the digits example; runs once, at build time. Plain stochastic
 * gradient descent with momentum on the cross-entropy, everything seeded: the same compiler gives the same file.
 * The images of a fold are never shown to its network; which image is in which fold is drawn once and stored.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "guest-lib/examples/digits.h"

#define EPOCHS 30
#define BATCH 16
#define UNITS (DIGITS_HIDDEN - 1) /* that learn; the last is the constant */

struct trainer {
    struct digits_net net, step; /* step: the momentum */
    struct digits_net grad;
    struct ex_random random;
};

static void assign_folds(struct digits *d)
{
    static uint32_t order[DIGITS_IMAGES_MAX];
    struct ex_random r = {.state = 2026};

    for (uint32_t i = 0; i < d->images; i++)
        order[i] = i;
    for (uint32_t i = d->images - 1; i > 0; i--) {
        uint32_t j = ex_random_u32(&r) % (i + 1), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    for (uint32_t i = 0; i < d->images; i++)
        d->fold[order[i]] = (uint8_t)(i % DIGITS_FOLDS);
}

static void start(struct trainer *t, uint32_t fold)
{
    memset(t, 0, sizeof(*t));
    t->random.state = 100 + fold;
    float s1 = sqrtf(6.0f / DIGITS_IN), s2 = sqrtf(6.0f / DIGITS_HIDDEN);
    for (unsigned i = 0; i < DIGITS_PIXELS; i++)
        for (unsigned h = 0; h < UNITS; h++)
            t->net.w1[i * DIGITS_HIDDEN + h] = s1 * ex_random_float(&t->random);
    for (unsigned h = 0; h < UNITS; h++)
        for (unsigned o = 0; o < DIGITS_OUT; o++)
            t->net.w2[h * DIGITS_OUT + o] = s2 * ex_random_float(&t->random);
    t->net.w1[DIGITS_PIXELS * DIGITS_HIDDEN + UNITS] = 1.0f; /* the constant in makes the constant hidden unit */
}

/* Adds one image's gradient. */
static void backward(struct trainer *t, const float *x, unsigned label)
{
    float hidden[DIGITS_HIDDEN] = {0}, out[DIGITS_OUT] = {0}, dh[DIGITS_HIDDEN];
    float top, total = 0;

    for (unsigned i = 0; i < DIGITS_IN; i++)
        for (unsigned h = 0; x[i] != 0 && h < DIGITS_HIDDEN; h++)
            hidden[h] += x[i] * t->net.w1[i * DIGITS_HIDDEN + h];
    for (unsigned h = 0; h < DIGITS_HIDDEN; h++) {
        hidden[h] = hidden[h] > 0 ? hidden[h] : 0;
        for (unsigned o = 0; o < DIGITS_OUT; o++)
            out[o] += hidden[h] * t->net.w2[h * DIGITS_OUT + o];
    }
    top = out[0];
    for (unsigned o = 1; o < DIGITS_OUT; o++)
        top = out[o] > top ? out[o] : top;
    for (unsigned o = 0; o < DIGITS_OUT; o++)
        total += out[o] = expf(out[o] - top);
    for (unsigned o = 0; o < DIGITS_OUT; o++)
        out[o] = out[o] / total - (o == label ? 1.0f : 0.0f);
    for (unsigned h = 0; h < DIGITS_HIDDEN; h++) {
        dh[h] = 0;
        for (unsigned o = 0; o < DIGITS_OUT; o++) {
            t->grad.w2[h * DIGITS_OUT + o] += hidden[h] * out[o];
            dh[h] += t->net.w2[h * DIGITS_OUT + o] * out[o];
        }
        if (hidden[h] <= 0 || h == UNITS) /* a silent unit, or the constant, which must stay one */
            dh[h] = 0;
    }
    for (unsigned i = 0; i < DIGITS_IN; i++)
        for (unsigned h = 0; x[i] != 0 && h < DIGITS_HIDDEN; h++)
            t->grad.w1[i * DIGITS_HIDDEN + h] += x[i] * dh[h];
}

static void descend(struct trainer *t, float rate)
{
    float *w = (float *)&t->net, *s = (float *)&t->step, *g = (float *)&t->grad;

    for (unsigned i = 0; i < sizeof(t->net) / sizeof(float); i++) {
        s[i] = 0.9f * s[i] - rate * g[i] / BATCH;
        w[i] += s[i];
        g[i] = 0;
    }
}

static void train(struct trainer *t, const struct digits *d, uint32_t fold)
{
    static uint32_t order[DIGITS_IMAGES_MAX];
    uint32_t n = 0;

    start(t, fold);
    for (uint32_t i = 0; i < d->images; i++)
        if (d->fold[i] != fold)
            order[n++] = i;
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        float rate = 0.05f * (1.0f - (float)epoch / EPOCHS);
        for (uint32_t i = n - 1; i > 0; i--) {
            uint32_t j = ex_random_u32(&t->random) % (i + 1), swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        for (uint32_t i = 0; i < n; i++) {
            backward(t, d->x[order[i]], d->label[order[i]]);
            if (i % BATCH == BATCH - 1)
                descend(t, rate);
        }
    }
}

int main(int argc, char **argv)
{
    static struct trainer t;
    struct digits d;
    uint32_t right = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: digits-train DATA OUT\n");
        return 2;
    }
    if (!digits_load_data(&d, argv[1]))
        return 1;
    assign_folds(&d);
    for (uint32_t fold = 0; fold < DIGITS_FOLDS; fold++) {
        train(&t, &d, fold);
        d.net[fold] = t.net;
    }
    for (uint32_t i = 0; i < d.images; i++)
        right += digits_classify(&d.net[d.fold[i]], d.x[i]) == d.label[i];
    double accuracy = (double)right / d.images;
    bool good = accuracy >= DIGITS_ACCURACY_MIN && digits_save_weights(&d, argv[2]);
    if (accuracy < DIGITS_ACCURACY_MIN)
        fprintf(stderr, "digits-train: accuracy %.4f is below %.2f\n", accuracy, DIGITS_ACCURACY_MIN);
    else
        printf("digits-train: %u images, five-fold accuracy %.4f\n", d.images, accuracy);
    digits_free(&d);
    return good ? 0 : 1;
}
