/* SPDX-License-Identifier: Apache-2.0 */
/* What a bug report may not carry, and what it must keep to be of use. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/doctor.h"

static struct vgpu_secrets secrets = {
    .text = {"SecretWord-without-digits"}, .count = 1, .host = "box7.example.org", .host_short = "box7"};

static void gone(const char *text, const char *secret)
{
    char *out = vgpu_redact(&secrets, text);

    cr_assert_not_null(out);
    cr_expect_null(strcasestr(out, secret), "'%s' kept '%s': %s", text, secret, out);
    free(out);
}

static void kept(const char *text)
{
    char *out = vgpu_redact(&secrets, text);

    cr_expect_str_eq(out, text);
    free(out);
}

Test(redact, secrets_go)
{
    gone("token SecretWord-without-digits.", "SecretWord");
    gone("xxSECRETWORD-WITHOUT-DIGITSxx", "SecretWord");
    gone("0123456789abcdef0123456789ABCDEF", "0123456789abcdef");
    gone("id=6f1c1e52-0000-4a4b-8c8d-123456789abc;", "6f1c1e52");
    gone("GPU-6F1C1E52-0000-4A4B-8C8D-123456789ABC", "6F1C1E52");
    gone("eth0 52:54:00:12:34:56 up", "52:54");
    gone("from 192.168.17.5 port 22", "192.168");
    gone("inet6 fe80::5054:ff:fe12:3456/64", "5054");
    gone("Serial Number: S3Z9NB0K", "S3Z9NB0K");
    gone("serial=1563422001234", "156342");
    gone("{\"serial\": \"1563X\", \"b\": 1}", "1563X");
    gone("password: hunter2", "hunter2");
    gone("host box7 and box7.example.org said", "box7");
    gone("BOX7:", "box7");
    gone("see "
         "/ho"
         "me/alice/vgpu.log",
         "alice");
}

Test(redact, the_rest_stays)
{
    kept("0000:41:00.0 10de:2331 Xid 79 at 12:34:56");
    kept("vgpud 0.1.0, ABI 2.3, driver 580.65.06");
    kept("box77 and mybox7 are others");
    kept("{\"token_file\":\"/run/vgpu/tokens/vm-1\"}");
    kept("");
}

Test(redact, json_stays_json)
{
    json_t *value =
        json_pack("{s:[s, s], s:s, s:s, s:I, s:f, s:n}", "list", "0123456789abcdef01234567", "vm-1", "serial", "1563X",
                  "token", "abc", "bytes", (json_int_t)1234567890123456789, "uptime_s", 0.1, "uuid");
    json_t *out = vgpu_redact_json(&secrets, value);

    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(out, "list"), 0)), "<hex>");
    cr_expect_str_eq(json_string_value(json_array_get(json_object_get(out, "list"), 1)), "vm-1");
    cr_expect_str_eq(json_string_value(json_object_get(out, "serial")), "<redacted>");
    cr_expect_str_eq(json_string_value(json_object_get(out, "token")), "<redacted>");
    cr_expect_eq(json_integer_value(json_object_get(out, "bytes")), 1234567890123456789);
    cr_expect(json_is_null(json_object_get(out, "uuid")));
    json_decref(value);
    json_decref(out);
}

Test(redact, command_line)
{
    char *out = vgpu_redact_cmdline("root=UUID=x intel_iommu=on quiet secret_flag=abc luks.key=def -- word\n");

    cr_assert_str_eq(out, "root=<value> intel_iommu=on quiet secret_flag=<value> luks.key=<value> -- <arguments of init>");
    free(out);
}

Test(redact, token_files_are_known)
{
    static struct vgpu_secrets s;
    char dir[] = "/tmp/vgpu-redact-XXXXXX", path[64];

    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/vm-1", dir);
    FILE *f = fopen(path, "w");
    fputs("plain-words-as-a-token\n", f);
    fclose(f);
    vgpu_secrets_read(&s, dir);
    unlink(path);
    rmdir(dir);
    char *out = vgpu_redact(&s, "it is plain-words-as-a-token!");
    cr_expect_str_eq(out, "it is <token>!");
    free(out);
    vgpu_secrets_read(&s, "/nowhere/at/all");
    cr_expect_eq(s.count, 0);
}
