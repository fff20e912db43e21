/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vgpu-embed: sentence embeddings on the shared device, from a guest that has this program, libvgpu and a bundle:
 *
 *   program.mlir     the model (or program.hlo): its parameters are the weights, then token ids and their mask;
 *                    its only result is f32 [sentences, width]
 *   weights.tensors  in the order of the parameters
 *   tokens.tensors   ids and mask of each batch, s32 [sentences, tokens]
 *
 * tests/ml/export_minilm.py makes one of all-MiniLM-L6-v2. The weights go to the device once, then each batch is one
 * execution. Prints a line for each sentence: its numbers. Rows whose mask is all zero are padding, and not printed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guest-lib/examples/common.h"
#include "guest-lib/examples/tensors.h"

struct model {
    struct vgpu *v;
    struct vgpu_program program;
    struct ex_tensors weights, tokens;
    struct vgpu_tensor *weight;      /* [weights.count], on the device */
    const struct vgpu_tensor **args; /* [weights.count + 2] */
    float *out;
    uint64_t sentences, device_ns;
};

static int fits(const struct model *m)
{
    const struct vgpu_tensor *out = m->program.output;

    if (m->program.outputs != 1 || out->dtype != VGPU_F32 || out->rank != 2 || out->bytes == 0) {
        fprintf(stderr, "the program does not give one f32 [sentences, width]\n");
        return 0;
    }
    for (uint32_t i = 0; i < m->tokens.count; i++) {
        const struct vgpu_tensor *t = &m->tokens.shape[i];
        if (m->tokens.count % 2 || t->dtype != VGPU_S32 || t->rank != 2 || t->dims[0] != out->dims[0]) {
            fprintf(stderr, "tokens.tensors: wanted pairs of s32 [%lld, tokens]: ids, mask\n", (long long)out->dims[0]);
            return 0;
        }
    }
    return 1;
}

static void rows_print(struct model *m, const struct vgpu_tensor *mask_shape, const int32_t *mask)
{
    int64_t width = m->program.output->dims[1], tokens = mask_shape->dims[1];

    for (int64_t row = 0; row < mask_shape->dims[0]; row++) {
        int used = 0;
        for (int64_t i = 0; i < tokens; i++)
            used |= mask[row * tokens + i] != 0;
        if (!used)
            continue;
        for (int64_t i = 0; i < width; i++)
            printf("%s%.9g", i ? " " : "", (double)m->out[row * width + i]);
        printf("\n");
        m->sentences++;
    }
}

static int batch_run(struct model *m, uint32_t at)
{
    struct vgpu_tensor in[2], out;
    int rc = ex_tensors_put(m->v, &m->tokens, at, 2, in);

    if (rc)
        return rc;
    m->args[m->weights.count] = &in[0];
    m->args[m->weights.count + 1] = &in[1];
    rc = vgpu_program_execute(m->v, &m->program, m->args, m->weights.count + 2, &out);
    if (rc == 0) {
        m->device_ns += vgpu_last_completion(m->v)->value;
        rc = vgpu_tensor_get(m->v, &out, m->out);
        if (rc)
            fprintf(stderr, "%s\n", vgpu_strerror(m->v));
        else
            rows_print(m, &m->tokens.shape[at + 1], m->tokens.data[at + 1]);
        vgpu_tensor_free(m->v, &out);
    } else {
        fprintf(stderr, "%s\n", vgpu_strerror(m->v));
    }
    ex_tensors_free(m->v, in, 2);
    return rc;
}

static int model_run(struct model *m, const char *bundle)
{
    int rc = ex_tensors_open(bundle, "weights.tensors", 0, &m->weights);

    if (rc == 0)
        rc = ex_tensors_open(bundle, "tokens.tensors", 0, &m->tokens);
    if (rc == 0)
        rc = ex_program_load(m->v, bundle, &m->program);
    if (rc || !fits(m))
        return -1;
    m->weight = calloc(m->weights.count + 1, sizeof(*m->weight));
    m->args = calloc(m->weights.count + 2, sizeof(*m->args));
    m->out = malloc(m->program.output->bytes);
    if (!m->weight || !m->args || !m->out) {
        fprintf(stderr, "no memory\n");
        return -1;
    }
    if (ex_tensors_put(m->v, &m->weights, 0, m->weights.count, m->weight))
        return -1;
    for (uint32_t i = 0; i < m->weights.count; i++)
        m->args[i] = &m->weight[i];
    for (uint32_t at = 0; at < m->tokens.count && rc == 0; at += 2)
        rc = batch_run(m, at);
    return rc;
}

int main(int argc, char **argv)
{
    struct model m = {0};

    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "usage: vgpu-embed BUNDLE\n"
                        "Prints the embeddings of the sentences in the directory BUNDLE (program.mlir, weights.tensors,\n"
                        "tokens.tensors). The VM is named by VGPU_VM_ID, the host by VGPU_SOCKET, the token by\n"
                        "VGPU_TOKEN_FILE.\n");
        return 2;
    }
    m.v = ex_open();
    if (!m.v)
        return 1;
    uint64_t from = ex_now_ns();
    int rc = model_run(&m, argv[1]);
    if (rc == 0)
        fprintf(stderr, "%llu sentences in %u executions, %.1f ms on the device; %.1f ms with loading\n",
                (unsigned long long)m.sentences, m.tokens.count / 2, (double)m.device_ns / 1e6,
                (double)(ex_now_ns() - from) / 1e6);
    if (m.program.handle)
        vgpu_program_free(m.v, &m.program);
    vgpu_close(m.v); /* what is on the device goes with it */
    ex_tensors_close(&m.weights);
    ex_tensors_close(&m.tokens);
    free(m.weight);
    free(m.args);
    free(m.out);
    return rc == 0 && m.sentences ? 0 : 1;
}
