/* SPDX-License-Identifier: Apache-2.0 */
/* The part of NVML that the backend uses: events of a device. */
#include "tests/fake-cuda/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NVML_SUCCESS                0
#define NVML_ERROR_UNINITIALIZED    1
#define NVML_ERROR_INVALID_ARGUMENT 2
#define NVML_ERROR_NOT_SUPPORTED    3
#define NVML_ERROR_NOT_FOUND        6
#define XIDS_MAX                    16u

/* Not in a header: the symbols of libnvidia-ml.so.1. */
int nvmlInit_v2(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, vgpu_nvml_device *out);
int nvmlEventSetCreate(vgpu_nvml_event_set *out);
int nvmlDeviceRegisterEvents(vgpu_nvml_device device, unsigned long long types, vgpu_nvml_event_set set);
int nvmlEventSetWait_v2(vgpu_nvml_event_set set, struct vgpu_nvml_event *out, unsigned timeout_ms);
int nvmlEventSetFree(vgpu_nvml_event_set set);

struct vgpu_nvml_device {
    int ordinal;
};
struct vgpu_nvml_event_set {
    struct vgpu_nvml_device *device; /* the last one that registered for Xids */
    uint64_t seen;                   /* events handed out, of all there have been */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t arrived;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool initialised;
static struct vgpu_nvml_device devices[FAKE_DEVICES_MAX];
static uint64_t xids[XIDS_MAX], count; /* xids[i % XIDS_MAX], count of them so far */
static uint64_t planned_at_ns;         /* of the option xid; 0: not planned, or delivered */
static bool planned;

static void cond_init(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&arrived, &attr);
    pthread_condattr_destroy(&attr);
}

static void push(uint64_t xid)
{
    xids[count++ % XIDS_MAX] = xid;
    pthread_cond_broadcast(&arrived);
}

void fake_nvml_xid(uint64_t xid)
{
    pthread_once(&once, cond_init);
    pthread_mutex_lock(&lock);
    push(xid);
    pthread_mutex_unlock(&lock);
}

void fake_nvml_reset(void)
{
    pthread_mutex_lock(&lock);
    initialised = planned = false;
    planned_at_ns = 0;
    count = 0;
    pthread_mutex_unlock(&lock);
}

int nvmlInit_v2(void)
{
    int rc = fake_enter(FAKE_nvmlInit_v2, FAKE_ANY);

    if (rc)
        return rc;
    pthread_once(&once, cond_init);
    pthread_mutex_lock(&lock);
    for (int i = 0; i < FAKE_DEVICES_MAX; i++)
        devices[i].ordinal = i;
    initialised = true;
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

static bool ready(void)
{
    pthread_mutex_lock(&lock);
    bool yes = initialised;
    pthread_mutex_unlock(&lock);
    return yes;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, vgpu_nvml_device *out)
{
    int rc = fake_enter(FAKE_nvmlDeviceGetHandleByPciBusId_v2, FAKE_ANY);
    unsigned domain, bus, device;

    if (rc)
        return rc;
    if (!ready())
        return NVML_ERROR_UNINITIALIZED;
    if (!bus_id || !out || sscanf(bus_id, "%x:%x:%x", &domain, &bus, &device) != 3)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (domain || device || bus == 0 || bus > (unsigned)fake.options.devices)
        return NVML_ERROR_NOT_FOUND;
    *out = &devices[bus - 1];
    return NVML_SUCCESS;
}

int nvmlEventSetCreate(vgpu_nvml_event_set *out)
{
    int rc = fake_enter(FAKE_nvmlEventSetCreate, FAKE_ANY);

    if (rc)
        return rc;
    if (!ready())
        return NVML_ERROR_UNINITIALIZED;
    if (!out)
        return NVML_ERROR_INVALID_ARGUMENT;
    *out = calloc(1, sizeof(**out));
    return *out ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

int nvmlDeviceRegisterEvents(vgpu_nvml_device device, unsigned long long types, vgpu_nvml_event_set set)
{
    int rc = fake_enter(FAKE_nvmlDeviceRegisterEvents, FAKE_ANY);

    if (rc)
        return rc;
    if (!ready())
        return NVML_ERROR_UNINITIALIZED;
    if (!device || !set)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (types != VGPU_NVML_EVENT_XID)
        return NVML_ERROR_NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    set->device = device;
    set->seen = count;
    if (!planned && fake.options.xid) {
        planned = true;
        planned_at_ns = fake_now_ns() + fake.options.xid_after_ns;
    }
    pthread_mutex_unlock(&lock);
    return NVML_SUCCESS;
}

int nvmlEventSetWait_v2(vgpu_nvml_event_set set, struct vgpu_nvml_event *out, unsigned timeout_ms)
{
    int rc = fake_enter(FAKE_nvmlEventSetWait_v2, FAKE_ANY);
    const uint64_t end_ns = fake_now_ns() + (uint64_t)timeout_ms * 1000000u;

    if (rc)
        return rc;
    if (!ready())
        return NVML_ERROR_UNINITIALIZED;
    if (!set || !out)
        return NVML_ERROR_INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    for (;;) {
        uint64_t now = fake_now_ns();
        if (planned_at_ns && now >= planned_at_ns) {
            planned_at_ns = 0;
            push(fake.options.xid);
        }
        if ((set->device && set->seen < count) || now >= end_ns)
            break;
        uint64_t until = planned_at_ns && planned_at_ns < end_ns ? planned_at_ns : end_ns;
        struct timespec ts = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
        pthread_cond_timedwait(&arrived, &lock, &ts);
    }
    rc = VGPU_NVML_TIMEOUT;
    if (set->device && set->seen < count) {
        *out = (struct vgpu_nvml_event){.device = set->device,
                                        .type = VGPU_NVML_EVENT_XID,
                                        .data = xids[set->seen++ % XIDS_MAX],
                                        .gpu_instance = UINT32_MAX,
                                        .compute_instance = UINT32_MAX};
        rc = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

int nvmlEventSetFree(vgpu_nvml_event_set set)
{
    int rc = fake_enter(FAKE_nvmlEventSetFree, FAKE_ANY);

    if (rc)
        return rc;
    if (!set)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(set);
    return NVML_SUCCESS;
}
