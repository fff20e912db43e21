/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who else ran on our cores while something was measured: involuntary context switches and migrations of the threads that
 * measured, interrupts on their cores, time that the hypervisor gave to others, and clock frequencies that moved. Facts of
 * /proc and /sys; what cannot be read is left out and said to be.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "bench/harness.h"

#define SWITCHES_LIMIT   20.0   /* a second and thread: a tick that finds another runnable takes 1 to 10 ms */
#define STEAL_LIMIT      1.0    /* percent */
#define INTERRUPTS_LIMIT 3000.0 /* a second and core: three times a busy timer tick of 1000 Hz */
#define SHORTEST_S       0.05   /* in less than that nothing was measured, and a few interrupts are no rate */
#define FREQUENCY_LIMIT  10.0   /* percent between the slowest and the fastest look */

/* Sums over a field of the lines "cpuN ..." of /proc/stat of our cores. field 8: steal; 0: all. Ticks of USER_HZ. */
static bool stat_read(const struct bench *b, uint64_t *steal, uint64_t *all)
{
    FILE *f = fopen("/proc/stat", "r");
    char line[4096];
    bool found = false;

    *steal = *all = 0;
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long long v[8] = {0};
        int cpu;
        if (sscanf(line, "cpu%d %llu %llu %llu %llu %llu %llu %llu %llu", &cpu, &v[0], &v[1], &v[2], &v[3], &v[4], &v[5],
                   &v[6], &v[7]) != 9)
            continue;
        for (int i = 0; i < b->n_cores; i++)
            if (b->cores[i] == cpu) {
                found = true;
                *steal += v[7];
                for (int k = 0; k < 8; k++)
                    *all += v[k];
            }
    }
    if (f)
        fclose(f);
    return found;
}

/* Column of a core in /proc/interrupts, by its heading; -1: not there. */
static int column_of(const char *heading, int core)
{
    int column = 0, cpu, used;

    for (; sscanf(heading, " CPU%d%n", &cpu, &used) == 1; heading += used, column++)
        if (cpu == core)
            return column;
    return -1;
}

static uint64_t line_sum(const char *line, const int *columns, int n)
{
    const char *at = strchr(line, ':');
    uint64_t sum = 0;
    char *end;

    for (int column = 0; at; column++) {
        at += column == 0;
        unsigned long long v = strtoull(at, &end, 10);
        if (end == at)
            break;
        for (int i = 0; i < n; i++)
            if (columns[i] == column)
                sum += v;
        at = end;
    }
    return sum;
}

static bool interrupts_read(const struct bench *b, uint64_t *count)
{
    FILE *f = fopen("/proc/interrupts", "r");
    int columns[BENCH_CORES_MAX];
    char *line = NULL;
    size_t cap = 0;

    *count = 0;
    if (!f || getline(&line, &cap, f) <= 0) {
        if (f)
            fclose(f);
        free(line);
        return false;
    }
    for (int i = 0; i < b->n_cores; i++)
        columns[i] = column_of(line, b->cores[i]);
    while (getline(&line, &cap, f) > 0)
        *count += line_sum(line, columns, b->n_cores);
    free(line);
    fclose(f);
    return true;
}

/* MHz of the slowest and fastest of our cores now; false: this machine does not tell. */
static bool frequency_read(const struct bench *b, double *low, double *high)
{
    bool found = false;

    for (int i = 0; i < b->n_cores; i++) {
        char path[96];
        double khz;
        snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq", b->cores[i]);
        FILE *f = fopen(path, "r");
        if (!f)
            continue;
        if (fscanf(f, "%lf", &khz) == 1) {
            *low = !found || khz / 1e3 < *low ? khz / 1e3 : *low;
            *high = !found || khz / 1e3 > *high ? khz / 1e3 : *high;
            found = true;
        }
        fclose(f);
    }
    return found;
}

void bench_noise_begin(struct bench *b)
{
    struct bench_noise *n = &b->noise;

    memset(n, 0, sizeof(*n));
    n->have_steal = stat_read(b, &n->steal, &n->all);
    n->have_interrupts = interrupts_read(b, &n->interrupts);
    n->have_frequency = frequency_read(b, &n->mhz_low, &n->mhz_high);
    n->from_ns = vgpu_now_ns();
}

uint64_t bench_noise_switches(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) ? 0 : (uint64_t)usage.ru_nivcsw;
}

void bench_noise_thread(struct bench_noise *n, uint64_t switches_before, uint64_t ran_ns, bool migrated)
{
    /* relaxed: sums, read later */
    __atomic_add_fetch(&n->switches, bench_noise_switches() - switches_before, __ATOMIC_RELAXED);
    __atomic_add_fetch(&n->thread_ns, ran_ns, __ATOMIC_RELAXED);
    __atomic_add_fetch(&n->migrations, migrated, __ATOMIC_RELAXED);
}

/* Appends "what value" to the list of what is beyond its limit. */
static void beyond(char *list, size_t bytes, const char *what, double value, const char *unit)
{
    size_t n = strlen(list);

    snprintf(list + n, bytes - n, "%s%.3g %s%s", n ? ", " : "", value, unit, what);
}

bool bench_noise_end(struct bench *b)
{
    struct bench_noise *n = &b->noise;
    uint64_t steal = 0, all = 0, interrupts = 0;
    double seconds = (double)(vgpu_now_ns() - n->from_ns) / 1e9, low = n->mhz_low, high = n->mhz_high;
    char list[256] = "";

    n->switches_per_s = n->thread_ns ? (double)n->switches * 1e9 / (double)n->thread_ns : NAN;
    n->steal_percent = NAN;
    if (n->have_steal && stat_read(b, &steal, &all) && all > n->all)
        n->steal_percent = 100.0 * (double)(steal - n->steal) / (double)(all - n->all);
    n->interrupts_per_s = NAN;
    if (n->have_interrupts && interrupts_read(b, &interrupts) && b->n_cores && seconds > SHORTEST_S)
        n->interrupts_per_s = (double)(interrupts - n->interrupts) / seconds / b->n_cores;
    n->frequency_percent = NAN;
    if (n->have_frequency && frequency_read(b, &low, &high)) {
        low = low < n->mhz_low ? low : n->mhz_low;
        high = high > n->mhz_high ? high : n->mhz_high;
        n->frequency_percent = 100.0 * (high - low) / high;
    }
    if (n->switches_per_s > SWITCHES_LIMIT)
        beyond(list, sizeof(list), "involuntary switches a second", n->switches_per_s, "");
    if (n->migrations)
        beyond(list, sizeof(list), "migrations", (double)n->migrations, "");
    if (n->steal_percent > STEAL_LIMIT)
        beyond(list, sizeof(list), "of the time stolen by the hypervisor", n->steal_percent, "% ");
    if (n->interrupts_per_s > INTERRUPTS_LIMIT)
        beyond(list, sizeof(list), "interrupts a second and core", n->interrupts_per_s, "");
    if (n->frequency_percent > FREQUENCY_LIMIT)
        beyond(list, sizeof(list), "between the lowest and the highest clock frequency", n->frequency_percent, "% ");
    n->noisy = list[0] != '\0';
    if (n->noisy)
        fprintf(b->text, "**** NOISY: %s: others ran where this was measured; ratios are doubtful, times worthless ****\n", list);
    return n->noisy;
}

static void field(FILE *to, const char *name, double value)
{
    if (isnan(value))
        fprintf(to, ",\"%s\":null", name);
    else
        fprintf(to, ",\"%s\":%.4g", name, value);
}

void bench_noise_print(const struct bench *b, FILE *to)
{
    const struct bench_noise *n = &b->noise;

    fprintf(to, "{\"noisy\":%s", n->noisy ? "true" : "false");
    field(to, "involuntary_switches_per_s", n->switches_per_s);
    field(to, "migrations", (double)n->migrations);
    field(to, "steal_percent", n->steal_percent);
    field(to, "interrupts_per_s", n->interrupts_per_s);
    field(to, "frequency_percent", n->frequency_percent);
    fputc('}', to);
}
