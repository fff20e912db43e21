// SPDX-License-Identifier: Apache-2.0
// The installed headers compile as C++ and the library links from it.
#include "guest-lib/vgpu.h"
#include "rings/abi/vgpu_abi.h"

#include <cstring>

int main()
{
    struct vgpu_options o = {};
    struct vgpu *v = nullptr;
    char text[256];

    o.vm_id = 1;
    o.token_path = "/nonexistent";
    o.socket_path = "/nonexistent";
    int rc = vgpu_open(&o, &v, text, sizeof(text));
    vgpu_buffer b = {};
    vgpu_request r = vgpu_req_gemm(&b, &b, &b, 2, 3, 4, 1.0f, 0.0f, VGPU_GEMM_RELU, VGPU_F32);
    bool right = rc < 0 && v == nullptr && std::strlen(text) > 0 && r.opcode == VGPU_OP_GEMM && r.arg[0] == 2 && r.n == 3;
    return right ? 0 : 1;
}
