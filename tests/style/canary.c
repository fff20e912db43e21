/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Planted faults: canary FAULT. The sanitizer suites run this first; a sanitizer that lets one pass proves nothing
 * about the rest. Built only in sanitizer builds.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int shared_word; /* plain on purpose: the race */

static void *race_thread(void *arg)
{
    for (int i = 0; i < 100000; i++)
        shared_word += *(int *)arg;
    return NULL;
}

static int race(void)
{
    pthread_t a, b;
    int one = 1;

    if (pthread_create(&a, NULL, race_thread, &one) || pthread_create(&b, NULL, race_thread, &one))
        return 2;
    pthread_join(a, NULL);
    pthread_join(b, NULL);
    return shared_word == 0;
}

static int overflow(volatile size_t n)
{
    char *p = malloc(n);

    if (!p)
        return 2;
    ((volatile char *)p)[n] = 1; /* one past the end */
    free(p);
    return 0;
}

static int leak(volatile size_t n)
{
    void *volatile p = malloc(n);

    p = NULL; /* nobody knows the block any more */
    return p != NULL;
}

static int shift(volatile int by)
{
    volatile int v = 1 << by; /* as wide as the type: undefined */

    return v == 12345;
}

int main(int argc, char **argv)
{
    const char *fault = argc == 2 ? argv[1] : "";

    if (!strcmp(fault, "race"))
        return race();
    if (!strcmp(fault, "overflow"))
        return overflow(16);
    if (!strcmp(fault, "leak"))
        return leak(1000);
    if (!strcmp(fault, "shift"))
        return shift(32);
    fprintf(stderr, "usage: canary race|overflow|leak|shift\n");
    return 2;
}
