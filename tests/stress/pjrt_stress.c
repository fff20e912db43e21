/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's PJRT plugin under several threads: arrays, executions, copies, deletions, events, all at once, against the small
 * host, whose arena is smaller than what they move. Plain, so that ThreadSanitizer runs it. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest-lib/pjrt/plugin.h"
#include "tests/unit/guest-lib/fake_host.h"
#include "tests/unit/guest-lib/fake_programs.h"

#define THREADS 4
#define ROUNDS  150
#define LARGE   50000 /* floats: 200 kB of an arena of 1 MiB */

#define ARGS(type, name, ...) PJRT_##type##_Args name = {.struct_size = PJRT_##type##_Args_STRUCT_SIZE, __VA_ARGS__}
#define CHECK(cond)                                                                                                    \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond);                                                 \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

const PJRT_Api *GetPjrtApi(void);
static const PJRT_Api *api;
static PJRT_Client *client;
static PJRT_LoadedExecutable *shared;
static atomic_uint called, expected;

static void good(PJRT_Error *error)
{
    if (!error)
        return;
    ARGS(Error_Message, message, .error = error);
    api->PJRT_Error_Message(&message);
    fprintf(stderr, "%.*s\n", (int)message.message_size, message.message);
    _exit(1);
}

static void on_ready(PJRT_Error *error, void *arg)
{
    good(error);
    atomic_fetch_add(&called, 1);
    free(arg);
}

static void await(PJRT_Event *event)
{
    ARGS(Event_Await, wait, .event = event);
    ARGS(Event_Destroy, end, .event = event);
    good(api->PJRT_Event_Await(&wait));
    good(api->PJRT_Event_Destroy(&end));
}

static PJRT_LoadedExecutable *compile(void)
{
    char code[2] = {2, FAKE_PROGRAM_OK};
    PJRT_Program program = {.struct_size = PJRT_Program_STRUCT_SIZE, .code = code, .code_size = 2, .format = "hlo",
                            .format_size = 3};
    ARGS(Client_Compile, args, .client = client, .program = &program);
    good(api->PJRT_Client_Compile(&args));
    return args.executable;
}

static PJRT_Buffer *put(const float *data, int64_t n)
{
    ARGS(Client_BufferFromHostBuffer, args, .client = client, .data = data, .type = PJRT_Buffer_Type_F32, .dims = &n,
         .num_dims = 1, .host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes);
    good(api->PJRT_Client_BufferFromHostBuffer(&args));
    await(args.done_with_host_buffer);
    return args.buffer;
}

static void drop(PJRT_Buffer *b)
{
    ARGS(Buffer_Destroy, args, .buffer = b);
    good(api->PJRT_Buffer_Destroy(&args));
}

static void execute(PJRT_LoadedExecutable *p, PJRT_Buffer *in, PJRT_Buffer **out)
{
    PJRT_Buffer *const *const lists[1] = {&in};
    PJRT_Buffer **const outs[1] = {out};
    PJRT_Event *done;
    ARGS(LoadedExecutable_Execute, args, .executable = p, .argument_lists = lists, .num_devices = 1, .num_args = 1,
         .output_lists = outs, .device_complete_events = &done);
    good(api->PJRT_LoadedExecutable_Execute(&args));
    ARGS(Event_OnReady, ready, .event = done, .callback = on_ready, .user_arg = malloc(1));
    good(api->PJRT_Event_OnReady(&ready));
    ARGS(Event_Destroy, end, .event = done);
    good(api->PJRT_Event_Destroy(&end));
    atomic_fetch_add(&expected, 1);
}

static void *work(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    float *data = malloc(LARGE * sizeof(float)), *back = malloc(LARGE * sizeof(float)), pair[2];

    for (int i = 0; i < LARGE; i++)
        data[i] = (float)(i + (int)seed);
    for (int round = 0; round < ROUNDS; round++) {
        int64_t n = rand_r(&seed) % 4 ? 8 : LARGE;
        PJRT_LoadedExecutable *p = rand_r(&seed) % 8 ? NULL : compile();
        PJRT_Buffer *a = put(data, n), *out[2];
        execute(p ? p : shared, a, out);
        ARGS(Buffer_ToHostBuffer, get, .src = a, .dst = back, .dst_size = (size_t)n * 4);
        good(api->PJRT_Buffer_ToHostBuffer(&get));
        drop(out[0]);
        await(get.event);
        CHECK(memcmp(back, data, (size_t)n * 4) == 0);
        if (rand_r(&seed) % 2) {
            ARGS(Buffer_ToHostBuffer, two, .src = out[1], .dst = pair, .dst_size = sizeof(pair));
            good(api->PJRT_Buffer_ToHostBuffer(&two));
            drop(out[1]);
            await(two.event);
            CHECK(pair[0] == 1.0f && pair[1] == 1.0f);
        } else {
            drop(out[1]);
        }
        ARGS(LoadedExecutable_Destroy, end, .executable = p);
        if (p)
            good(api->PJRT_LoadedExecutable_Destroy(&end));
        drop(a);
    }
    free(data);
    free(back);
    return NULL;
}

int main(void)
{
    char dir[] = "/tmp/vgpu-pjrt-XXXXXX", socket[64], token[64];
    struct fake_options options;
    pthread_t threads[THREADS];

    alarm(120);
    CHECK(mkdtemp(dir));
    snprintf(socket, sizeof(socket), "%s/attach.sock", dir);
    snprintf(token, sizeof(token), "%s/token", dir);
    fake_options_defaults(&options, socket);
    options.max_arena_bytes = 1 << 20;
    options.max_in_flight = 16;
    options.features |= VGPU_FEATURE_PROGRAMS;
    FILE *f = fopen(token, "w");
    CHECK(f);
    for (unsigned i = 0; i < VGPU_TOKEN_BYTES; i++)
        fprintf(f, "%02x", options.token[i]);
    fclose(f);
    setenv("VGPU_VM_ID", "3", 1);
    setenv("VGPU_SOCKET", socket, 1);
    setenv("VGPU_TOKEN_FILE", token, 1);
    struct fake_host *host = fake_host_start(&options);
    CHECK(host);
    api = GetPjrtApi();
    ARGS(Client_Create, create);
    good(api->PJRT_Client_Create(&create));
    client = create.client;
    shared = compile();
    for (uintptr_t t = 0; t < THREADS; t++)
        CHECK(pthread_create(&threads[t], NULL, work, (void *)(t + 1)) == 0);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    ARGS(LoadedExecutable_Destroy, end, .executable = shared);
    good(api->PJRT_LoadedExecutable_Destroy(&end));
    ARGS(Client_Destroy, destroy, .client = client);
    good(api->PJRT_Client_Destroy(&destroy));
    fake_host_stop(host);
    CHECK(atomic_load(&called) == atomic_load(&expected) && called == THREADS * ROUNDS);
    CHECK(fake_tensors_held() + fake_programs_held() == 0);
    unlink(token);
    rmdir(dir);
    printf("%d threads, %d rounds each: every event came, nothing is left on the host\n", THREADS, ROUNDS);
    return 0;
}
