/* SPDX-License-Identifier: Apache-2.0 */
/* Values of options: from the text on the command line to the JSON of the request. */
#include "ctl/args_int.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/suggest.h"
#include "rings/abi/vgpu_abi.h"
#include "store/store.h"

#define VALUE_MAX 255u

const char *vgpu_ctl_placeholder(const struct vgpu_ctl_option *o)
{
    static const char *const placeholders[] = {
        [VGPU_CTL_IDS] = "N|N-M|N,M",     [VGPU_CTL_ID] = "N",
        [VGPU_CTL_NAME] = "NAME",         [VGPU_CTL_COUNT] = "N",
        [VGPU_CTL_SIZE] = "BYTES[K|M|G]", [VGPU_CTL_USER] = "N|NAME",
        [VGPU_CTL_TEXT] = "TEXT",         [VGPU_CTL_PATH] = "FILE",
        [VGPU_CTL_UUID] = "UUID",         [VGPU_CTL_SINCE] = "AGO|TIME",
        [VGPU_CTL_FLAG] = NULL,
    };
    if (o->choices && o->type != VGPU_CTL_WORD)
        return o->type == VGPU_CTL_COUNT ? "N|default" : "BYTES[K|M|G]|default";
    return o->type == VGPU_CTL_WORD ? o->choices : placeholders[o->type];
}

const char *vgpu_ctl_shown(const char *text)
{
    static char buffers[4][64];
    static unsigned turn;
    char *out = buffers[turn++ % 4];
    size_t n = 0;

    out[n++] = '\'';
    for (; *text && n < 50; text++)
        out[n++] = (unsigned char)*text >= 0x20 && *text != 0x7f ? *text : '?';
    snprintf(out + n, 8, "%s'", *text ? "..." : "");
    return out;
}

/* Decimal digits of a length; false when it is none or above max. */
static bool parse_number(const char *text, size_t n, uint64_t max, uint64_t *out)
{
    uint64_t v = 0;

    if (!n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(text[i] - '0');
        if (v > max) /* max is far below the wrap */
            return false;
    }
    *out = v;
    return true;
}

static int parse_size(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    size_t n = strlen(text);
    char last = text[n - 1]; /* not empty, the caller checked */
    unsigned shift = last == 'K' ? 10 : last == 'M' ? 20 : last == 'G' ? 30 : 0;
    uint64_t v;

    if (!parse_number(text, n - (shift > 0), o->max >> shift, &v) || v << shift < o->min)
        return vgpu_err_set(err, EINVAL,
                            "--%s: %s is no size that fits; expected %" PRIu64 " to 1024G, such as 64M%s%s", o->name,
                            vgpu_ctl_shown(text), o->min, o->choices ? ", or " : "", o->choices ? o->choices : "");
    *out = json_integer((json_int_t)(v << shift));
    return 0;
}

static int add_range(const struct vgpu_ctl_option *o, const char *text, const char *part, size_t n, uint8_t *seen,
                     json_t *list, struct vgpu_err *err)
{
    const char *dash = memchr(part, '-', n);
    size_t first_n = dash ? (size_t)(dash - part) : n;
    uint64_t first, last;

    if (!parse_number(part, first_n, o->max, &first) ||
        !(dash ? parse_number(dash + 1, n - first_n - 1, o->max, &last) : ((last = first), true)) || first < o->min)
        return vgpu_err_set(err, EINVAL,
                            "--%s: %s is no list of VM ids; expected ids from 1 to %" PRIu64 " such as 3, 1-7 or 1-3,9",
                            o->name, vgpu_ctl_shown(text), o->max);
    if (last < first)
        return vgpu_err_set(err, EINVAL, "--%s: %s: the range %" PRIu64 "-%" PRIu64 " runs backwards", o->name,
                            vgpu_ctl_shown(text), first, last);
    for (uint64_t id = first; id <= last; id++) {
        if (seen[id / 8] & (1u << (id % 8)))
            return vgpu_err_set(err, EINVAL, "--%s: %s names VM %" PRIu64 " twice", o->name, vgpu_ctl_shown(text), id);
        seen[id / 8] |= (uint8_t)(1u << (id % 8));
        json_array_append_new(list, json_integer((json_int_t)id));
    }
    return 0;
}

static int parse_ids(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    uint8_t seen[(VGPU_VM_ID_MAX + 8) / 8] = {0};
    json_t *list = json_array();
    int rc = 0;

    for (const char *part = text; part && !rc;) {
        const char *comma = strchr(part, ',');
        rc = add_range(o, text, part, comma ? (size_t)(comma - part) : strlen(part), seen, list, err);
        part = comma ? comma + 1 : NULL;
    }
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}

bool vgpu_ctl_choice(const char *choices, const char *text, const char **best)
{
    static char nearest[VGPU_SUGGEST_CHARS + 1];
    unsigned distance = ~0u;

    *best = NULL;
    for (const char *p = choices; *p;) {
        char word[VGPU_SUGGEST_CHARS + 1];
        const char *near = NULL;
        size_t n = strcspn(p, "|");
        snprintf(word, sizeof(word), "%.*s", (int)n, p);
        if (!strcmp(text, word))
            return true;
        vgpu_suggest_consider(text, word, &near, &distance);
        if (near)
            *best = strcpy(nearest, near);
        p += n + (p[n] == '|');
    }
    return false;
}

/* "high, medium or low" from "high|medium|low". */
static void choices_text(const char *choices, char *out, size_t bytes)
{
    size_t n = 0;

    for (const char *p = choices; *p && n + 1 < bytes;) {
        size_t length = strcspn(p, "|");
        bool last = !p[length];
        n += (size_t)snprintf(out + n, bytes - n, "%s%.*s", p == choices ? "" : last ? " or " : ", ", (int)length, p);
        p += length + !last;
    }
}

static int parse_word(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    const char *best;
    char expected[160] = "";

    if (vgpu_ctl_choice(o->choices, text, &best)) {
        *out = json_string(text);
        return 0;
    }
    choices_text(o->choices, expected, sizeof(expected));
    return vgpu_err_set(err, EINVAL, "--%s: %s is no %s; expected %s%s%s%s", o->name, vgpu_ctl_shown(text), o->name,
                        expected, best ? "; did you mean " : "", best ? best : "", best ? "?" : "");
}

static int parse_user(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    uint64_t uid;

    if (!parse_number(text, strlen(text), o->max, &uid)) {
        bool digits = text[strspn(text, "0123456789")] == 0;
        const struct passwd *pw = digits ? NULL : getpwnam(text);
        if (!pw)
            return vgpu_err_set(err, EINVAL,
                                "--%s: there is no user %s; expected a user's name or a uid from 0 to %" PRIu64,
                                o->name, vgpu_ctl_shown(text), o->max);
        uid = pw->pw_uid;
    }
    *out = json_integer((json_int_t)uid);
    return 0;
}

static int parse_name(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    size_t n = strlen(text);

    if (n >= VGPU_NAME_BYTES || strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != n)
        return vgpu_err_set(err, EINVAL, "--%s: %s is not a name; expected 1 to %u of letters, digits, '.', '_', '-'",
                            o->name, vgpu_ctl_shown(text), VGPU_NAME_BYTES - 1);
    *out = json_string(text);
    return 0;
}

/* Kept in lower case: xenstore, libvirt and people write both. */
static int parse_uuid(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    char uuid[sizeof(form)];
    size_t i = 0;

    for (; text[i] && i < sizeof(form) - 1; i++) {
        bool good = form[i] == '-' ? text[i] == '-' : isxdigit((unsigned char)text[i]) != 0;
        if (!good)
            break;
        uuid[i] = (char)tolower((unsigned char)text[i]);
    }
    if (text[i] || i != sizeof(form) - 1)
        return vgpu_err_set(err, EINVAL, "--%s: %s is no UUID; expected hexadecimal digits as in %s", o->name,
                            vgpu_ctl_shown(text), "01234567-89ab-cdef-0123-456789abcdef");
    uuid[i] = 0;
    *out = json_string(uuid);
    return 0;
}

static int parse_text(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    size_t n = strlen(text);

    if (o->max && n > o->max)
        return vgpu_err_set(err, EINVAL, "--%s: the text has %zu bytes; expected at most %" PRIu64, o->name, n, o->max);
    *out = json_string(text);
    return *out ? 0 : vgpu_err_set(err, EINVAL, "--%s: %s is not UTF-8", o->name, vgpu_ctl_shown(text));
}

static int parse_since(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    static const char units[] = "smhd";
    static const uint64_t unit_s[] = {1, 60, 3600, 86400};
    static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"};
    size_t n = strlen(text);
    const char *unit = strchr(units, text[n - 1]);
    int64_t now_s = (int64_t)time(NULL);
    uint64_t count;

    if (unit && parse_number(text, n - 1, 1000000, &count)) {
        int64_t since_s = now_s - (int64_t)(count * unit_s[unit - units]);
        *out = json_integer((since_s > 0 ? since_s : 0) * 1000000);
        return 0;
    }
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        struct tm tm = {0};
        const char *end = strptime(text, forms[i], &tm);
        int64_t since_s = end && !*end ? (int64_t)timegm(&tm) : -1;
        if (since_s >= 0) {
            *out = json_integer(since_s * 1000000);
            return 0;
        }
    }
    return vgpu_err_set(err, EINVAL,
                        "--%s: %s is no time; expected 90s, 30m, 2h or 7d ago, or 2026-01-31T12:00:00 of UTC", o->name,
                        vgpu_ctl_shown(text));
}

int vgpu_ctl_value(const struct vgpu_ctl_option *o, const char *text, json_t **out, struct vgpu_err *err)
{
    size_t n = strlen(text), most = o->type == VGPU_CTL_PATH ? PATH_MAX - 1 : VALUE_MAX;
    const char *best;
    uint64_t v;

    if (!n)
        return vgpu_err_set(err, EINVAL, "--%s: has no value; expected --%s=%s", o->name, o->name,
                            vgpu_ctl_placeholder(o));
    if (n > most)
        return vgpu_err_set(err, EINVAL, "--%s: the value has %zu bytes; expected at most %zu", o->name, n, most);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return vgpu_err_set(err, EINVAL, "--%s: %s holds a control character", o->name, vgpu_ctl_shown(text));
    if (o->type != VGPU_CTL_WORD && o->choices && vgpu_ctl_choice(o->choices, text, &best)) {
        *out = json_string(text);
        return 0;
    }
    switch (o->type) {
    case VGPU_CTL_IDS:
        return parse_ids(o, text, out, err);
    case VGPU_CTL_ID:
    case VGPU_CTL_COUNT:
        if (!parse_number(text, n, o->max, &v) || v < o->min)
            return vgpu_err_set(
                err, EINVAL, "--%s: %s is out of range; expected a whole number from %" PRIu64 " to %" PRIu64 "%s%s",
                o->name, vgpu_ctl_shown(text), o->min, o->max, o->choices ? ", or " : "", o->choices ? o->choices : "");
        *out = json_integer((json_int_t)v);
        return 0;
    case VGPU_CTL_NAME:
        return parse_name(o, text, out, err);
    case VGPU_CTL_WORD:
        return parse_word(o, text, out, err);
    case VGPU_CTL_SIZE:
        return parse_size(o, text, out, err);
    case VGPU_CTL_USER:
        return parse_user(o, text, out, err);
    case VGPU_CTL_UUID:
        return parse_uuid(o, text, out, err);
    case VGPU_CTL_TEXT:
    case VGPU_CTL_PATH:
        return parse_text(o, text, out, err);
    case VGPU_CTL_SINCE:
        return parse_since(o, text, out, err);
    case VGPU_CTL_FLAG:
        break;
    }
    return vgpu_err_set(err, EINVAL, "--%s: of no known type", o->name);
}
