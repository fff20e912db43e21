/* SPDX-License-Identifier: Apache-2.0 */
/* Takes out of a text what must not leave the host. Rather too much than too little: a report stays useful without. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <netdb.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "ctl/doctor.h"

#define GENERIC_HOST_CHARS 2 /* a name this short says nothing, and stands in every other word */

/* Patterns in order: what an earlier one took, a later one does not see. */
static const struct {
    const char *pattern, *becomes;
    int keep; /* group that stays in front; 0: none */
} rules[] = {
    {"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", "<uuid>", 0},
    {"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", "<hardware-address>", 0},
    {"[0-9a-fA-F]{16,}", "<hex>", 0},
    {"([0-9]{1,3}\\.){3}[0-9]{1,3}", "<address>", 0},
    {"[0-9a-fA-F]{1,4}:([0-9a-fA-F]{0,4}:){3,6}[0-9a-fA-F]{1,4}", "<address>", 0},
    {"((serial|serialnumber|serial_number|serial number|token|secret|password|passwd|api_?key)"
     "([\"']?[ ]*[:=][ ]*[\"']?|[ ]+(is|no\\.?|number)?[ :=]*))[^ \"',}\n]+",
     "<redacted>", 1},
    /* Users' folders. */
    {"/(home|Users)/[^/ \"'\n]+", "/<user>", 0},
};

void vgpu_secrets_read(struct vgpu_secrets *s, const char *token_dir)
{
    DIR *dir = token_dir ? opendir(token_dir) : NULL;

    memset(s, 0, sizeof(*s));
    if (gethostname(s->host, sizeof(s->host) - 1))
        s->host[0] = 0;
    snprintf(s->host_short, sizeof(s->host_short), "%.*s", (int)strcspn(s->host, "."), s->host);
    for (struct dirent *e; dir && (e = readdir(dir)) && s->count < VGPU_SECRETS_MAX;) {
        char *out = s->text[s->count];
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        ssize_t n = fd >= 0 ? read(fd, out, sizeof(s->text[0]) - 1) : -1;
        if (fd >= 0)
            close(fd);
        out[n > 0 ? n : 0] = 0;
        out[strcspn(out, " \t\r\n")] = 0;
        s->count += strlen(out) >= 8;
    }
    if (dir)
        closedir(dir);
}

/* Grows by doubling; false: out of memory, and the text is gone. */
struct text {
    char *at;
    size_t bytes, room;
};
static bool add(struct text *t, const char *more, size_t n)
{
    if (t->bytes + n + 1 > t->room) {
        size_t room = (t->bytes + n + 1) * 2;
        char *at = realloc(t->at, room);
        if (!at)
            return false;
        t->at = at;
        t->room = room;
    }
    memcpy(t->at + t->bytes, more, n);
    t->bytes += n;
    t->at[t->bytes] = 0;
    return true;
}

static bool word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

/* Every occurrence; whole: as a word of its own. Takes text, returns a new one or NULL. */
static char *replace(char *text, const char *what, const char *becomes, bool whole)
{
    struct text out = {0};
    size_t n = strlen(what);
    const char *from = text;

    if (!text || !n)
        return text;
    bool good = add(&out, "", 0);
    for (const char *at = text; good && (at = strcasestr(at, what)); at++) {
        if (whole && ((at > text && word_char(at[-1])) || word_char(at[n])))
            continue;
        good = add(&out, from, (size_t)(at - from)) && add(&out, becomes, strlen(becomes));
        from = at + n;
        at = from - 1;
    }
    good = good && add(&out, from, strlen(from));
    free(text);
    if (good)
        return out.at;
    free(out.at);
    return NULL;
}

static char *apply(char *text, const char *pattern, const char *becomes, int keep)
{
    struct text out = {0};
    regex_t re;
    regmatch_t m[8];
    const char *at = text;

    if (!text || regcomp(&re, pattern, REG_EXTENDED | REG_ICASE))
        return text;
    bool good = add(&out, "", 0);
    while (good && regexec(&re, at, 8, m, at == text ? 0 : REG_NOTBOL) == 0 && m[0].rm_eo > m[0].rm_so) {
        good = add(&out, at, (size_t)m[0].rm_so);
        if (good && keep)
            good = add(&out, at + m[keep].rm_so, (size_t)(m[keep].rm_eo - m[keep].rm_so)) &&
                   add(&out, becomes, strlen(becomes));
        else if (good)
            good = add(&out, becomes, strlen(becomes));
        at += m[0].rm_eo;
    }
    good = good && add(&out, at, strlen(at));
    regfree(&re);
    free(text);
    if (good)
        return out.at;
    free(out.at);
    return NULL;
}

char *vgpu_redact(const struct vgpu_secrets *s, const char *text)
{
    char *out = strdup(text);

    for (uint32_t i = 0; i < s->count; i++)
        out = replace(out, s->text[i], "<token>", false);
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
        out = apply(out, rules[i].pattern, rules[i].becomes, rules[i].keep);
    if (strlen(s->host) > GENERIC_HOST_CHARS)
        out = replace(out, s->host, "<host>", true);
    if (strlen(s->host_short) > GENERIC_HOST_CHARS)
        out = replace(out, s->host_short, "<host>", true);
    return out;
}

/* A key whose value is a secret whatever it looks like. */
static bool secret_key(const char *key)
{
    static const char *const words[] = {"token", "secret", "password", "serial", "uuid"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasecmp(key, words[i]) == 0)
            return true;
    return false;
}

json_t *vgpu_redact_json(const struct vgpu_secrets *s, const json_t *value)
{
    const char *key;
    json_t *item, *out;
    size_t i;

    if (json_is_string(value)) {
        char *text = vgpu_redact(s, json_string_value(value));
        out = text ? json_string(text) : NULL;
        free(text);
        return out ? out : json_string("<redacted>");
    }
    if (json_is_array(value)) {
        out = json_array();
        json_array_foreach((json_t *)value, i, item) json_array_append_new(out, vgpu_redact_json(s, item));
        return out;
    }
    if (!json_is_object(value))
        return json_deep_copy(value);
    out = json_object();
    json_object_foreach((json_t *)value, key, item) json_object_set_new(
        out, key, secret_key(key) && !json_is_null(item) ? json_string("<redacted>") : vgpu_redact_json(s, item));
    return out;
}

char *vgpu_redact_cmdline(const char *cmdline)
{
    static const char judged[] =
        " intel_iommu amd_iommu iommu iommu.passthrough iommu.strict intremap isolcpus nohz_full "
        "rcu_nocbs irqaffinity hugepages hugepagesz default_hugepagesz transparent_hugepage "
        "mitigations nosmt lockdown iomem pci pcie_aspm.policy tsc clocksource processor.max_cstate "
        "intel_idle.max_cstate idle kvm.halt_poll_ns kvm_intel.nested kvm_amd.nested xen_gntdev.limit "
        "vfio_iommu_type1.allow_unsafe_interrupts modprobe.blacklist module.sig_enforce numa_balancing console quiet ";
    struct text out = {0};
    char *copy = strdup(cmdline), *rest = copy, *word;
    bool good = copy && add(&out, "", 0);

    while (good && (word = strsep(&rest, " \n"))) {
        char name[80];
        size_t n = strcspn(word, "=");
        if (!*word)
            continue;
        if (strcmp(word, "--") == 0) { /* behind it are arguments of init, not of the kernel */
            good = add(&out, "-- <arguments of init>", 22);
            break;
        }
        snprintf(name, sizeof(name), " %.*s ", (int)(n < 70 ? n : 70), word);
        bool keep = strstr(judged, name) != NULL;
        good = add(&out, word, keep ? strlen(word) : n) && (keep || !word[n] || add(&out, "=<value>", 8)) &&
               add(&out, " ", 1);
    }
    free(copy);
    if (good)
        return out.at;
    free(out.at);
    return NULL;
}
