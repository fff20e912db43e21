/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Medians and their intervals.
 *
 * What is shown beside a median is the interval of the sign test: the k-th smallest to the k-th largest round, k as large as
 * leaves at most 5 % outside (Binomial(n, 1/2)). It supposes nothing about how rounds are distributed but that they do not
 * depend on each other. Seven rounds: all of them (98.4 %); nine: without the outermost two (96.1 %); with fewer than six no
 * interval has 95 %. It speaks of rounds of this run; what differs from run to run (other cores, another hour) is not in it.
 *
 * `compare` asks another thing, a ratio of two medians of unlike runs: a percentile bootstrap (Efron & Tibshirani, An
 * Introduction to the Bootstrap, ch. 13), which with few rounds is too narrow, and so decides nothing alone there.
 */
#include "bench/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RESAMPLES 2000
#define SEED UINT64_C(20260101)

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_median_of(const double *v, int n)
{
    double copy[BENCH_REPS_MAX];

    if (n == 0)
        return NAN;
    memcpy(copy, v, (size_t)n * sizeof(*v));
    qsort(copy, (size_t)n, sizeof(*copy), by_value);
    return n & 1 ? copy[n / 2] : (copy[n / 2 - 1] + copy[n / 2]) / 2;
}

static double resampled(const double *v, int n, uint64_t *state)
{
    double drawn[BENCH_REPS_MAX];

    for (int i = 0; i < n; i++) {
        *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407); /* Knuth, MMIX */
        drawn[i] = v[(*state >> 33) % (uint64_t)n];
    }
    return bench_median_of(drawn, n);
}

static void middle(double *v, double *low, double *high)
{
    qsort(v, RESAMPLES, sizeof(*v), by_value);
    *low = v[RESAMPLES * 25 / 1000];
    *high = v[RESAMPLES * 975 / 1000 - 1];
}

bool bench_sign_interval(const double *sorted, int n, double *low, double *high)
{
    double term = ldexp(1, -n), below = 0; /* P(Binomial(n, 1/2) = k), and <= k */
    int k = 0;

    if (n < BENCH_INTERVAL_MIN)
        return false;
    while (below + term <= 0.025) {
        below += term;
        term *= (double)(n - k) / (k + 1);
        k++;
    }
    *low = sorted[k - 1];
    *high = sorted[n - k];
    return true;
}

void bench_bootstrap_ratio(const double *a, int n_a, const double *b, int n_b, double *low, double *high)
{
    double ratios[RESAMPLES];
    uint64_t state = SEED;

    for (int i = 0; i < RESAMPLES; i++) {
        double over = resampled(b, n_b, &state);
        ratios[i] = over / resampled(a, n_a, &state);
    }
    middle(ratios, low, high);
}
