/* SPDX-License-Identifier: Apache-2.0 */
/* State, options, injected faults and counters of the fake driver. */
#include "tests/fake-cuda/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RULES_MAX 64u
#define ATTRS_MAX 16u

struct fake_state fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .progress = PTHREAD_COND_INITIALIZER};

struct rule {
    enum fake_id id;
    uint64_t base, first, last; /* calls base + first .. base + last */
    uint64_t slow_ns;           /* not 0: slow, else fail */
    int code;
};

static const char *const names[FAKE_IDS] = {
#define NAME_OF_CALL(member, function) [FAKE_##member] = #function,
#define NAME_OF_BLAS(member, function) [FAKE_BLAS_##member] = #function,
#define NAME_OF_NAME(name)             [FAKE_##name] = #name,
    VGPU_CUDA_DRIVER_CALLS(NAME_OF_CALL) VGPU_CUDA_GREEN_CALLS(NAME_OF_CALL) VGPU_CUBLAS_CALLS(NAME_OF_BLAS)
        FAKE_NVML_CALLS(NAME_OF_NAME) FAKE_WORK(NAME_OF_NAME)};

static struct rule rules[RULES_MAX];
static unsigned rule_count; /* atomic: a rule is written before it is counted */
static struct {
    int attribute, value;
} attrs[ATTRS_MAX];
static unsigned attr_count;
static char report_path[256];
static pthread_once_t loaded = PTHREAD_ONCE_INIT;

/* One of each thread that called; they stay, so that a thread that has ended can still be asked about. */
struct thread {
    struct thread *next;
    int tid;
    char name[16];
    uint64_t calls; /* atomic */
    CUcontext context;
    bool callback;
};
static struct thread *threads; /* under fake.lock */
/* Not _Thread_local: LeakSanitizer does not survive that in a library opened by dlopen() with threads left at exit. */
static pthread_key_t self;

static struct thread *self_get(void)
{
    fake_config_load();
    struct thread *t = pthread_getspecific(self);
    if (t)
        return t;
    t = calloc(1, sizeof(*t));
    if (!t || pthread_setspecific(self, t))
        abort();
    t->tid = gettid();
    pthread_getname_np(pthread_self(), t->name, sizeof(t->name));
    pthread_mutex_lock(&fake.lock);
    t->next = threads;
    threads = t;
    pthread_mutex_unlock(&fake.lock);
    return t;
}

CUcontext fake_current(void)
{
    return self_get()->context;
}

void fake_current_set(CUcontext context)
{
    self_get()->context = context;
}

void fake_callback_enter(bool inside)
{
    self_get()->callback = inside;
}

uint64_t fake_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void fake_sleep_ns(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};

    while (nanosleep(&ts, &ts) && errno == EINTR)
        ;
}

bool fake_broken(void)
{
    return vgpu_load_acquire(&fake.sticky) != 0;
}

void fake_break(int code, const char *fmt, ...)
{
    int none = 0;

    if (!__atomic_compare_exchange_n(&fake.sticky, &none, code, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return; /* the first error is the one that is reported */
    va_list ap;
    char text[256];
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fprintf(stderr, "fake-cuda: the device is broken (%d): %s\n", code, text);
    pthread_mutex_lock(&fake.lock);
    pthread_cond_broadcast(&fake.progress);
    pthread_mutex_unlock(&fake.lock);
}

/* Counts one more of id and applies the rules: 0 or the code that a rule gives it. */
static int rules_apply(enum fake_id id)
{
    uint64_t nth = vgpu_add_relaxed(&fake.calls[id], 1) + 1;
    unsigned count = vgpu_load_acquire(&rule_count);
    int code = 0;

    for (unsigned i = 0; i < count; i++) {
        const struct rule *r = &rules[i];
        if (r->id != id || nth < r->base + r->first || nth - r->base > r->last)
            continue;
        if (r->slow_ns)
            fake_sleep_ns(r->slow_ns);
        else if (!code)
            code = r->code;
    }
    return code;
}

int fake_enter(enum fake_id id, unsigned needs)
{
    fake_config_load();
    struct thread *t = self_get();
    vgpu_count(&t->calls, 1);
    int code = rules_apply(id);

    if (code)
        return code;
    if (t->callback)
        return CUDA_ERROR_NOT_PERMITTED;
    if (needs && !vgpu_load_acquire(&fake.initialised))
        return CUDA_ERROR_NOT_INITIALIZED;
    if (needs == FAKE_CTX) {
        if (!t->context)
            return CUDA_ERROR_INVALID_CONTEXT;
        return vgpu_load_acquire(&fake.sticky);
    }
    return 0;
}

int fake_work_begin(enum fake_id id)
{
    return rules_apply(id);
}

int fake_id_of(const char *name)
{
    for (int i = 0; i < FAKE_IDS; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

bool fake_attribute(int attribute, int *value)
{
    for (unsigned i = 0; i < attr_count; i++)
        if (attrs[i].attribute == attribute) {
            *value = attrs[i].value;
            return true;
        }
    return false;
}

static bool number_parse(const char *text, uint64_t *out)
{
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return *end == '\0' && errno == 0;
}

static bool time_parse(const char *text, uint64_t *ns)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = {{"ns", 1}, {"us", 1000}, {"ms", 1000000}, {"s", 1000000000}};
    char *end;

    if (*text < '0' || *text > '9')
        return false;
    uint64_t value = strtoull(text, &end, 10);
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(end, units[i].unit) == 0) {
            *ns = value * units[i].ns;
            return true;
        }
    return false;
}

/* "3", "3+" or "*" */
static bool nth_parse(char *text, struct rule *r)
{
    size_t length = strlen(text);

    r->first = 1;
    r->last = UINT64_MAX / 2;
    if (strcmp(text, "*") == 0)
        return true;
    bool open = length > 0 && text[length - 1] == '+';
    if (open)
        text[length - 1] = '\0';
    if (!number_parse(text, &r->first) || r->first == 0)
        return false;
    if (!open)
        r->last = r->first;
    return true;
}

/* Under fake.lock. value is "NAME:TIME" (slow) or "NAME:NTH:CODE". */
static bool rule_add(bool slow, char *value)
{
    struct rule r = {.first = 1, .last = UINT64_MAX / 2};
    uint64_t code = 0;
    char *save = NULL, *name = strtok_r(value, ":", &save), *second = strtok_r(NULL, ":", &save);
    char *third = strtok_r(NULL, ":", &save);
    int id = name ? fake_id_of(name) : -1;

    if (id < 0 || !second || rule_count == RULES_MAX)
        return false;
    if (slow ? third || !time_parse(second, &r.slow_ns) || r.slow_ns == 0
             : !third || !nth_parse(second, &r) || !number_parse(third, &code) || code == 0 || code > INT32_MAX)
        return false;
    r.id = (enum fake_id)id;
    r.code = (int)code;
    r.base = vgpu_load_relaxed(&fake.calls[id]); /* relaxed: the caller knows what it has called before */
    rules[rule_count] = r;
    vgpu_store_release(&rule_count, rule_count + 1); /* pairs with rules_apply() */
    return true;
}

static bool pair_parse(char *value, uint64_t *first, uint64_t *second, bool second_is_time)
{
    char *colon = strchr(value, ':');

    if (!colon)
        return false;
    *colon = '\0';
    return number_parse(value, first) &&
           (second_is_time ? time_parse(colon + 1, second) : number_parse(colon + 1, second));
}

/* Under fake.lock. */
static bool option_set(const char *key, char *value)
{
    struct fake_options *o = &fake.options;
    uint64_t n = 0, second = 0;

    if (strcmp(key, "no_driver") == 0 && !value)
        return o->no_driver = true;
    if (!value)
        return false;
    if (strcmp(key, "fail") == 0 || strcmp(key, "slow") == 0)
        return rule_add(key[0] == 's', value);
    if (strcmp(key, "report") == 0) {
        snprintf(report_path, sizeof(report_path), "%s", value);
        return true;
    }
    if (strcmp(key, "xid") == 0)
        return pair_parse(value, &o->xid, &o->xid_after_ns, true);
    if (strcmp(key, "attr") == 0) {
        if (attr_count == ATTRS_MAX || !pair_parse(value, &n, &second, false))
            return false;
        attrs[attr_count].attribute = (int)n;
        attrs[attr_count++].value = (int)second;
        return true;
    }
    if (!number_parse(value, &n))
        return false;
    if (strcmp(key, "devices") == 0)
        o->devices = (int)n;
    else if (strcmp(key, "driver_version") == 0)
        o->driver_version = (int)n;
    else if (strcmp(key, "sms") == 0)
        o->sms = (int)n;
    else if (strcmp(key, "memory") == 0)
        o->memory_bytes = n;
    else if (strcmp(key, "register") == 0)
        o->no_register = n == 0;
    else if (strcmp(key, "green") == 0)
        o->no_green = n == 0;
    else if (strcmp(key, "eager") == 0)
        o->eager = n != 0;
    else
        return false;
    return o->devices <= FAKE_DEVICES_MAX && o->sms > 0;
}

static int list_apply(const char *list)
{
    char *copy = strdup(list ? list : ""), *save = NULL;
    int rc = copy ? 0 : -ENOMEM;

    pthread_mutex_lock(&fake.lock);
    for (char *item = copy ? strtok_r(copy, ",", &save) : NULL; item && rc == 0; item = strtok_r(NULL, ",", &save)) {
        char text[256];
        snprintf(text, sizeof(text), "%s", item);
        char *value = strchr(item, '=');
        if (value)
            *value++ = '\0';
        if (!option_set(item, value)) {
            fprintf(stderr, "fake-cuda: \"%s\" is not an option (tests/fake-cuda/fake.h lists them)\n", text);
            rc = -EINVAL;
        }
    }
    pthread_mutex_unlock(&fake.lock);
    free(copy);
    return rc;
}

static void options_default(void)
{
    pthread_mutex_lock(&fake.lock);
    fake.options =
        (struct fake_options){.devices = 1, .driver_version = 13000, .sms = 132, .memory_bytes = UINT64_C(80) << 30};
    for (int i = 0; i < FAKE_DEVICES_MAX; i++)
        fake.context[i].device = i;
    vgpu_store_release(&rule_count, 0u);
    attr_count = 0;
    report_path[0] = '\0';
    pthread_mutex_unlock(&fake.lock);
    if (list_apply(getenv("VGPU_FAKE_CUDA")) < 0)
        abort();
}

static void load(void)
{
    if (pthread_key_create(&self, NULL))
        abort();
    options_default();
}

void fake_config_load(void)
{
    pthread_once(&loaded, load);
}

int vgpu_fake_configure(const char *list)
{
    fake_config_load();
    return list_apply(list);
}

void vgpu_fake_reset(void)
{
    fake_config_load();
    fake_stream_reset();
    fake_memory_reset();
    fake_kernels_reset();
    fake_nvml_reset();
    vgpu_store_release(&fake.sticky, 0);
    vgpu_store_release(&fake.initialised, 0);
    vgpu_store_relaxed(&fake.gemm_without_workspace, 0u);
    vgpu_store_relaxed(&fake.green_contexts, 0u);
    vgpu_store_relaxed(&fake.blas_handles, 0u);
    for (int i = 0; i < FAKE_IDS; i++) {
        vgpu_store_relaxed(&fake.calls[i], 0u);
        vgpu_store_relaxed(&fake.operations[i], 0u);
    }
    pthread_mutex_lock(&fake.lock);
    for (struct thread *t = threads; t; t = t->next)
        vgpu_store_relaxed(&t->calls, 0u);
    pthread_mutex_unlock(&fake.lock);
    fake_current_set(NULL);
    options_default();
}

/* A name that does not exist is a mistake in the test: it must not read as "no calls". */
static int id_must(const char *name)
{
    int id = fake_id_of(name);

    if (id < 0) {
        fprintf(stderr, "fake-cuda: nothing is called \"%s\"\n", name);
        abort();
    }
    return id;
}

uint64_t vgpu_fake_calls(const char *name)
{
    uint64_t sum = 0;

    if (name)
        return vgpu_load_relaxed(&fake.calls[id_must(name)]);
    for (int i = 0; i < FAKE_WORK_FIRST; i++)
        sum += vgpu_load_relaxed(&fake.calls[i]);
    return sum;
}

uint64_t vgpu_fake_operations(const char *kernel)
{
    return vgpu_load_relaxed(&fake.operations[id_must(kernel)]);
}

unsigned vgpu_fake_running(const char *kernel)
{
    return vgpu_load_acquire(&fake.running[id_must(kernel)]);
}

unsigned vgpu_fake_threads(struct vgpu_fake_thread *out, unsigned max)
{
    unsigned count = 0;

    pthread_mutex_lock(&fake.lock);
    for (struct thread *t = threads; t; t = t->next) {
        uint64_t calls = vgpu_load_relaxed(&t->calls);
        if (calls == 0)
            continue;
        if (count < max) {
            out[count] = (struct vgpu_fake_thread){.tid = t->tid, .calls = calls};
            memcpy(out[count].name, t->name, sizeof(out[count].name));
        }
        count++;
    }
    pthread_mutex_unlock(&fake.lock);
    return count;
}

uint64_t vgpu_fake_calls_by_thread(int tid)
{
    uint64_t calls = 0;

    pthread_mutex_lock(&fake.lock);
    for (struct thread *t = threads; t; t = t->next)
        if (t->tid == tid)
            calls += vgpu_load_relaxed(&t->calls);
    pthread_mutex_unlock(&fake.lock);
    return calls;
}

void vgpu_fake_usage(struct vgpu_fake_usage *out)
{
    memset(out, 0, sizeof(*out));
    fake_memory_usage(out);
    out->streams = fake_stream_count();
    out->green_contexts = vgpu_load_relaxed(&fake.green_contexts);
    out->blas_handles = vgpu_load_relaxed(&fake.blas_handles);
}

bool vgpu_fake_accessible(const void *at, uint64_t bytes)
{
    return fake_memory_ok((uintptr_t)at, bytes);
}

unsigned vgpu_fake_blocked(void)
{
    return vgpu_load_acquire(&fake.blocked);
}

int vgpu_fake_sticky(void)
{
    return vgpu_load_acquire(&fake.sticky);
}

void vgpu_fake_break(int code)
{
    fake_break(code, "by vgpu_fake_break()");
}

void vgpu_fake_xid(uint64_t xid)
{
    fake_nvml_xid(xid);
}

uint64_t vgpu_fake_gemm_without_workspace(void)
{
    return vgpu_load_relaxed(&fake.gemm_without_workspace);
}

/* Lines "PID call NAME COUNT", "PID thread NAME CALLS", "PID memory DEVICE PINNED REGISTERED", "PID sticky CODE". */
__attribute__((destructor)) static void report_write(void)
{
    struct vgpu_fake_thread who[64];
    struct vgpu_fake_usage usage;

    if (!report_path[0])
        return;
    FILE *f = fopen(report_path, "a");
    if (!f) {
        fprintf(stderr, "fake-cuda: cannot write %s: %s\n", report_path, strerror(errno));
        return;
    }
    int pid = getpid();
    for (int i = 0; i < FAKE_IDS; i++)
        if (vgpu_load_relaxed(&fake.calls[i]))
            fprintf(f, "%d call %s %" PRIu64 "\n", pid, names[i], vgpu_load_relaxed(&fake.calls[i]));
    unsigned count = vgpu_fake_threads(who, 64);
    for (unsigned i = 0; i < count && i < 64; i++)
        fprintf(f, "%d thread %s %" PRIu64 "\n", pid, who[i].name, who[i].calls);
    vgpu_fake_usage(&usage);
    fprintf(f, "%d memory %" PRIu64 " %" PRIu64 " %" PRIu64 "\n%d sticky %d\n", pid, usage.device_bytes,
            usage.pinned_bytes, usage.registered_bytes, pid, vgpu_fake_sticky());
    fclose(f);
}
