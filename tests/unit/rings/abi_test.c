/* SPDX-License-Identifier: Apache-2.0 */
/* Pins the wire format by number (abi_pins.h), and that its structs have no hidden bytes. */
#include "rings/abi/vgpu_abi.h"
#include "rings/abi/vgpu_attach.h"

#include <criterion/criterion.h>
#include <stdalign.h>
#include <string.h>

#define MEMBER_BYTES(type, member) sizeof(((struct type *)0)->member)

Test(abi, every_offset_size_and_constant)
{
#define TYPE(type, bytes, align)                                                                                       \
    cr_expect_eq(sizeof(struct type), bytes, "sizeof(" #type ") is %zu", sizeof(struct type));                         \
    cr_expect_eq(alignof(struct type), align, "alignof(" #type ") is %zu", alignof(struct type));
#define FIELD(type, member, off, bytes)                                                                                \
    cr_expect_eq(offsetof(struct type, member), off, #type "." #member " is at %zu", offsetof(struct type, member));   \
    cr_expect_eq(MEMBER_BYTES(type, member), bytes, #type "." #member " has %zu bytes", MEMBER_BYTES(type, member));
#define VALUE(name, number)                                                                                            \
    cr_expect_eq((uint64_t)(name), UINT64_C(number), #name " is %llu", (unsigned long long)(name));
#include "abi_pins.h"
#undef TYPE
#undef FIELD
#undef VALUE
}

/* The fields of a type lie back to back, padding fields named: a hole would carry host memory to a guest. */
Test(abi, no_hidden_bytes)
{
    size_t named = 0;
    const char *type_now = "";
    size_t size_now = 0;

#define TYPE(type, bytes, align)                                                                                       \
    cr_expect(named == size_now, "%s: %zu of %zu bytes are fields", type_now, named, size_now);                        \
    type_now = #type;                                                                                                  \
    size_now = bytes;                                                                                                  \
    named = strstr(#type, "_ctrl") ? 240 : 0; /* pad0 and pad1 */
#define FIELD(type, member, off, bytes) named += bytes;
#define VALUE(name, number)
#include "abi_pins.h"
#undef TYPE
#undef FIELD
#undef VALUE
    cr_expect(named == size_now, "%s: %zu of %zu bytes are fields", type_now, named, size_now);
}

Test(abi, magics_read_as_text_in_memory)
{
    uint64_t region = VGPU_REGION_MAGIC, props = VGPU_PROPS_MAGIC;
    uint32_t attach = VGPU_ATTACH_MAGIC;

    cr_expect(memcmp(&region, "VGPURGN1", 8) == 0);
    cr_expect(memcmp(&props, "VGPUPRP1", 8) == 0);
    cr_expect(memcmp(&attach, "GVAT", 4) == 0);
}

Test(abi, references_take_apart_as_put_together)
{
    const uint32_t handles[] = {0, 1, 255, 256, 65535};
    const uint64_t offsets[] = {0, 1, 4095, UINT64_C(1) << 32, VGPU_OFFSET_MASK};

    for (size_t i = 0; i < 5; i++) {
        for (size_t j = 0; j < 5; j++) {
            uint64_t ref = VGPU_REF(handles[i], offsets[j]);
            cr_expect_eq(VGPU_REF_HANDLE(ref), handles[i]);
            cr_expect_eq(VGPU_REF_OFFSET(ref), offsets[j]);
        }
    }
    /* An offset too large must not change the handle. */
    cr_expect_eq(VGPU_REF_HANDLE(VGPU_REF(7, UINT64_MAX)), 7);
}
