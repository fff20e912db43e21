/* SPDX-License-Identifier: Apache-2.0 */
/* vgpu-ctl trace: switches tracing of a VM, and shows what was recorded: as a waterfall, as JSON, as a file for a viewer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "ctl/ask.h"
#include "ctl/local.h"
#include "ctl/table.h"
#include "rings/opcode.h"
#include "trace/trace.h"

#define NS_HZ UINT64_C(1000000000)
/* Times of a dump are nanoseconds from an origin on; lives want them above 0. */
#define BASE_NS (UINT64_C(1) << 50)

static uint8_t opcode_of(const char *name)
{
    for (uint32_t i = 0; name && i < 256; i++) {
        const struct vgpu_opcode_info *info = vgpu_opcode_info((uint8_t)i);
        if (info && !strcmp(info->name, name))
            return (uint8_t)i;
    }
    return UINT8_MAX;
}

static uint16_t status_of(const char *name)
{
    for (uint16_t i = 0; name && i < VGPU_STATUS_COUNT; i++)
        if (!strcmp(vgpu_status_name(i), name))
            return i;
    return UINT16_MAX;
}

static void life_read(const json_t *record, uint32_t vm_id, struct vgpu_trace_life *l)
{
    const char *device = json_string_value(json_object_get(record, "device"));
    const char *position = json_string_value(json_object_get(record, "position"));
    const json_t *opcode = json_object_get(record, "opcode");

    *l = (struct vgpu_trace_life){
        .vm_id = vm_id,
        .position = position ? strtoull(position, NULL, 10) : 0,
        .opcode = json_is_string(opcode) ? opcode_of(json_string_value(opcode)) : (uint8_t)json_integer_value(opcode),
        .status = status_of(json_string_value(json_object_get(record, "status"))),
        .device = !device                    ? VGPU_TRACE_DEVICE_NONE
                  : !strcmp(device, "exact") ? VGPU_TRACE_DEVICE_EXACT
                                             : VGPU_TRACE_DEVICE_MAPPED,
        .poll_core = (uint32_t)json_integer_value(json_object_get(record, "poll_core"))};
    for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++) {
        const json_t *at = json_array_get(json_object_get(record, "at_ns"), h);
        if (json_is_integer(at))
            l->at[h] = (uint64_t)(json_integer_value(at) + (json_int_t)BASE_NS);
    }
}

struct shown {
    struct vgpu_trace_life *lives;
    size_t count;
    struct vgpu_trace_guest guest;
    struct vgpu_waterfall fall;
    bool have_fall;
};

/* The guest's hops are ticks; the dump says which tick its origin is. */
static int guest_read(const char *path, const json_t *result, struct shown *s, struct vgpu_err *err)
{
    const json_t *clock = json_object_get(result, "clock");
    const char *origin = json_string_value(json_object_get(clock, "origin_ticks"));
    uint64_t hz = (uint64_t)json_integer_value(json_object_get(clock, "hz"));
    uint64_t origin_ticks = origin ? strtoull(origin, NULL, 10) : 0;

    if (hz == 0 || !origin)
        return vgpu_err_set(err, EPROTO, "the daemon does not say what its clock is");
    /* Lives in ticks, as the file is; then back. */
    for (size_t i = 0; i < s->count; i++)
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            if (s->lives[i].at[h])
                s->lives[i].at[h] = origin_ticks + (uint64_t)((__int128)(int64_t)(s->lives[i].at[h] - BASE_NS) *
                                                             (int64_t)hz / (int64_t)NS_HZ);
    int rc = vgpu_trace_guest_read(path, s->lives, s->count, &s->guest, err);
    for (size_t i = 0; i < s->count; i++)
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            if (s->lives[i].at[h])
                s->lives[i].at[h] = BASE_NS + (uint64_t)((__int128)(int64_t)(s->lives[i].at[h] - origin_ticks) *
                                                        (int64_t)NS_HZ / (int64_t)hz);
    return rc;
}

static int chrome_write(const char *path, const json_t *result, const struct shown *s, struct vgpu_err *err)
{
    const char *given = json_string_value(json_object_get(result, "backend"));
    char backend[64];
    FILE *f = fopen(path, "we");

    if (!f)
        return vgpu_err_set(err, errno, "cannot write %s: %s", path, strerror(errno));
    vgpu_ctl_clean(given ? given : "", backend, sizeof(backend));
    for (char *c = backend; *c; c++)
        *c = *c == '"' || *c == '\\' ? '?' : *c;
    int rc = vgpu_trace_chrome(f, s->lives, s->count, NS_HZ, backend[0] ? backend : NULL);
    if (fclose(f) || rc)
        return vgpu_err_set(err, rc ? -rc : errno, "cannot write all of %s", path);
    return 0;
}

/* ---- as JSON: the dump itself, with what was worked out here ---- */

static json_t *fall_json(const struct vgpu_waterfall *w)
{
    json_t *rows = json_array();

    for (uint32_t i = 0; i < VGPU_WATERFALL_ROWS; i++) {
        const struct vgpu_waterfall_row *row = &w->row[i];
        json_t *spans = json_object();
        for (uint32_t h = 0; h < VGPU_HOP_COUNT; h++)
            if ((w->hops >> h & 1) && h != (uint32_t)__builtin_ctz(w->hops))
                json_object_set_new(spans, vgpu_hop_names[h], json_real(row->span_ns[h]));
        if (row->lives)
            json_array_append_new(rows, json_pack("{s:s, s:i, s:f, s:o}", "percentile", vgpu_waterfall_name(i), "lives",
                                                  (int)row->lives, "total_ns", row->total_ns, "until_ns", spans));
        else
            json_decref(spans);
    }
    return json_pack("{s:I, s:I, s:o}", "lives", (json_int_t)w->lives, "left_out", (json_int_t)w->left_out, "rows", rows);
}

static void print_json(struct vgpu_ctl_local *local, json_t *result, const struct shown *s)
{
    json_object_set_new(result, "waterfall", s->have_fall ? fall_json(&s->fall) : json_null());
    json_object_set_new(result, "guest",
                        json_object_get(local->line->args, "guest")
                            ? json_pack("{s:I, s:I, s:I}", "records", (json_int_t)s->guest.records, "used",
                                        (json_int_t)s->guest.used, "contradict", (json_int_t)s->guest.contradict)
                            : json_null());
    size_t i;
    json_t *record;
    json_array_foreach(json_object_get(result, "records"), i, record) /* the guest's two hops */
    {
        json_t *at = json_object_get(record, "at_ns");
        static const enum vgpu_hop hops[] = {VGPU_HOP_PUBLISHED, VGPU_HOP_GUEST_SEEN};
        for (uint32_t k = 0; k < 2 && i < s->count; k++)
            if (s->lives[i].at[hops[k]])
                json_array_set_new(at, hops[k], json_integer((json_int_t)(s->lives[i].at[hops[k]] - BASE_NS)));
    }
    vgpu_ctl_emit(local, result);
}

/* ---- for people ---- */

static unsigned bar_columns(FILE *out)
{
    struct winsize size;

    return isatty(fileno(out)) == 1 && ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 100 ? size.ws_col - 62u
                                                                                                      : 40;
}

static void print_text(struct vgpu_ctl_local *local, const json_t *result, const struct shown *s)
{
    FILE *out = local->out;
    const json_t *error = json_object_get(result, "device_error_ns");
    json_int_t sample = json_integer_value(json_object_get(result, "sample"));

    fprintf(out, "VM %lld: tracing is %s", (long long)json_integer_value(json_object_get(result, "vm_id")),
            json_is_true(json_object_get(result, "tracing")) ? "on" : "off");
    if (sample > 1)
        fprintf(out, " (one of %lld descriptors)", (long long)sample);
    fprintf(out, "; %zu records here, %lld recorded since it was switched on, %lld of them written over\n", s->count,
            (long long)json_integer_value(json_object_get(result, "traced")),
            (long long)json_integer_value(json_object_get(result, "lost")));
    if (!json_is_true(json_object_get(json_object_get(result, "clock"), "invariant")))
        fprintf(out, "This processor does not promise one rate of its clock on all cores: spans between cores may be off.\n");
    if (json_is_integer(error))
        fprintf(out, "Times of the device are mapped from its own clock, within %lld ns.\n",
                (long long)json_integer_value(error));
    if (s->guest.records || s->guest.used)
        fprintf(out, "Of the guest's %llu records %llu belong to these; %llu contradict the host's times and are left out.\n",
                (unsigned long long)s->guest.records, (unsigned long long)s->guest.used,
                (unsigned long long)s->guest.contradict);
    fputc('\n', out);
    if (s->have_fall)
        vgpu_waterfall_print(out, &s->fall, bar_columns(out));
    else
        fprintf(out, "No descriptor has come all the way yet.\n");
}

static int show(struct vgpu_ctl_local *local, json_t *result, struct vgpu_err *err)
{
    const char *guest = json_string_value(json_object_get(local->line->args, "guest"));
    const char *chrome = json_string_value(json_object_get(local->line->args, "chrome"));
    const json_t *records = json_object_get(result, "records");
    uint32_t vm_id = (uint32_t)json_integer_value(json_object_get(result, "vm_id"));
    struct shown s = {.count = json_array_size(records)};
    int rc = 0;

    s.lives = calloc(s.count ? s.count : 1, sizeof(*s.lives));
    if (!s.lives)
        return vgpu_err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s.count; i++)
        life_read(json_array_get(records, i), vm_id, &s.lives[i]);
    if (guest)
        rc = guest_read(guest, result, &s, err);
    if (!rc && chrome)
        rc = chrome_write(chrome, result, &s, err);
    s.have_fall = !rc && vgpu_waterfall(s.lives, s.count, NS_HZ, &s.fall) == 0;
    if (!rc && local->line->json)
        print_json(local, result, &s);
    else if (!rc)
        print_text(local, result, &s);
    free(s.lives);
    return rc;
}

/* What only makes sense with another word. */
static int words_check(const char *word, const json_t *args, struct vgpu_err *err)
{
    static const struct {
        const char *argument, *word;
    } only[] = {{"sample", "on"}, {"limit", "dump"}, {"guest", "dump"}, {"chrome", "dump"}};

    for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); i++)
        if (json_object_get(args, only[i].argument) && strcmp(word, only[i].word))
            return vgpu_err_set(err, EINVAL, "trace %s takes no --%s; that is for vgpu-ctl trace %s", word, only[i].argument,
                                only[i].word);
    json_int_t sample = json_integer_value(json_object_get(args, "sample"));
    if (sample & (sample - 1))
        return vgpu_err_set(err, EINVAL, "--sample: %lld is no power of two; expected 1, 2, 4, ... %u", (long long)sample,
                            VGPU_TRACE_SAMPLE_MAX);
    return 0;
}

int vgpu_ctl_trace(struct vgpu_ctl_local *local, int argc, char **argv)
{
    const json_t *args = local->line->args;
    const char *word = argc > 1 ? argv[1] : "dump";
    struct vgpu_err err = {0};
    json_t *result = NULL;
    int code = VGPU_CTL_OK;

    if (words_check(word, args, &err))
        return vgpu_ctl_complain(local, &err, VGPU_CTL_USAGE);
    json_t *request = json_pack("{s:O, s:s}", "vm_id", json_object_get(args, "vm_id"), "action", word);
    if (json_object_get(args, "sample"))
        json_object_set(request, "sample", json_object_get(args, "sample"));
    if (json_object_get(args, "limit"))
        json_object_set(request, "limit", json_object_get(args, "limit"));
    int rc = vgpu_ctl_ask(local->line, "trace", request, &result, &code, &err);
    json_decref(request);
    if (rc)
        return vgpu_ctl_complain(local, &err, code);
    if (!strcmp(word, "dump")) {
        if (show(local, result, &err))
            code = vgpu_ctl_complain(local, &err, VGPU_CTL_REFUSED);
    } else if (local->line->json) {
        vgpu_ctl_emit(local, result);
    } else if (json_is_true(json_object_get(result, "tracing"))) {
        fprintf(local->out, "VM %lld: tracing is on, one of %lld descriptors\n",
                (long long)json_integer_value(json_object_get(result, "vm_id")),
                (long long)json_integer_value(json_object_get(result, "sample")));
    } else {
        fprintf(local->out, "VM %lld: tracing is off\n", (long long)json_integer_value(json_object_get(result, "vm_id")));
    }
    json_decref(result);
    return code;
}
