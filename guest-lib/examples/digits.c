/* SPDX-License-Identifier: Apache-2.0 */
#include "guest-lib/examples/digits.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WEIGHTS_MAGIC "VGPUDIG1"

struct weights_header {
    char magic[8];
    uint32_t images, folds, in, hidden, out, data_check;
};

/* ---- Files ---- */

/* FILE in the program's own directory: so it is in a build tree and in a bundle that was unpacked anywhere. */
static const char *beside_program(char path[PATH_MAX], const char *file)
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 64);

    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return NULL;
    snprintf(slash + 1, 64, "%s", file);
    return access(path, R_OK) == 0 ? path : NULL;
}

static const char *choose_path(const char *argument, const char *beside, const char *const *candidates)
{
    if (argument || beside)
        return argument ? argument : beside;
    for (; *candidates; candidates++)
        if (access(*candidates, R_OK) == 0)
            return *candidates;
    return NULL;
}

const char *digits_data_path(const char *argument)
{
    static const char *const candidates[] = {VGPU_DIGITS_SOURCE_DIR "/digits.csv", VGPU_DIGITS_DATA_DIR "/digits.csv",
                                             NULL};
    static char here[PATH_MAX];

    return choose_path(argument, beside_program(here, "digits.csv"), candidates);
}

const char *digits_weights_path(const char *argument)
{
    static const char *const candidates[] = {VGPU_DIGITS_BUILD_DIR "/digits-weights.bin",
                                             VGPU_DIGITS_DATA_DIR "/digits-weights.bin", NULL};
    static char here[PATH_MAX];

    return choose_path(argument, beside_program(here, "digits-weights.bin"), candidates);
}

static bool parse_line(char *line, float *x, uint8_t *label)
{
    for (unsigned i = 0; i <= DIGITS_PIXELS; i++) {
        char *end;
        unsigned long value = strtoul(line, &end, 10);
        unsigned long max = i < DIGITS_PIXELS ? 16 : DIGITS_OUT - 1;
        if (end == line || value > max || *end != (i < DIGITS_PIXELS ? ',' : '\n'))
            return false;
        if (i < DIGITS_PIXELS)
            x[i] = (float)value / 16.0f;
        else
            *label = (uint8_t)value;
        line = end + 1;
    }
    x[DIGITS_PIXELS] = 1.0f;
    return true;
}

bool digits_load_data(struct digits *d, const char *path)
{
    char line[512];
    FILE *f = path ? fopen(path, "r") : NULL;

    memset(d, 0, sizeof(*d));
    if (!f) {
        fprintf(stderr, "cannot open the digits data%s%s; name it with --data FILE\n", path ? " " : "",
                path ? path : "");
        return false;
    }
    d->x = calloc(DIGITS_IMAGES_MAX, sizeof(*d->x));
    d->label = calloc(DIGITS_IMAGES_MAX, 1);
    d->fold = calloc(DIGITS_IMAGES_MAX, 1);
    d->reference = calloc(DIGITS_IMAGES_MAX, 1);
    d->net = calloc(DIGITS_FOLDS, sizeof(*d->net));
    bool good = d->x && d->label && d->fold && d->reference && d->net;
    while (good && fgets(line, sizeof(line), f)) {
        good = d->images < DIGITS_IMAGES_MAX && parse_line(line, d->x[d->images], &d->label[d->images]);
        d->images++;
    }
    fclose(f);
    if (!good || d->images == 0)
        fprintf(stderr, "%s:%u: not 64 pixels from 0 to 16 and a digit\n", path, d->images);
    return good && d->images > 0;
}

void digits_free(struct digits *d)
{
    free(d->x);
    free(d->label);
    free(d->fold);
    free(d->reference);
    free(d->net);
    memset(d, 0, sizeof(*d));
}

/* FNV-1a over what the networks were trained on. */
static uint32_t data_check(const struct digits *d)
{
    uint32_t h = 2166136261u;

    for (uint32_t i = 0; i < d->images; i++) {
        for (unsigned p = 0; p < DIGITS_PIXELS; p++)
            h = (h ^ (uint32_t)(d->x[i][p] * 16.0f)) * 16777619u;
        h = (h ^ d->label[i]) * 16777619u;
    }
    return h;
}

static struct weights_header header_for(const struct digits *d)
{
    struct weights_header h = {.images = d->images, .folds = DIGITS_FOLDS, .in = DIGITS_IN, .hidden = DIGITS_HIDDEN,
                               .out = DIGITS_OUT, .data_check = data_check(d)};

    memcpy(h.magic, WEIGHTS_MAGIC, sizeof(h.magic));
    return h;
}

bool digits_save_weights(const struct digits *d, const char *path)
{
    struct weights_header h = header_for(d);
    FILE *f = fopen(path, "wb");
    bool good = f && fwrite(&h, sizeof(h), 1, f) == 1 && fwrite(d->fold, d->images, 1, f) == 1 &&
                fwrite(d->net, sizeof(*d->net), DIGITS_FOLDS, f) == DIGITS_FOLDS;

    if (f && fclose(f) != 0)
        good = false;
    if (!good)
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
    return good;
}

bool digits_load_weights(struct digits *d, const char *path)
{
    struct weights_header want = header_for(d), got;
    FILE *f = path ? fopen(path, "rb") : NULL;

    if (!f) {
        fprintf(stderr, "cannot open the networks%s%s; name them with --weights FILE\n", path ? " " : "",
                path ? path : "");
        return false;
    }
    bool good = fread(&got, sizeof(got), 1, f) == 1 && memcmp(&got, &want, sizeof(got)) == 0 &&
                fread(d->fold, d->images, 1, f) == 1 &&
                fread(d->net, sizeof(*d->net), DIGITS_FOLDS, f) == DIGITS_FOLDS && fgetc(f) == EOF;
    fclose(f);
    for (uint32_t i = 0; good && i < d->images; i++)
        good = d->fold[i] < DIGITS_FOLDS;
    if (!good) {
        fprintf(stderr, "%s: not networks that were trained on this data; make them again with digits-train\n", path);
        return false;
    }
    for (uint32_t i = 0; i < d->images; i++)
        d->reference[i] = (uint8_t)digits_classify(&d->net[d->fold[i]], d->x[i]);
    return true;
}

/* ---- On the CPU ---- */

unsigned digits_classify(const struct digits_net *net, const float *x)
{
    double hidden[DIGITS_HIDDEN] = {0}, out[DIGITS_OUT] = {0};
    unsigned best = 0;

    for (unsigned i = 0; i < DIGITS_IN; i++)
        for (unsigned h = 0; h < DIGITS_HIDDEN; h++)
            hidden[h] += (double)x[i] * (double)net->w1[i * DIGITS_HIDDEN + h];
    for (unsigned h = 0; h < DIGITS_HIDDEN; h++)
        for (unsigned o = 0; hidden[h] > 0 && o < DIGITS_OUT; o++)
            out[o] += hidden[h] * (double)net->w2[h * DIGITS_OUT + o];
    for (unsigned o = 1; o < DIGITS_OUT; o++)
        if (out[o] > out[best])
            best = o;
    return best;
}
