/* SPDX-License-Identifier: Apache-2.0 */
/* The wire headers as C++11 sees them: same numbers, checked by the compiler. */
#include "rings/abi/vgpu_abi.h"
#include "rings/abi/vgpu_attach.h"

#define TYPE(type, bytes, align) static_assert(sizeof(type) == bytes && alignof(type) == align, #type);
#define FIELD(type, member, off, bytes)                                                                                \
    static_assert(offsetof(type, member) == off && sizeof(type::member) == bytes, #type "." #member);
#define VALUE(name, number) static_assert(uint64_t(name) == UINT64_C(number), #name);
#include "abi_pins.h"

int main()
{
    return 0;
}
