/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's PJRT plugin as a caller of PJRT sees it, against the small host: results, errors, and nothing left behind. */
#include <stdlib.h>

#include "fake_programs.h"
#include "fixture.h"
#include "guest-lib/pjrt/plugin.h"

const PJRT_Api *GetPjrtApi(void);
static const PJRT_Api *api;
static PJRT_Client *client;

#define ARGS(type, name, ...) PJRT_##type##_Args name = {.struct_size = PJRT_##type##_Args_STRUCT_SIZE, __VA_ARGS__}

/* Its code, and its text into `text`; destroyed. */
static PJRT_Error_Code code_of(PJRT_Error *error, char *text, size_t bytes)
{
    if (text)
        text[0] = '\0';
    if (!error)
        return PJRT_Error_Code_OK;
    ARGS(Error_GetCode, code, .error = error);
    ARGS(Error_Message, message, .error = error);
    ARGS(Error_Destroy, destroy, .error = error);
    api->PJRT_Error_GetCode(&code);
    api->PJRT_Error_Message(&message);
    if (text)
        snprintf(text, bytes, "%.*s", (int)message.message_size, message.message);
    api->PJRT_Error_Destroy(&destroy);
    return code.code;
}

static char said[512];
#define GOOD(call)  cr_assert_eq(code_of((call), said, sizeof(said)), PJRT_Error_Code_OK, "%s", said)
#define FAILS(call) code_of((call), said, sizeof(said))

static PJRT_Error *create(void)
{
    PJRT_NamedValue options[3] = {
        {.struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = "vm_id", .name_size = 5, .type = PJRT_NamedValue_kInt64,
         .int64_value = 3, .value_size = 1},
        {.struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = "socket", .name_size = 6, .type = PJRT_NamedValue_kString,
         .string_value = fix_socket, .value_size = strlen(fix_socket)},
        {.struct_size = PJRT_NamedValue_STRUCT_SIZE, .name = "token", .name_size = 5, .type = PJRT_NamedValue_kString,
         .string_value = fix_token, .value_size = strlen(fix_token)},
    };
    ARGS(Client_Create, args, .create_options = options, .num_options = 3);
    PJRT_Error *error = api->PJRT_Client_Create(&args);

    client = error ? NULL : args.client;
    return error;
}

static void destroy(void)
{
    ARGS(Client_Destroy, args, .client = client);
    if (client)
        GOOD(api->PJRT_Client_Destroy(&args));
    client = NULL;
}

static void setup(void)
{
    api = GetPjrtApi();
    fix_setup();
    fix_options.max_arena_bytes = 1 << 20;
    fix_options.features |= VGPU_FEATURE_PROGRAMS;
    fix_start();
    GOOD(create());
}
static void teardown(void)
{
    destroy();
    fix_teardown();
}
TestSuite(pjrt, .init = setup, .fini = teardown, .timeout = 120);

static PJRT_Error *wait_for(PJRT_Event *event)
{
    ARGS(Event_Await, await, .event = event);
    ARGS(Event_Destroy, end, .event = event);
    PJRT_Error *error = api->PJRT_Event_Await(&await);

    GOOD(api->PJRT_Event_Destroy(&end));
    return error;
}

static PJRT_Error *ready(PJRT_Buffer *b)
{
    ARGS(Buffer_ReadyEvent, args, .buffer = b);
    GOOD(api->PJRT_Buffer_ReadyEvent(&args));
    return wait_for(args.event);
}

static PJRT_Buffer *put(const float *data, const int64_t *dims, size_t rank, const int64_t *strides)
{
    ARGS(Client_BufferFromHostBuffer, args, .client = client, .data = data, .type = PJRT_Buffer_Type_F32, .dims = dims,
         .num_dims = rank, .byte_strides = strides, .num_byte_strides = strides ? rank : 0,
         .host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes);
    GOOD(api->PJRT_Client_BufferFromHostBuffer(&args));
    code_of(wait_for(args.done_with_host_buffer), NULL, 0);
    return args.buffer;
}

static PJRT_Error *get(PJRT_Buffer *b, float *to, size_t bytes)
{
    ARGS(Buffer_ToHostBuffer, args, .src = b, .dst = to, .dst_size = bytes);
    PJRT_Error *error = api->PJRT_Buffer_ToHostBuffer(&args);

    return error ? error : wait_for(args.event);
}

static void drop(PJRT_Buffer *b)
{
    ARGS(Buffer_Destroy, args, .buffer = b);
    GOOD(api->PJRT_Buffer_Destroy(&args));
}

static PJRT_Error *compile(uint8_t outputs, uint8_t how, PJRT_LoadedExecutable **out)
{
    char code[2] = {(char)outputs, (char)how};
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE, .code = code, .code_size = sizeof(code), .format = "hlo",
                            .format_size = 3};
    ARGS(Client_Compile, args, .client = client, .program = &program);
    PJRT_Error *error = api->PJRT_Client_Compile(&args);

    *out = error ? NULL : args.executable;
    return error;
}

static void program_drop(PJRT_LoadedExecutable *p)
{
    ARGS(LoadedExecutable_Destroy, args, .executable = p);
    GOOD(api->PJRT_LoadedExecutable_Destroy(&args));
}

static PJRT_Error *execute(PJRT_LoadedExecutable *p, PJRT_Buffer **in, size_t n, PJRT_Buffer **out)
{
    PJRT_ExecuteOptions options = {.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE};
    PJRT_Buffer *const *const lists[1] = {in};
    PJRT_Buffer **const outs[1] = {out};
    ARGS(LoadedExecutable_Execute, args, .executable = p, .options = &options, .argument_lists = lists, .num_devices = 1,
         .num_args = n, .output_lists = outs);
    return api->PJRT_LoadedExecutable_Execute(&args);
}

static const int64_t four[1] = {4};
static const float values[4] = {1, 2, 3, 4};

Test(pjrt, every_slot_is_there)
{
    void *const *slot = (void *const *)((const char *)api + offsetof(PJRT_Api, PJRT_Error_Destroy));

    for (size_t i = 0; i < (PJRT_Api_STRUCT_SIZE - offsetof(PJRT_Api, PJRT_Error_Destroy)) / sizeof(*slot); i++)
        cr_expect_not_null(slot[i], "slot %zu", i);
#define UNSERVED(name)                                                                                                 \
    {                                                                                                                  \
        ARGS(name, args);                                                                                              \
        cr_expect_eq(FAILS(api->PJRT_##name(&args)), PJRT_Error_Code_UNIMPLEMENTED);                                    \
        fix_has(said, "PJRT_" #name);                                                                                  \
    }
    VGPU_PJRT_NOT_SERVED(UNSERVED)
    ARGS(Client_PlatformName, old, .client = client);
    old.struct_size = offsetof(PJRT_Client_PlatformName_Args, platform_name);
    cr_expect_eq(FAILS(api->PJRT_Client_PlatformName(&old)), PJRT_Error_Code_INVALID_ARGUMENT);
    fix_has(said, "another version of PJRT");
}

Test(pjrt, who_it_is)
{
    ARGS(Client_PlatformName, name, .client = client);
    ARGS(Client_AddressableDevices, devices, .client = client);
    ARGS(Plugin_Attributes, attributes);

    GOOD(api->PJRT_Client_PlatformName(&name));
    cr_expect(name.platform_name_size == 4 && memcmp(name.platform_name, "vgpu", 4) == 0);
    GOOD(api->PJRT_Client_AddressableDevices(&devices));
    cr_assert_eq(devices.num_addressable_devices, 1u);
    ARGS(Device_GetDescription, d, .device = devices.addressable_devices[0]);
    GOOD(api->PJRT_Device_GetDescription(&d));
    ARGS(DeviceDescription_Kind, kind, .device_description = d.device_description);
    GOOD(api->PJRT_DeviceDescription_Kind(&kind));
    snprintf(said, sizeof(said), "%.*s", (int)kind.device_kind_size, kind.device_kind);
    fix_has(said, "a made-up device");
    GOOD(api->PJRT_Plugin_Attributes(&attributes));
    for (size_t i = 0; i < attributes.num_attributes; i++) {
        const PJRT_NamedValue *v = &attributes.attributes[i];
        if (v->name_size == 25 && memcmp(v->name, "stablehlo_current_version", 25) == 0)
            cr_expect(v->int64_array_value[0] == 1 && v->int64_array_value[1] == 7 && v->int64_array_value[2] == 9);
    }
    PJRT_Client *first = client;
    cr_expect_eq(FAILS(create()), PJRT_Error_Code_ALREADY_EXISTS); /* one attachment of a VM */
    client = first;
}

Test(pjrt, a_life)
{
    PJRT_LoadedExecutable *p;
    PJRT_Buffer *out[3];
    float got[4], pair[2];

    PJRT_Buffer *a = put(values, four, 1, NULL);
    GOOD(get(a, got, sizeof(got)));
    cr_expect_eq(memcmp(got, values, sizeof(got)), 0);
    GOOD(compile(3, FAKE_PROGRAM_OK, &p));
    PJRT_Buffer *in[2] = {a, a};
    for (int round = 0; round < 300; round++) { /* more than may be in flight */
        GOOD(execute(p, in, 2, out));
        for (int i = 0; i < 2; i++)
            drop(out[i]);
        if (round % 100 == 99) {
            GOOD(get(out[2], pair, sizeof(pair)));
            cr_expect(pair[0] == 2.0f && pair[1] == 2.0f);
        }
        drop(out[2]);
    }
    ARGS(Buffer_CopyToMemory, copy, .buffer = a, .dst_memory = NULL);
    GOOD(api->PJRT_Buffer_CopyToMemory(&copy));
    drop(a);
    GOOD(get(copy.dst_buffer, got, sizeof(got)));
    cr_expect_eq(memcmp(got, values, sizeof(got)), 0);
    drop(copy.dst_buffer);
    program_drop(p);
    destroy();
    cr_expect_eq(fake_tensors_held() + fake_programs_held(), 0u, "%u tensors, %u programs", fake_tensors_held(),
                 fake_programs_held());
}

/* A tensor larger than the arena goes in pieces, both ways; one whose strides are odd is put in order, both ways. */
Test(pjrt, pieces_and_strides)
{
    const int64_t dims[2] = {700, 1000}, turned[2] = {4, 4000}; /* column-major */
    const int64_t minor_to_major[2] = {0, 1};
    size_t bytes = 700 * 1000 * 4;
    float *data = malloc(bytes), *back = calloc(1, bytes);

    for (int i = 0; i < 700000; i++)
        data[i] = (float)(i % 100003);
    PJRT_Buffer *a = put(data, dims, 2, NULL);
    GOOD(get(a, back, bytes));
    cr_expect_eq(memcmp(data, back, bytes), 0);
    drop(a);
    const int64_t columns[2] = {1000, 700};
    a = put(data, columns, 2, turned);
    GOOD(get(a, back, bytes));
    cr_expect(back[1] == data[1000] && back[700] == data[1] && back[699999] == data[699999]);
    PJRT_Buffer_MemoryLayout layout = {.struct_size = PJRT_Buffer_MemoryLayout_STRUCT_SIZE,
                                       .tiled = {.struct_size = PJRT_Buffer_MemoryLayout_Tiled_STRUCT_SIZE,
                                                 .minor_to_major = minor_to_major, .minor_to_major_size = 2},
                                       .type = PJRT_Buffer_MemoryLayout_Type_Tiled};
    ARGS(Buffer_ToHostBuffer, args, .src = a, .host_layout = &layout, .dst = back, .dst_size = bytes);
    GOOD(api->PJRT_Buffer_ToHostBuffer(&args));
    GOOD(wait_for(args.event));
    cr_expect_eq(memcmp(data, back, bytes), 0);
    drop(a);
    /* Not in the first piece. Those behind it fail for want of it, so the host's words are about them, and not shown. */
    memset((uint8_t *)data + 1500000, FAKE_PIECE_FAILS, bytes - 1500000);
    a = put(data, dims, 2, NULL);
    cr_expect_eq(FAILS(ready(a)), PJRT_Error_Code_INTERNAL);
    fix_has(said, "copying to the device failed");
    drop(a);
    a = put(data + 1500000 / 4, four, 1, NULL);
    cr_expect_eq(FAILS(ready(a)), PJRT_Error_Code_INTERNAL);
    fix_has(said, "this piece fails");
    drop(a);
    free(data);
    free(back);
}

/* What went wrong on the host arrives with its own words, at all that depends on it. */
Test(pjrt, failures)
{
    PJRT_LoadedExecutable *good, *bad;
    PJRT_Buffer *out, *next;

    cr_expect_eq(FAILS(compile(1, FAKE_PROGRAM_REFUSED, &bad)), PJRT_Error_Code_INVALID_ARGUMENT);
    fix_has(said, "the program is refused");
    GOOD(compile(1, FAKE_PROGRAM_FAILS, &bad));
    GOOD(compile(1, FAKE_PROGRAM_OK, &good));
    PJRT_Buffer *a = put(values, four, 1, NULL);
    GOOD(execute(bad, &a, 1, &out));
    cr_expect_eq(FAILS(ready(out)), PJRT_Error_Code_INTERNAL);
    fix_has(said, "fails as it was told to");
    GOOD(execute(good, &out, 1, &next));
    cr_expect_eq(FAILS(ready(next)), PJRT_Error_Code_INTERNAL);
    fix_has(said, "fails as it was told to");
    drop(next);
    drop(out);
    /* Two in flight: the host says once what it says, to whoever asks first, and it is about the last; results that were
     * never made are let go of in between. */
    for (int i = 0; i < 20; i++) {
        GOOD(execute(bad, &a, 1, &out));
        GOOD(execute(bad, &a, 1, &next));
        cr_expect_eq(FAILS(ready(out)), PJRT_Error_Code_INTERNAL);
        cr_expect_eq(FAILS(ready(next)), PJRT_Error_Code_INTERNAL);
        fix_has(said, "fails as it was told to");
        drop(next);
        drop(out);
    }
    ARGS(Buffer_Delete, args, .buffer = a);
    GOOD(api->PJRT_Buffer_Delete(&args));
    cr_expect_eq(FAILS(execute(good, &a, 1, &out)), PJRT_Error_Code_INVALID_ARGUMENT);
    fix_has(said, "deleted");
    drop(a);
    program_drop(good);
    program_drop(bad);
    destroy();
    cr_expect_eq(fake_tensors_held() + fake_programs_held(), 0u);
}

/* The host dies with work in flight: all of it ends, and says so. A new one serves the same client and program. */
Test(pjrt, another_host)
{
    PJRT_LoadedExecutable *p;
    enum { MANY = 400 }; /* more than may be in flight: some wait in the guest */
    PJRT_Buffer *out[MANY], *again;
    float pair[2];

    GOOD(compile(1, FAKE_PROGRAM_OK, &p));
    PJRT_Buffer *a = put(values, four, 1, NULL);
    GOOD(ready(a));
    fake_host_fault(fix_host, FAKE_HOLD);
    for (int i = 0; i < MANY; i++)
        GOOD(execute(p, &a, 1, &out[i]));
    fake_host_stop(fix_host);
    for (int i = 0; i < MANY; i++) {
        cr_expect_eq(FAILS(ready(out[i])), PJRT_Error_Code_UNAVAILABLE, "%s", said);
        drop(out[i]);
    }
    cr_expect_eq(FAILS(get(a, pair, sizeof(values))), PJRT_Error_Code_UNAVAILABLE, "%s", said);
    fix_has(said, "gone");
    drop(a);
    fix_host = NULL;
    fake_programs_reset();
    fix_start();
    for (int tries = 0;; tries++) { /* until it attached again */
        a = put(values, four, 1, NULL);
        if (FAILS(ready(a)) == PJRT_Error_Code_OK)
            break;
        drop(a);
        cr_assert_lt(tries, 500, "%s", said);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
    GOOD(execute(p, &a, 1, &again));
    GOOD(get(again, pair, sizeof(pair)));
    cr_expect(pair[0] == 0.0f && pair[1] == 1.0f);
    drop(again);
    drop(a);
    program_drop(p);
}

/* A client that is destroyed while the host does not answer ends all the same, and what is left of it can be dropped. */
Test(pjrt, destroyed_in_the_middle)
{
    PJRT_LoadedExecutable *p;
    PJRT_Buffer *out;

    GOOD(compile(1, FAKE_PROGRAM_OK, &p));
    PJRT_Buffer *a = put(values, four, 1, NULL);
    GOOD(ready(a));
    fake_host_fault(fix_host, FAKE_HOLD);
    for (int i = 0; i < 400; i++) { /* more than may be in flight: some wait here */
        GOOD(execute(p, &a, 1, &out));
        if (i < 399)
            drop(out);
    }
    destroy();
    cr_expect_neq(FAILS(ready(out)), PJRT_Error_Code_OK, "%s", said);
    cr_expect_eq(FAILS(execute(p, &a, 1, &out)), PJRT_Error_Code_FAILED_PRECONDITION, "%s", said);
    drop(out);
    drop(a);
    program_drop(p);
}
