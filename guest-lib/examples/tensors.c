/* SPDX-License-Identifier: Apache-2.0 */
#include "guest-lib/examples/tensors.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rings/abi/vgpu_abi.h"

#define HEAD_BYTES 16u
#define COUNT_MAX  65535u

struct entry {
    struct vgpu_tensor_info info;
    uint64_t offset;
};

int ex_file_open(const char *directory, const char *name, int optional, struct ex_file *out)
{
    char path[4096];
    struct stat st;

    *out = (struct ex_file){NULL, 0};
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = fd < 0 ? -errno : 0;
    if (rc == 0 && (fstat(fd, &st) || st.st_size == 0))
        rc = -EINVAL;
    if (rc == 0) {
        void *at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        rc = at == MAP_FAILED ? -errno : 0;
        if (rc == 0)
            *out = (struct ex_file){at, (size_t)st.st_size};
    }
    if (fd >= 0)
        close(fd);
    if (rc && !(optional && rc == -ENOENT))
        fprintf(stderr, "%s: %s\n", path, rc == -EINVAL ? "it is empty" : strerror(-rc));
    return rc;
}

void ex_file_close(struct ex_file *f)
{
    if (f->data)
        munmap(f->data, f->bytes);
    *f = (struct ex_file){NULL, 0};
}

/* One tensor of the file's head. 0: something in it is not so. */
static int entry_read(struct ex_tensors *t, uint32_t i)
{
    struct vgpu_tensor *s = &t->shape[i];
    struct entry e;

    memcpy(&e, (const char *)t->file.data + HEAD_BYTES + i * sizeof(e), sizeof(e));
    s->dtype = e.info.dtype;
    s->rank = e.info.rank;
    s->bytes = vgpu_dtype_size(e.info.dtype);
    if (s->bytes == 0 || s->rank > VGPU_RANK_MAX)
        return 0;
    for (uint32_t d = 0; d < s->rank; d++) {
        s->dims[d] = e.info.dims[d];
        if (s->dims[d] < 0 || __builtin_mul_overflow(s->bytes, (uint64_t)s->dims[d], &s->bytes))
            return 0;
    }
    t->data[i] = (const char *)t->file.data + e.offset;
    return e.offset % 64 == 0 && e.offset <= t->file.bytes && s->bytes <= t->file.bytes - e.offset;
}

int ex_tensors_open(const char *directory, const char *name, int optional, struct ex_tensors *out)
{
    uint32_t head[4];

    memset(out, 0, sizeof(*out));
    int rc = ex_file_open(directory, name, optional, &out->file);
    if (rc)
        return rc;
    rc = -EINVAL;
    if (out->file.bytes < HEAD_BYTES)
        goto out;
    memcpy(head, out->file.data, sizeof(head));
    if (memcmp(out->file.data, "VGPUTENS", 8) != 0 || head[2] != 1 || head[3] > COUNT_MAX ||
        head[3] > (out->file.bytes - HEAD_BYTES) / sizeof(struct entry))
        goto out;
    out->shape = calloc(head[3] + 1, sizeof(*out->shape));
    out->data = calloc(head[3] + 1, sizeof(*out->data));
    rc = out->shape && out->data ? 0 : -ENOMEM;
    for (; rc == 0 && out->count < head[3]; out->count++)
        if (!entry_read(out, out->count))
            rc = -EINVAL;
out:
    if (rc) {
        fprintf(stderr, "%s/%s: %s\n", directory, name,
                rc == -EINVAL ? "not a tensor file of version 1, or cut off" : strerror(-rc));
        ex_tensors_close(out);
    }
    return rc;
}

void ex_tensors_close(struct ex_tensors *t)
{
    free(t->shape);
    free(t->data);
    ex_file_close(&t->file);
    memset(t, 0, sizeof(*t));
}

void ex_tensors_free(struct vgpu *v, struct vgpu_tensor *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (t[i].handle)
            vgpu_tensor_free(v, &t[i]);
}

int ex_tensors_put(struct vgpu *v, const struct ex_tensors *t, uint32_t first, uint32_t n, struct vgpu_tensor *out)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct vgpu_tensor *s = &t->shape[first + i];
        int rc = vgpu_tensor_put(v, s->dtype, s->rank, s->dims, t->data[first + i], &out[i]);
        if (rc) {
            fprintf(stderr, "tensor %u: %s\n", first + i, vgpu_strerror(v));
            ex_tensors_free(v, out, i);
            return rc;
        }
    }
    return 0;
}

double ex_tensor_difference(const struct vgpu_tensor *t, const void *got, const void *want)
{
    double most = 0, scale = 1e-30;

    if (t->dtype != VGPU_F32 && t->dtype != VGPU_F64)
        return memcmp(got, want, t->bytes) == 0 ? 0 : INFINITY;
    for (uint64_t i = 0; i < t->bytes / vgpu_dtype_size(t->dtype); i++) {
        double g = t->dtype == VGPU_F32 ? (double)((const float *)got)[i] : ((const double *)got)[i];
        double w = t->dtype == VGPU_F32 ? (double)((const float *)want)[i] : ((const double *)want)[i];
        if (!isfinite(g) || !isfinite(w))
            return INFINITY;
        most = fmax(most, fabs(g - w));
        scale = fmax(scale, fabs(w));
    }
    return most / scale;
}

int ex_program_open(const char *directory, enum vgpu_program_format *format, struct ex_file *code)
{
    int rc = ex_file_open(directory, "program.mlir", 1, code);

    *format = VGPU_STABLEHLO;
    if (rc == -ENOENT) {
        *format = VGPU_HLO;
        rc = ex_file_open(directory, "program.hlo", 1, code);
    }
    if (rc == -ENOENT)
        fprintf(stderr, "%s: it has neither program.mlir nor program.hlo\n", directory);
    return rc;
}

int ex_program_load(struct vgpu *v, const char *directory, struct vgpu_program *out)
{
    enum vgpu_program_format format;
    struct ex_file code;
    int rc = ex_program_open(directory, &format, &code);

    if (rc)
        return rc;
    rc = vgpu_program_load(v, format, code.data, code.bytes, out);
    if (rc)
        fprintf(stderr, "%s\n", vgpu_strerror(v));
    ex_file_close(&code);
    return rc;
}
