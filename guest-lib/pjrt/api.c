/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-lib/pjrt/plugin.h"

/* ---- errors ---- */

#define OUT_OF_MEMORY "vgpu: the guest is out of memory"
static PJRT_Error out_of_memory = {1, PJRT_Error_Code_RESOURCE_EXHAUSTED, sizeof(OUT_OF_MEMORY) - 1, OUT_OF_MEMORY};

PJRT_Error *vgpu_pjrt_no_memory(void)
{
    return vgpu_pjrt_error_ref(&out_of_memory);
}

PJRT_Error *vgpu_pjrt_error(PJRT_Error_Code code, const char *format, ...)
{
    char text[1024];
    va_list list;

    va_start(list, format);
    int n = vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    size_t bytes = n < 0 ? 0 : (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1;
    PJRT_Error *e = malloc(sizeof(*e) + bytes + 1);
    if (!e)
        return vgpu_pjrt_no_memory();
    atomic_init(&e->refs, 1);
    e->code = code;
    e->bytes = bytes;
    e->text = memcpy(e + 1, text, bytes + 1);
    return e;
}

PJRT_Error *vgpu_pjrt_error_ref(PJRT_Error *e)
{
    if (e)
        atomic_fetch_add(&e->refs, 1);
    return e;
}

void vgpu_pjrt_error_drop(PJRT_Error *e)
{
    if (e && atomic_fetch_sub(&e->refs, 1) == 1 && e != &out_of_memory)
        free(e);
}

static void error_destroy(PJRT_Error_Destroy_Args *args)
{
    vgpu_pjrt_error_drop(args->error);
}

static void error_message(PJRT_Error_Message_Args *args)
{
    args->message = args->error->text;
    args->message_size = args->error->bytes;
}

static PJRT_Error *error_code(PJRT_Error_GetCode_Args *args)
{
    args->code = args->error->code;
    return NULL;
}

/* ---- events ---- */

/* One lock and one condition for all events: they change rarely, compared with what they stand for. */
static pthread_mutex_t events = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t event_came = PTHREAD_COND_INITIALIZER;

static unsigned forks;

void vgpu_pjrt_events_in_child(void)
{
    pthread_mutex_init(&events, NULL);
    pthread_cond_init(&event_came, NULL);
    forks++;
}

PJRT_Event *vgpu_pjrt_event_new(void)
{
    PJRT_Event *e = calloc(1, sizeof(*e));

    if (e) {
        atomic_init(&e->refs, 1);
        e->made_in = forks;
    }
    return e;
}

PJRT_Event *vgpu_pjrt_event_ref(PJRT_Event *e)
{
    atomic_fetch_add(&e->refs, 1);
    return e;
}

void vgpu_pjrt_event_drop(PJRT_Event *e)
{
    if (!e || atomic_fetch_sub(&e->refs, 1) != 1)
        return;
    while (e->waiters) { /* nobody can make it ready any more */
        struct waiter *w = e->waiters;
        e->waiters = w->next;
        free(w);
    }
    vgpu_pjrt_error_drop(e->error);
    free(e);
}

void vgpu_pjrt_event_fire(PJRT_Event *e, PJRT_Error *error)
{
    struct waiter *first = NULL;

    pthread_mutex_lock(&events);
    e->error = vgpu_pjrt_error_ref(error);
    e->ready = true;
    for (struct waiter *w = e->waiters, *next; w; w = next) { /* they stand in reverse */
        next = w->next;
        w->next = first;
        first = w;
    }
    e->waiters = NULL;
    pthread_cond_broadcast(&event_came);
    pthread_mutex_unlock(&events);
    while (first) {
        struct waiter *w = first;
        first = w->next;
        w->call(vgpu_pjrt_error_ref(error), w->arg);
        free(w);
    }
}

PJRT_Error *vgpu_pjrt_event_wait(PJRT_Event *e)
{
    pthread_mutex_lock(&events);
    while (!e->ready && e->made_in == forks)
        pthread_cond_wait(&event_came, &events);
    /* Whoever would make it ready is in the parent. */
    PJRT_Error *error = e->ready ? vgpu_pjrt_error_ref(e->error)
                                 : vgpu_pjrt_error(PJRT_Error_Code_FAILED_PRECONDITION,
                                                   "vgpu: this event belongs to the process that this one was forked from");
    pthread_mutex_unlock(&events);
    return error;
}

PJRT_Error *vgpu_pjrt_Event_Destroy(PJRT_Event_Destroy_Args *args)
{
    CHECK_ARGS(args, PJRT_Event_Destroy_Args, event);
    vgpu_pjrt_event_drop(args->event);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Event_IsReady(PJRT_Event_IsReady_Args *args)
{
    CHECK_ARGS(args, PJRT_Event_IsReady_Args, is_ready);
    pthread_mutex_lock(&events);
    args->is_ready = args->event->ready;
    pthread_mutex_unlock(&events);
    return NULL;
}

PJRT_Error *vgpu_pjrt_Event_Error(PJRT_Event_Error_Args *args)
{
    CHECK_ARGS(args, PJRT_Event_Error_Args, event);
    pthread_mutex_lock(&events);
    PJRT_Error *error = args->event->ready ? vgpu_pjrt_error_ref(args->event->error)
                                           : vgpu_pjrt_error(PJRT_Error_Code_FAILED_PRECONDITION,
                                                             "vgpu: PJRT_Event_Error of an event that is not ready");
    pthread_mutex_unlock(&events);
    return error;
}

PJRT_Error *vgpu_pjrt_Event_Await(PJRT_Event_Await_Args *args)
{
    CHECK_ARGS(args, PJRT_Event_Await_Args, event);
    return vgpu_pjrt_event_wait(args->event);
}

PJRT_Error *vgpu_pjrt_Event_OnReady(PJRT_Event_OnReady_Args *args)
{
    CHECK_ARGS(args, PJRT_Event_OnReady_Args, user_arg);
    PJRT_Event *e = args->event;
    struct waiter *w = malloc(sizeof(*w));
    if (!w)
        return vgpu_pjrt_no_memory();
    *w = (struct waiter){.call = args->callback, .arg = args->user_arg};
    pthread_mutex_lock(&events);
    bool now = e->ready;
    PJRT_Error *error = now ? vgpu_pjrt_error_ref(e->error) : NULL;
    if (!now) {
        w->next = e->waiters;
        e->waiters = w;
    }
    pthread_mutex_unlock(&events);
    if (now) {
        w->call(error, w->arg);
        free(w);
    }
    return NULL;
}

/* ---- the table ---- */

#define NOT_SERVED(name)                                                                                               \
    static PJRT_Error *no_##name(PJRT_##name##_Args *args)                                                             \
    {                                                                                                                  \
        (void)args;                                                                                                    \
        return vgpu_pjrt_error(PJRT_Error_Code_UNIMPLEMENTED, "vgpu: PJRT_" #name " is not served");                   \
    }
VGPU_PJRT_NOT_SERVED(NOT_SERVED)

#define SERVED_SLOT(name)     .PJRT_##name = vgpu_pjrt_##name,
#define NOT_SERVED_SLOT(name) .PJRT_##name = no_##name,
static const PJRT_Api table = {
    .struct_size = PJRT_Api_STRUCT_SIZE,
    .pjrt_api_version = {.struct_size = PJRT_Api_Version_STRUCT_SIZE,
                         .major_version = PJRT_API_MAJOR,
                         .minor_version = PJRT_API_MINOR},
    .PJRT_Error_Destroy = error_destroy,
    .PJRT_Error_Message = error_message,
    .PJRT_Error_GetCode = error_code,
    VGPU_PJRT_SERVED(SERVED_SLOT) VGPU_PJRT_NOT_SERVED(NOT_SERVED_SLOT)};

__attribute__((visibility("default"))) const PJRT_Api *GetPjrtApi(void);
const PJRT_Api *GetPjrtApi(void)
{
    return &table;
}
