/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "Did you mean": the known word nearest to a mistyped one. Any thread, never allocates. Used for configuration keys,
 * control arguments and vgpu-ctl's options, so it stands in a header without a library behind it.
 */
#ifndef VGPU_BASE_SUGGEST_H
#define VGPU_BASE_SUGGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#define VGPU_SUGGEST_CHARS 63u /* longer words are not compared */

/* Insertions, deletions, replacements and swaps of neighbours that make b of a; UINT_MAX-like when too long. */
static inline unsigned vgpu_edit_distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    if (n > VGPU_SUGGEST_CHARS || m > VGPU_SUGGEST_CHARS)
        return ~0u;
    unsigned row[3][VGPU_SUGGEST_CHARS + 1];
    unsigned *before = row[0], *last = row[1], *now = row[2];

    for (size_t j = 0; j <= m; j++)
        last[j] = (unsigned)j;
    for (size_t i = 1; i <= n; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= m; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
        unsigned *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[m];
}

/*
 * Keeps in *best the nearest of the candidates it is called with; *distance starts as ~0u. A candidate counts only if
 * about a third of its letters or fewer differ, so that no unrelated word is proposed; or only their case: pool "a" is "A".
 */
static inline void vgpu_suggest_consider(const char *word, const char *candidate, const char **best, unsigned *distance)
{
    bool case_only = strcasecmp(word, candidate) == 0;
    unsigned d = case_only ? 0 : vgpu_edit_distance(word, candidate);
    size_t length = strlen(candidate);
    unsigned most = length < 4 ? 1 : (unsigned)(length + 2) / 3;

    if (d <= most && (d < length || case_only) && d < *distance) {
        *distance = d;
        *best = candidate;
    }
}

#endif
