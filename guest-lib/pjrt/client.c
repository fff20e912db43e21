/* SPDX-License-Identifier: Apache-2.0 */
/* What there is: one client, one device, one memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest-lib/pjrt/plugin.h"

#define SPIN_US_DEFAULT 200

static const char memory_kind[] = "device";

/* All clients of this process, for its children. */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static PJRT_Client *list;

/* In a child of fork: the attachment, the thread and whatever held a lock are the parent's. Nothing of it is touched again;
 * what is asked of it is refused. */
static void in_child(void)
{
    pthread_mutex_init(&list_lock, NULL);
    vgpu_pjrt_events_in_child();
    for (PJRT_Client *c = list; c; c = c->next) {
        pthread_mutex_init(&c->lock, NULL);
        c->forked = true;
        c->v = NULL;
    }
    list = NULL;
}

static void fork_watch(void)
{
    pthread_atfork(NULL, NULL, in_child);
}

static void list_add(PJRT_Client *c)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, fork_watch);
    pthread_mutex_lock(&list_lock);
    c->next = list;
    list = c;
    pthread_mutex_unlock(&list_lock);
}

static void list_remove(PJRT_Client *c)
{
    pthread_mutex_lock(&list_lock);
    for (PJRT_Client **at = &list; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    pthread_mutex_unlock(&list_lock);
}

void vgpu_pjrt_client_drop(PJRT_Client *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1 || c->forked)
        return;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- the plugin ---- */

/* As the host's plugin says; until there is a client, and of a host that does not say, what is old enough for any. They are
 * asked for after the client was made, and do not change after the first one. */
static int64_t stablehlo_current[3] = {1, 0, 0}, stablehlo_minimum[3] = {0, 9, 0};
static bool attributes_known;

#define ABOUT_BYTES 512u
#define NAME(text) .struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = (text), .name_size = sizeof(text) - 1
static const PJRT_NamedValue plugin_attributes[] = {
    {NAME("xla_version"), .type = PJRT_NamedValue_kInt64, .int64_value = 2, .value_size = 1},
    {NAME("stablehlo_current_version"), .type = PJRT_NamedValue_kInt64List, .int64_array_value = stablehlo_current,
     .value_size = 3},
    {NAME("stablehlo_minimum_version"), .type = PJRT_NamedValue_kInt64List, .int64_array_value = stablehlo_minimum,
     .value_size = 3},
};

PJRT_Error *vgpu_pjrt_Plugin_Initialize(PJRT_Plugin_Initialize_Args *args)
{
    (void)args;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Plugin_Attributes(PJRT_Plugin_Attributes_Args *args)
{
    CHECK_ARGS(args, PJRT_Plugin_Attributes_Args, num_attributes);
    args->attributes = plugin_attributes;
    args->num_attributes = sizeof(plugin_attributes) / sizeof(plugin_attributes[0]);
    return NULL;
}

/* ---- opening ---- */

struct wishes {
    struct vgpu_options attach;
    char socket[256], token[256];
    int64_t spin_us;
};

static bool wish_is(const PJRT_NamedValue *v, const char *name, PJRT_NamedValue_Type type)
{
    return v->name_size == strlen(name) && memcmp(v->name, name, v->name_size) == 0 && v->type == type;
}

static const char *wish_text(const PJRT_NamedValue *v, char *out, size_t bytes)
{
    snprintf(out, bytes, "%.*s", (int)v->value_size, v->string_value);
    return out;
}

static PJRT_Error *wishes_read(const PJRT_Client_Create_Args *args, struct wishes *out)
{
    const char *spin = getenv("VGPU_PJRT_SPIN_US");

    memset(out, 0, sizeof(*out));
    out->spin_us = SPIN_US_DEFAULT;
    if (spin) {
        char *end;
        out->spin_us = strtoll(spin, &end, 10);
        if (end == spin || *end)
            return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT,
                                   "vgpu: VGPU_PJRT_SPIN_US is \"%.40s\"; it is a whole number of microseconds", spin);
    }
    for (size_t i = 0; i < args->num_options; i++) {
        const PJRT_NamedValue *v = &args->create_options[i];
        if (wish_is(v, "vm_id", PJRT_NamedValue_kInt64))
            out->attach.vm_id = (uint32_t)v->int64_value;
        else if (wish_is(v, "socket", PJRT_NamedValue_kString))
            out->attach.socket_path = wish_text(v, out->socket, sizeof(out->socket));
        else if (wish_is(v, "token", PJRT_NamedValue_kString))
            out->attach.token_path = wish_text(v, out->token, sizeof(out->token));
        else if (wish_is(v, "arena_bytes", PJRT_NamedValue_kInt64))
            out->attach.arena_bytes = (uint64_t)v->int64_value;
        else if (wish_is(v, "spin_us", PJRT_NamedValue_kInt64))
            out->spin_us = v->int64_value;
        else
            return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT,
                                   "vgpu: option \"%.*s\" is unknown or has a value of the wrong type; there are vm_id, "
                                   "arena_bytes and spin_us (whole numbers), socket and token (paths)",
                                   (int)v->name_size, v->name);
    }
    if (out->spin_us < 0 || out->spin_us > 1000000)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT,
                               "vgpu: spin_us (VGPU_PJRT_SPIN_US) is %lld; it can be 0 to 1000000", (long long)out->spin_us);
    return NULL;
}

static PJRT_Error_Code code_of_errno(int code)
{
    switch (code) {
    case EACCES:
        return PJRT_Error_Code_PERMISSION_DENIED;
    case EBUSY:
        return PJRT_Error_Code_ALREADY_EXISTS;
    case ENOMEM:
        return PJRT_Error_Code_RESOURCE_EXHAUSTED;
    case EINVAL:
    case E2BIG:
        return PJRT_Error_Code_INVALID_ARGUMENT;
    default:
        return PJRT_Error_Code_UNAVAILABLE;
    }
}

/* The value of a line "name=value", or NULL. */
static const char *about_line(const char *about, const char *name, int *bytes)
{
    size_t n = strlen(name);

    for (const char *at = about; *at; at += strcspn(at, "\n"), at += *at == '\n')
        if (strncmp(at, name, n) == 0 && at[n] == '=') {
            *bytes = (int)strcspn(at + n + 1, "\n");
            return at + n + 1;
        }
    return NULL;
}

static void version_read(const char *about, const char *name, int64_t out[3])
{
    int bytes;
    const char *value = about_line(about, name, &bytes);
    long long v[3];

    if (value && sscanf(value, "%lld.%lld.%lld", &v[0], &v[1], &v[2]) == 3)
        for (int i = 0; i < 3; i++)
            out[i] = v[i];
}

/* Asks the host what compiles there: its process for this guest is started by that, so that what is wrong shows now. */
static PJRT_Error *host_ask(PJRT_Client *c, char about[ABOUT_BYTES])
{
    struct op *op = vgpu_pjrt_op_new(OP_INFO, 0);

    if (!op)
        return vgpu_pjrt_no_memory();
    op->to = (uint8_t *)about;
    op->end = ABOUT_BYTES - 1;
    PJRT_Event *done = vgpu_pjrt_event_ref(op->done);
    vgpu_pjrt_lock(c);
    vgpu_pjrt_op_add(c, op);
    vgpu_pjrt_unlock(c);
    PJRT_Error *error = vgpu_pjrt_event_wait(done);
    vgpu_pjrt_event_drop(done);
    if (error && error->code == PJRT_Error_Code_INVALID_ARGUMENT) { /* FLAGS: an older host, which works all the same */
        vgpu_pjrt_error_drop(error);
        return NULL;
    }
    pthread_mutex_lock(&list_lock);
    if (!error && !attributes_known) {
        version_read(about, "stablehlo_current_version", stablehlo_current);
        version_read(about, "stablehlo_minimum_version", stablehlo_minimum);
        attributes_known = true;
    }
    pthread_mutex_unlock(&list_lock);
    return error;
}

static void describe(PJRT_Client *c, const struct vgpu_properties *p, const char *about)
{
    int kind_bytes = 0, name_bytes = 0;
    const char *kind = about_line(about, "device", &kind_bytes), *name = about_line(about, "platform", &name_bytes);

    snprintf(c->platform_version, sizeof(c->platform_version), "libvgpu %s, backend %s, plugin for %.*s", VGPU_LIB_VERSION,
             p->backend, name_bytes, name ? name : "");
    snprintf(c->description.kind, sizeof(c->description.kind), "vgpu (%.*s)", kind ? kind_bytes : (int)strlen(p->backend),
             kind ? kind : p->backend);
    snprintf(c->description.text, sizeof(c->description.text), "VgpuDevice(id=0, vm=%u, pool=%s, backend=%s)", p->vm_id,
             p->pool, p->backend);
    c->device.client = c->memory.client = c->topology.client = c;
    c->devices[0] = &c->device;
    c->memories[0] = &c->memory;
    c->descriptions[0] = &c->description;
}

PJRT_Error *vgpu_pjrt_Client_Create(PJRT_Client_Create_Args *args)
{
    struct vgpu_properties properties;
    struct wishes w;
    char text[512], about[ABOUT_BYTES] = "";

    CHECK_ARGS(args, PJRT_Client_Create_Args, client);
    PJRT_Error *error = wishes_read(args, &w);
    if (error)
        return error;
    PJRT_Client *c = calloc(1, sizeof(*c));
    if (!c)
        return vgpu_pjrt_no_memory();
    c->wake_fd = -1;
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    c->spin_ns = (uint64_t)w.spin_us * 1000;
    int rc = vgpu_open(&w.attach, &c->v, text, sizeof(text));
    if (rc < 0) {
        error = vgpu_pjrt_error(code_of_errno(-rc), "vgpu: cannot attach: %s", text);
        goto err_free;
    }
    rc = vgpu_properties_get(c->v, &properties);
    if (rc < 0 || !(properties.features & VGPU_FEATURE_PROGRAMS)) {
        error = vgpu_pjrt_error(
            PJRT_Error_Code_UNIMPLEMENTED,
            rc < 0 ? "vgpu: the host says nothing about this VM"
                   : "vgpu: the host runs no compiled programs for this VM: its executor has no `programs:` in vgpud.yaml");
        goto err_close;
    }
    c->arena_bytes = properties.arena_bytes;
    c->flying_max = properties.max_in_flight < FLIGHTS ? properties.max_in_flight : FLIGHTS;
    error = vgpu_pjrt_queue_open(c);
    if (error)
        goto err_queue;
    error = host_ask(c, about);
    if (error) {
        vgpu_pjrt_queue_close(c);
        goto err_free;
    }
    describe(c, &properties, about);
    list_add(c);
    args->client = c;
    return NULL;
err_queue:
    if (c->wake_fd >= 0)
        close(c->wake_fd);
err_close:
    vgpu_close(c->v);
err_free:
    pthread_mutex_destroy(&c->lock);
    free(c);
    return error;
}

PJRT_Error *vgpu_pjrt_Client_Destroy(PJRT_Client_Destroy_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_Destroy_Args, client);
    PJRT_Client *c = args->client;
    if (c->forked)
        return NULL;
    list_remove(c);
    vgpu_pjrt_queue_close(c);
    vgpu_pjrt_client_drop(c);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_PlatformName(PJRT_Client_PlatformName_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_PlatformName_Args, platform_name_size);
    args->platform_name = PLATFORM_NAME;
    args->platform_name_size = sizeof(PLATFORM_NAME) - 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_ProcessIndex(PJRT_Client_ProcessIndex_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_ProcessIndex_Args, process_index);
    args->process_index = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_PlatformVersion(PJRT_Client_PlatformVersion_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_PlatformVersion_Args, platform_version_size);
    args->platform_version = args->client->platform_version;
    args->platform_version_size = strlen(args->platform_version);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_TopologyDescription(PJRT_Client_TopologyDescription_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_TopologyDescription_Args, topology);
    args->topology = &args->client->topology;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_Devices(PJRT_Client_Devices_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_Devices_Args, num_devices);
    args->devices = args->client->devices;
    args->num_devices = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_AddressableDevices(PJRT_Client_AddressableDevices_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_AddressableDevices_Args, num_addressable_devices);
    args->addressable_devices = args->client->devices;
    args->num_addressable_devices = 1;
    return NULL;
}

static PJRT_Error *lookup(PJRT_Client *c, int id, PJRT_Device **out)
{
    if (id)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: there is no device %d; the only one is 0", id);
    *out = &c->device;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_LookupDevice(PJRT_Client_LookupDevice_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_LookupDevice_Args, device);
    return lookup(args->client, args->id, &args->device);
}

PJRT_Error *vgpu_pjrt_Client_LookupAddressableDevice(PJRT_Client_LookupAddressableDevice_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_LookupAddressableDevice_Args, addressable_device);
    return lookup(args->client, args->local_hardware_id, &args->addressable_device);
}

PJRT_Error *vgpu_pjrt_Client_AddressableMemories(PJRT_Client_AddressableMemories_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_AddressableMemories_Args, num_addressable_memories);
    args->addressable_memories = args->client->memories;
    args->num_addressable_memories = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Client_DefaultDeviceAssignment(PJRT_Client_DefaultDeviceAssignment_Args *args)
{
    CHECK_ARGS(args, PJRT_Client_DefaultDeviceAssignment_Args, default_assignment);
    if (args->num_replicas != 1 || args->num_partitions != 1 || args->default_assignment_size < 1)
        return vgpu_pjrt_error(PJRT_Error_Code_INVALID_ARGUMENT, "vgpu: %d replicas of %d partitions; there is one device",
                               args->num_replicas, args->num_partitions);
    args->default_assignment[0] = 0;
    return NULL;
}

/* ---- device ---- */

PJRT_Error *vgpu_pjrt_DeviceDescription_Id(PJRT_DeviceDescription_Id_Args *args)
{
    CHECK_ARGS(args, PJRT_DeviceDescription_Id_Args, id);
    args->id = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_DeviceDescription_ProcessIndex(PJRT_DeviceDescription_ProcessIndex_Args *args)
{
    CHECK_ARGS(args, PJRT_DeviceDescription_ProcessIndex_Args, process_index);
    args->process_index = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_DeviceDescription_Attributes(PJRT_DeviceDescription_Attributes_Args *args)
{
    CHECK_ARGS(args, PJRT_DeviceDescription_Attributes_Args, attributes);
    args->attributes = NULL;
    args->num_attributes = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_DeviceDescription_Kind(PJRT_DeviceDescription_Kind_Args *args)
{
    CHECK_ARGS(args, PJRT_DeviceDescription_Kind_Args, device_kind_size);
    args->device_kind = args->device_description->kind;
    args->device_kind_size = strlen(args->device_kind);
    return NULL;
}

PJRT_Error *vgpu_pjrt_DeviceDescription_DebugString(PJRT_DeviceDescription_DebugString_Args *args)
{
    CHECK_ARGS(args, PJRT_DeviceDescription_DebugString_Args, debug_string_size);
    args->debug_string = args->device_description->text;
    args->debug_string_size = strlen(args->debug_string);
    return NULL;
}

PJRT_Error *vgpu_pjrt_DeviceDescription_ToString(PJRT_DeviceDescription_ToString_Args *args)
{
    CHECK_ARGS(args, PJRT_DeviceDescription_ToString_Args, to_string_size);
    args->to_string = args->device_description->text;
    args->to_string_size = strlen(args->to_string);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Device_GetDescription(PJRT_Device_GetDescription_Args *args)
{
    CHECK_ARGS(args, PJRT_Device_GetDescription_Args, device_description);
    args->device_description = &args->device->client->description;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Device_IsAddressable(PJRT_Device_IsAddressable_Args *args)
{
    CHECK_ARGS(args, PJRT_Device_IsAddressable_Args, is_addressable);
    args->is_addressable = true;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Device_LocalHardwareId(PJRT_Device_LocalHardwareId_Args *args)
{
    CHECK_ARGS(args, PJRT_Device_LocalHardwareId_Args, local_hardware_id);
    args->local_hardware_id = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Device_AddressableMemories(PJRT_Device_AddressableMemories_Args *args)
{
    CHECK_ARGS(args, PJRT_Device_AddressableMemories_Args, num_memories);
    args->memories = args->device->client->memories;
    args->num_memories = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Device_DefaultMemory(PJRT_Device_DefaultMemory_Args *args)
{
    CHECK_ARGS(args, PJRT_Device_DefaultMemory_Args, memory);
    args->memory = &args->device->client->memory;
    return NULL;
}

/* What this guest's arrays take; the host's limit is per process of it, and not told. */
PJRT_Error *vgpu_pjrt_Device_MemoryStats(PJRT_Device_MemoryStats_Args *args)
{
    CHECK_ARGS(args, PJRT_Device_MemoryStats_Args, peak_pool_bytes_is_set);
    PJRT_Client *c = args->device->client;
    memset(&args->bytes_in_use, 0, sizeof(*args) - offsetof(PJRT_Device_MemoryStats_Args, bytes_in_use));
    vgpu_pjrt_lock(c);
    args->bytes_in_use = (int64_t)c->live_bytes;
    args->peak_bytes_in_use = (int64_t)c->peak_bytes;
    args->num_allocs = (int64_t)c->allocations;
    vgpu_pjrt_unlock(c);
    args->peak_bytes_in_use_is_set = args->num_allocs_is_set = true;
    return NULL;
}

/* ---- memory ---- */

PJRT_Error *vgpu_pjrt_Memory_Id(PJRT_Memory_Id_Args *args)
{
    CHECK_ARGS(args, PJRT_Memory_Id_Args, id);
    args->id = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Memory_Kind(PJRT_Memory_Kind_Args *args)
{
    CHECK_ARGS(args, PJRT_Memory_Kind_Args, kind_size);
    args->kind = memory_kind;
    args->kind_size = sizeof(memory_kind) - 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Memory_Kind_Id(PJRT_Memory_Kind_Id_Args *args)
{
    CHECK_ARGS(args, PJRT_Memory_Kind_Id_Args, kind_id);
    args->kind_id = 0;
    return NULL;
}

PJRT_Error *vgpu_pjrt_Memory_DebugString(PJRT_Memory_DebugString_Args *args)
{
    CHECK_ARGS(args, PJRT_Memory_DebugString_Args, debug_string_size);
    args->debug_string = "VgpuMemory(device)";
    args->debug_string_size = strlen(args->debug_string);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Memory_ToString(PJRT_Memory_ToString_Args *args)
{
    CHECK_ARGS(args, PJRT_Memory_ToString_Args, to_string_size);
    args->to_string = "VgpuMemory(device)";
    args->to_string_size = strlen(args->to_string);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Memory_AddressableByDevices(PJRT_Memory_AddressableByDevices_Args *args)
{
    CHECK_ARGS(args, PJRT_Memory_AddressableByDevices_Args, num_devices);
    args->devices = args->memory->client->devices;
    args->num_devices = 1;
    return NULL;
}

/* ---- topology: the client's, which owns it ---- */

PJRT_Error *vgpu_pjrt_TopologyDescription_Destroy(PJRT_TopologyDescription_Destroy_Args *args)
{
    (void)args;
    return NULL;
}

PJRT_Error *vgpu_pjrt_TopologyDescription_PlatformName(PJRT_TopologyDescription_PlatformName_Args *args)
{
    CHECK_ARGS(args, PJRT_TopologyDescription_PlatformName_Args, platform_name_size);
    args->platform_name = PLATFORM_NAME;
    args->platform_name_size = sizeof(PLATFORM_NAME) - 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_TopologyDescription_PlatformVersion(PJRT_TopologyDescription_PlatformVersion_Args *args)
{
    CHECK_ARGS(args, PJRT_TopologyDescription_PlatformVersion_Args, platform_version_size);
    args->platform_version = args->topology->client->platform_version;
    args->platform_version_size = strlen(args->platform_version);
    return NULL;
}

PJRT_Error *
vgpu_pjrt_TopologyDescription_GetDeviceDescriptions(PJRT_TopologyDescription_GetDeviceDescriptions_Args *args)
{
    CHECK_ARGS(args, PJRT_TopologyDescription_GetDeviceDescriptions_Args, num_descriptions);
    args->descriptions = args->topology->client->descriptions;
    args->num_descriptions = 1;
    return NULL;
}

PJRT_Error *vgpu_pjrt_TopologyDescription_Attributes(PJRT_TopologyDescription_Attributes_Args *args)
{
    CHECK_ARGS(args, PJRT_TopologyDescription_Attributes_Args, num_attributes);
    args->attributes = NULL;
    args->num_attributes = 0;
    return NULL;
}
