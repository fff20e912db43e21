/* SPDX-License-Identifier: Apache-2.0 */
/* Every command and each kind of wrong argument: exit code, output and diagnostics; with a daemon that pretends. */
#include "ctl/run.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../control/control_rig.h"
#include "ctl/args.h"
#include "ctl/print.h"

#define MAX_WORDS 16

static struct control_rig_child daemon_child;
static char *out, *errors;

static void setup(void)
{
    daemon_child = control_rig_start(3);
    setenv(VGPU_CTL_SOCKET_ENV, daemon_child.socket, 1);
}
static void teardown(void)
{
    control_rig_stop(&daemon_child);
}
TestSuite(ctl, .init = setup, .fini = teardown);

static int run_words(int argc, char **argv)
{
    size_t n, m;

    free(out);
    free(errors);
    FILE *o = open_memstream(&out, &n), *e = open_memstream(&errors, &m);
    int code = vgpu_ctl_run(argc, argv, o, e);
    fclose(o);
    fclose(e);
    return code;
}

/* Splits at spaces. */
static int run(const char *line)
{
    char copy[512], *rest = copy, *word, *argv[MAX_WORDS + 1] = {"vgpu-ctl"};
    int argc = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    while ((word = strsep(&rest, " ")) && argc < MAX_WORDS)
        if (*word)
            argv[argc++] = word;
    argv[argc] = NULL;
    return run_words(argc, argv);
}

static void prints(const char *line, const char *expected)
{
    int code = run(line);
    cr_expect_eq(code, 0, "%s: %s", line, errors);
    cr_expect_str_eq(out, expected, "%s\n%s\nexpected\n%s", line, out, expected);
    cr_expect_str_eq(errors, "");
}

static void fails(const char *line, int exit_code, const char *message)
{
    int code = run(line);
    cr_expect_eq(code, exit_code, "%s: %d %s", line, code, errors);
    cr_expect_str_eq(out, "", "%s", out);
    cr_expect_not_null(strstr(errors, message), "%s\n%s\nexpected %s", line, errors, message);
    cr_expect_eq(strncmp(errors, "vgpu-ctl: ", 10), 0);
    cr_expect_eq(strchr(errors, '\n'), errors + strlen(errors) - 1, "one line: %s", errors);
}

Test(ctl, a_day_of_work)
{
    char expected[1024];
    uint32_t uid = geteuid();

    prints("list-vms", "no VMs\n");
    prints("register-vm --vm-id=1-2 --pool=A --priority=high", "registered VM 1, without identity: it cannot attach\n"
                                                               "registered VM 2, without identity: it cannot attach\n");
    snprintf(expected, sizeof(expected),
             "register-vm --vm-id 3 --pool B --uid %u --name big --arena-bytes=1G --engine=batch "
             "--in-flight=7 --device-bytes=1536K",
             uid);
    cr_assert_eq(run(expected), 0, "%s", errors);
    snprintf(expected, sizeof(expected), "registered VM 3, token in %s/tokens/vm-3.token\n", daemon_child.dir);
    cr_assert_str_eq(out, expected);
    snprintf(expected, sizeof(expected),
             "VM  NAME  POOL  PRIORITY  STATE       %*sUID   PID  IN-FLIGHT  ARENA  DEVICE\n"
             " 1  vm-1  A     high      registered  %*s-     -       1024    64M     64M\n"
             " 2  vm-2  A     high      registered  %*s-     -       1024    64M     64M\n"
             " 3  big   B     medium    attached    %*u  4242          7     1G    1.5M\n"
             "VM 3 runs: its arena_bytes counts from its next attach on; it has an arena of 1M now\n",
             uid > 999 ? snprintf(NULL, 0, "%u", uid) - 3 : 0, "", (uid > 999 ? snprintf(NULL, 0, "%u", uid) : 3) - 1,
             "", (uid > 999 ? snprintf(NULL, 0, "%u", uid) : 3) - 1, "", uid > 999 ? 0 : 3, uid);
    prints("list-vms", expected);
    prints("list-vms --pool=B --json --priority=low", "{\"vms\":[]}\n");
    snprintf(
        expected, sizeof(expected),
        "vm_id                 3\npool                  B\npriority              medium\n"
        "name                  big\nuuid                  -\n"
        "engine                batch\n"
        "state                 attached\nuid                   %u\npid                   4242\n"
        "in_flight             7\narena_bytes           1G\nattached_arena_bytes  1M\n"
        "arena_access          bounce\ndevice_bytes          1.5M\n"
        "token_file            %s/tokens/vm-3.token\nbroken_reason         -\n"
        "isolation             shared\niommu_domain          0\n"
        "admin_state           active\nreason                -\nexpected              no\n"
        "pending               arena_bytes\n",
        uid, daemon_child.dir);
    prints("show-vm --vm-id=3", expected);
    prints("list-pools", "POOL  MEMBERS  CAPACITY  EXECUTOR  BACKEND  PID  STATE\n"
                         "A           2         3  exec-A    cpu       77  up\n"
                         "B           1        32  exec-B    cpu       77  up\n"
                         "B: device: a GPU\n");
    prints("remove-vm --vm-id=2,1", "removed VM 2\nremoved VM 1\n");
    fails("--json remove-vm --vm-id=1-3", 1, "VM 3 is attached");
}

Test(ctl, stats_as_tables)
{
    prints("stats", "daemon\n  version   " VGPU_VERSION "\n  uptime_s  3\n"
                    "\npoll cores\nindex  polls\n    0   1234\n"
                    "\nexecutors\nname    backend\nexec-A  cpu\n"
                    "\npools\n"
                    "POOL  PRIORITY  QUEUED  IN-FLIGHT  COMPLETED  P50 us  P95 us  P99 us  P99.9 us  MAX us\n"
                    "A     high           1          2          8     1.5     2.0     3.0       4.0     5.2\n"
                    "\nVMs\n"
                    "VM  POOL  PRIORITY  ACCEPTED  COMPLETED  REFUSED  FAILED  LOST  QUEUED  BYTES  P50 us  P95 us  "
                    "P99 us  P99.9 us  MAX us\n"
                    " 3  A     high             9          8        1       0     0       1     1M     1.5     2.0     "
                    "3.0       4.0     5.2\n");
}

Test(ctl, json_is_the_result_on_one_line)
{
    static const char *const lines[] = {"list-vms --json",
                                        "list-pools --json",
                                        "--json stats",
                                        "version --json",
                                        "show-vm --json --vm-id=1",
                                        "register-vm --vm-id=2 --pool=A --json",
                                        "remove-vm --vm-id=2 --json"};
    cr_assert_eq(run("register-vm --vm-id=1 --pool=A"), 0);
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        cr_expect_eq(run(lines[i]), 0, "%s", errors);
        json_t *json = json_loads(out, JSON_REJECT_DUPLICATES, NULL);
        cr_expect(json_is_object(json), "%s: %s", lines[i], out);
        cr_expect_eq(strchr(out, '\n'), out + strlen(out) - 1);
        cr_expect_str_eq(errors, "");
        json_decref(json);
    }
    cr_assert_eq(run("show-vm --vm-id=1 --json"), 0);
    cr_assert_str_eq(out, "{\"vm\":{\"vm_id\":1,\"pool\":\"A\",\"priority\":\"medium\",\"name\":\"vm-1\",\"uuid\":null,"
        "\"engine\":\"auto\",\"state\":"
                          "\"registered\",\"uid\":null,\"pid\":null,\"in_flight\":1024,\"arena_bytes\":67108864,"
                          "\"attached_arena_bytes\":null,"
                          "\"arena_access\":null,\"device_bytes\":67108864,\"token_file\":null,"
                          "\"broken_reason\":null,\"isolation\":\"shared\",\"iommu_domain\":0,"
                          "\"admin_state\":\"active\",\"reason\":null,\"expected\":false,\"pending\":[]}}\n");
    prints("version --json", "{\"version\":\"" VGPU_VERSION "\",\"abi\":\"1.1\"}\n");
    prints("version", "version  " VGPU_VERSION "\nabi      1.1\n");
}

Test(ctl, the_daemon_refuses)
{
    fails("show-vm --vm-id=9", 1, "VM 9 is not registered (ENOENT)");
    fails("show-vm --vm-id=9 --json", 1, "VM 9 is not registered (ENOENT)");
    fails("register-vm --vm-id=9 --pool=C", 1, "there is no pool C; there are A, B (ENOENT)");
    fails("register-vm --vm-id=1-9 --pool=A", 1, "VM 4: pool A is full");
    cr_assert_eq(run("register-vm --vm-id=3 --pool=A"), 0);
    fails("register-vm --vm-id=1-3 --pool=A", 1, "VM 3 is registered already");
    fails("remove-vm --vm-id=3", 1, "VM 3 is attached; stop it first, or vgpu-ctl drain-vm --vm-id=3 (EBUSY)");
    fails("register-vm --vm-id=1 --pool=A --in-flight=65536", 1, "more than limits.in_flight");
    fails("stats --vm-id=7", 1, "VM 7 is not registered");
}

static const struct {
    const char *line, *message;
} wrong_lines[] = {
    {"", "no command; vgpu-ctl help lists them"},
    {"--json", "no command"},
    {"--pool=A", "no command"},
    {"lst-vms", "unknown command 'lst-vms'; did you mean list-vms?"},
    {"frobnicate", "unknown command 'frobnicate'; vgpu-ctl help lists them"},
    {"hlep", "did you mean help?"},
    {"list-vms extra", "list-vms: unexpected argument 'extra'"},
    {"list-vms -- --pool=A", "list-vms: unexpected argument '--pool=A'"},
    {"list-vms -", "list-vms: unexpected argument '-'"},
    {"list-vms -p A", "unknown option '-p'"},
    {"list-vms --poll=A", "unknown option 'poll'; did you mean --pool?"},
    {"list-vms --vm-id=1", "unknown option 'vm-id'; vgpu-ctl help list-vms lists"},
    {"list-pools --jsn", "did you mean --json?"},
    {"list-vms --pool=A --pool=B", "--pool: given twice"},
    {"list-vms --pool=", "--pool: has no value; expected --pool=NAME"},
    {"list-vms --pool", "--pool: has no value"},
    {"list-vms --pool --json", "--pool: has no value"},
    {"list-vms --json=yes", "--json: takes no value"},
    {"list-vms --help=me", "--help: takes no value"},
    {"list-vms --socket", "--socket: has no value"},
    {"list-vms --socket=", "--socket: expected a path"},
    {"--socket=/a --socket=/b list-vms", "--socket: given twice"},
    {"list-vms --pool=a/b", "--pool: 'a/b' is not a name"},
    {"list-vms --pool=a2345678901234567890123456789012", "is not a name; expected 1 to 31"},
    {"list-vms --priority=hihg", "'hihg' is no priority; expected high, medium or low; did you mean high?"},
    {"register-vm --vm-id=1 --pool=A --engine=stram",
     "'stram' is no engine; expected auto, stream, batch or resident; did you mean stream?"},
    {"register-vm --vm-id=1 --pool=A --engine=0", "'0' is no engine"},
    {"list-vms --engine=auto", "unknown option 'engine'; vgpu-ctl help list-vms lists"},
    {"list-vms --priority=7", "'7' is no priority; expected high, medium or low"},
    {"register-vm --pool=A", "register-vm: --vm-id=N|N-M|N,M is missing; for example: vgpu-ctl register-vm"},
    {"register-vm --vm-id=1", "register-vm: --pool=NAME is missing"},
    {"remove-vm", "remove-vm: --vm-id=N|N-M|N,M is missing"},
    {"show-vm", "show-vm: --vm-id=N is missing"},
    {"show-vm --vm-id=1-2", "--vm-id: '1-2' is out of range; expected a whole number from 1 to 65535"},
    {"show-vm --vm-id=0", "'0' is out of range"},
    {"show-vm --vm-id=65536", "'65536' is out of range"},
    {"show-vm --vm-id=99999999999999999999999", "is out of range"},
    {"show-vm --vm-id=-1", "'-1' is out of range"},
    {"show-vm --vm-id -1", "unknown option '-1'"},
    {"show-vm --vm-id --json", "--vm-id: has no value"},
    {"show-vm --vm-id=0x1", "'0x1' is out of range"},
    {"remove-vm --vm-id=0", "'0' is no list of VM ids; expected ids from 1 to 65535 such as 3, 1-7 or 1-3,9"},
    {"remove-vm --vm-id=1-", "'1-' is no list of VM ids"},
    {"remove-vm --vm-id=-3", "'-3' is no list of VM ids"},
    {"remove-vm --vm-id=1,,2", "'1,,2' is no list of VM ids"},
    {"remove-vm --vm-id=1,", "'1,' is no list of VM ids"},
    {"remove-vm --vm-id=,", "',' is no list of VM ids"},
    {"remove-vm --vm-id=1-2-3", "'1-2-3' is no list of VM ids"},
    {"remove-vm --vm-id=1-65536", "'1-65536' is no list of VM ids"},
    {"remove-vm --vm-id=all", "'all' is no list of VM ids"},
    {"remove-vm --vm-id=7-1", "the range 7-1 runs backwards"},
    {"remove-vm --vm-id=1-5,3", "'1-5,3' names VM 3 twice"},
    {"register-vm --vm-id=1 --pool=A --uid=4294967295", "there is no user '4294967295'"},
    {"register-vm --vm-id=1 --pool=A --uid=no-such-user-here", "there is no user 'no-such-user-here'"},
    {"register-vm --vm-id=1 --pool=A --in-flight=0", "--in-flight: '0' is out of range"},
    {"register-vm --vm-id=1 --pool=A --in-flight=65537", "--in-flight: '65537' is out of range"},
    {"register-vm --vm-id=1 --pool=A --arena-bytes=4095", "--arena-bytes: '4095' is no size that fits"},
    {"register-vm --vm-id=1 --pool=A --arena-bytes=1025G", "'1025G' is no size that fits"},
    {"register-vm --vm-id=1 --pool=A --arena-bytes=64m", "'64m' is no size that fits"},
    {"register-vm --vm-id=1 --pool=A --arena-bytes=K", "'K' is no size that fits"},
    {"register-vm --vm-id=1 --pool=A --device-bytes=-1", "'-1' is no size that fits"},
    {"register-vm --vm-id=1 --pool=A --uidd=5", "unknown option 'uidd'; did you mean --uid?"},
    {"completion", "completion: bash|zsh|fish is missing; for example: vgpu-ctl completion bash"},
    {"completion tcsh", "completion: unexpected argument 'tcsh'; expected bash|zsh|fish"},
    {"completion bsh", "did you mean bash?"},
    {"completion bash zsh", "completion: unexpected argument 'zsh'"},
    {"completion bash --pool=A", "unknown option 'pool'"},
    {"help lst-pools", "did you mean list-pools?"},
};

/* Wrong command lines never reach the daemon: there is none here. */
Test(ctl_usage, wrong_command_lines)
{
    setenv(VGPU_CTL_SOCKET_ENV, "/nonexistent/c.sock", 1);
    for (size_t i = 0; i < sizeof(wrong_lines) / sizeof(wrong_lines[0]); i++)
        fails(wrong_lines[i].line, 2, wrong_lines[i].message);
    char many[300] = "remove-vm --vm-id=1-65535";
    strcpy(many, "list-vms --pool=");
    memset(many + strlen(many), 'x', 256);
    fails(many, 2, "--pool: the value has 256 bytes; expected at most 255");
    fails("list-vms --pool=a\033[2J", 2, "--pool: 'a?[2J' holds a control character");
    fails("\033[2J", 2, "unknown command '?[2J'");
    char *empty[] = {"vgpu-ctl", "list-vms", "", NULL};
    cr_expect_eq(run_words(3, empty), 2);
    cr_expect_not_null(strstr(errors, "unexpected argument ''"), "%s", errors);
    char *value[] = {"vgpu-ctl", "list-vms", "--pool", "", NULL};
    cr_expect_eq(run_words(4, value), 2);
    cr_expect_not_null(strstr(errors, "--pool: has no value"), "%s", errors);
}

Test(ctl_usage, no_daemon)
{
    setenv(VGPU_CTL_SOCKET_ENV, "/nonexistent/c.sock", 1);
    fails("list-vms", 3, "cannot reach vgpud at /nonexistent/c.sock: No such file or directory; is vgpud running?");
    fails("list-vms --socket=/dev/null", 3, "cannot reach vgpud at /dev/null: Connection refused");
    fails("--socket /also/none list-vms", 3, "/also/none");
}

Test(ctl_usage, values_of_several_lines_and_empty_ones)
{
    json_t *r = json_pack("{s:{s:s,s:s},s:[{s:s,s:s}],s:[{s:i,s:s,s:{s:i,s:f}}]}", "daemon", "startup",
                          "one\ntwo \033[2J\n\nfour", "x", "y", "executors", "name", "e", "state", "", "vms", "vm_id",
                          1, "pool", "A", "latency", "count", 0, "p50_us", 0.0);
    char *text = NULL;
    size_t n;

    FILE *f = open_memstream(&text, &n);
    vgpu_ctl_print_stats(f, r, false);
    fclose(f);
    static const char expected[] =
        "daemon\n  startup  one\n           two ?[2J\n           \n           four\n  x        y\n"
        "\nexecutors\nname  state\ne     -\n\nVMs\n";
    cr_expect_eq(strncmp(text, expected, sizeof(expected) - 1), 0, "%s", text);
    cr_expect_null(strstr(text, "0.0"), "no reading, no percentile: %s", text);
    free(text);
    json_decref(r);
}

/* A daemon that answers nonsense, or nothing. */
Test(ctl_usage, answers_that_are_none)
{
    static const struct {
        const char *answer, *message;
    } bad[] = {{"", "closed without an answer"},
               {"hello\n", "the answer is not of the control protocol"},
               {"{}\n", "not of the control protocol"},
               {"{\"ok\":true}\n", "not of the control protocol"},
               {"{\"ok\":true,\"result\":[]}\n", "not of the control protocol"},
               {"{\"ok\":true,\"result\":{\"vms\":[", "not of the control protocol"},
               {"{\"ok\":false,\"error\":{\"code\":5}}\n", "not of the control protocol"}};
    char path[] = "/tmp/vgpu-ctl-XXXXXX", name[64], line[128];
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    cr_assert_not_null(mkdtemp(path));
    snprintf(name, sizeof(name), "%s/s", path);
    strcpy(a.sun_path, name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)) | listen(fd, 8), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            char request[256];
            int client = accept(fd, NULL, NULL);
            ssize_t got = recv(client, request, sizeof(request), 0);
            _exit(got < 0 || send(client, bad[i].answer, strlen(bad[i].answer), MSG_NOSIGNAL) < 0);
        }
        snprintf(line, sizeof(line), "list-vms --socket=%s", name);
        fails(line, 3, bad[i].message);
        waitpid(pid, NULL, 0);
    }
    /* A refusal with control characters does not reach the terminal as such. */
    pid_t pid = fork();
    if (pid == 0) {
        static const char answer[] = "{\"ok\":false,\"error\":{\"code\":\"EBUSY\",\"message\":\"a\\u001b[2Jb\\nc\"}}\n";
        char request[256];
        int client = accept(fd, NULL, NULL);
        ssize_t got = recv(client, request, sizeof(request), 0);
        _exit(got < 0 || send(client, answer, sizeof(answer) - 1, MSG_NOSIGNAL) < 0);
    }
    fails(line, 1, "a?[2Jb?c (EBUSY)");
    waitpid(pid, NULL, 0);
    close(fd);
    unlink(name);
    rmdir(path);
}

Test(ctl_usage, help_for_everything)
{
    char line[64];

    unsetenv(VGPU_CTL_SOCKET_ENV);
    cr_assert_eq(run("help"), 0);
    for (uint32_t i = 0; i < vgpu_ctl_command_count; i++) {
        const struct vgpu_ctl_command *c = &vgpu_ctl_commands[i];
        cr_assert_eq(run("--help"), 0);
        cr_expect_not_null(strstr(out, c->name), "the overview lacks %s", c->name);
        snprintf(line, sizeof(line), "help %s", c->name);
        cr_assert_eq(run(line), 0);
        cr_expect_not_null(strstr(out, c->example));
        for (const struct vgpu_ctl_option *o = c->options; o->name; o++)
            cr_expect_not_null(strstr(out, o->name), "help %s lacks --%s", c->name, o->name);
        char *first = strdup(out);
        snprintf(line, sizeof(line), "%s --help", c->name);
        cr_assert_eq(run(line), 0);
        cr_expect_str_eq(out, first);
        free(first);
        /* The example is a command line that works. */
        char example[256], *argv[MAX_WORDS + 1], *rest = example;
        int argc = 0;
        struct vgpu_ctl_line parsed;
        struct vgpu_err err;
        snprintf(example, sizeof(example), "%s", c->example);
        while (argc < MAX_WORDS && (argv[argc] = strsep(&rest, " ")))
            argc++;
        cr_expect_eq(vgpu_ctl_parse(argc, argv, &parsed, &err), 0, "%s: %s", c->example, err.text);
        cr_expect_eq(parsed.command, c);
        vgpu_ctl_line_free(&parsed);
    }
    prints("--version", "vgpu-ctl " VGPU_VERSION "\n");
    prints("-V", "vgpu-ctl " VGPU_VERSION "\n");
    cr_assert_eq(run("-h"), 0);
}

/* A local command gets its word, and needs no daemon. */
Test(ctl_usage, completion_knows_every_command_and_option)
{
    static const char *const shells[] = {"completion bash", "completion --json zsh", "completion fish"};

    setenv(VGPU_CTL_SOCKET_ENV, "/nonexistent/c.sock", 1);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(run(shells[i]), 0, "%s", errors);
        for (uint32_t k = 0; k < vgpu_ctl_command_count; k++) {
            cr_expect_not_null(strstr(out, vgpu_ctl_commands[k].name), "%s lacks %s", shells[i],
                               vgpu_ctl_commands[k].name);
            for (const struct vgpu_ctl_option *o = vgpu_ctl_commands[k].options; o->name; o++)
                cr_expect_not_null(strstr(out, o->name), "%s lacks --%s", shells[i], o->name);
        }
    }
}

Test(ctl_usage, what_options_become)
{
    static const struct {
        const char *line, *args;
    } good[] = {
        {"register-vm --vm-id=1-3,9 --pool=A --priority=low",
         "{\"vm_ids\":[1,2,3,9],\"pool\":\"A\",\"priority\":\"low\"}"},
        {"--pool A --vm-id 5 register-vm", "{\"vm_ids\":[5],\"pool\":\"A\"}"},
        {"register-vm --vm-id=65535 --pool=p --uid=root --arena-bytes=4K --device-bytes=0 --in-flight=65536 --name=n",
         "{\"vm_ids\":[65535],\"pool\":\"p\",\"uid\":0,\"arena_bytes\":4096,\"device_bytes\":0,\"in_flight\":65536,"
         "\"name\":\"n\"}"},
        {"register-vm --vm-id=1 --pool=p --arena-bytes=1024G --device-bytes=3M",
         "{\"vm_ids\":[1],\"pool\":\"p\",\"arena_bytes\":1099511627776,\"device_bytes\":3145728}"},
        {"register-vm --vm-id=1 --pool=p --engine=resident",
         "{\"vm_ids\":[1],\"pool\":\"p\",\"engine\":\"resident\"}"},
        {"stats", "{}"},
        {"stats --vm-id=12", "{\"vm_id\":12}"},
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        char copy[256], *rest = copy, *argv[MAX_WORDS + 1] = {"vgpu-ctl"};
        int argc = 1;
        struct vgpu_ctl_line line;
        struct vgpu_err err;
        json_t *want = json_loads(good[i].args, 0, NULL);

        snprintf(copy, sizeof(copy), "%s", good[i].line);
        while (argc < MAX_WORDS && (argv[argc] = strsep(&rest, " ")))
            argc++;
        cr_assert_eq(vgpu_ctl_parse(argc, argv, &line, &err), 0, "%s", err.text);
        cr_expect(json_equal(line.args, want), "%s", good[i].line);
        json_decref(want);
        vgpu_ctl_line_free(&line);
    }
}

Test(ctl_usage, tables_align_and_stay_clean)
{
    json_t *r =
        json_loads("{\"vms\":[{\"vm_id\":1,\"name\":\"gr\\u00fcn\",\"pool\":\"A\\u001b[31m\",\"state\":\"broken\"},"
                   "{\"vm_id\":65535,\"name\":\"plain\",\"pool\":\"B\"}]}",
                   0, NULL);
    char *text = NULL;
    size_t n;

    cr_assert_not_null(r);
    FILE *f = open_memstream(&text, &n);
    vgpu_ctl_print_vms(f, r, false);
    fclose(f);
    cr_assert_str_eq(text,
                     "   VM  NAME   POOL    PRIORITY  STATE   UID  PID  IN-FLIGHT  ARENA  DEVICE\n"
                     "    1  gr\u00fcn   A?[31m  -         broken    -    -          -      -       -\n"
                     "65535  plain  B       -         -         -    -          -      -       -\n",
                     "%s", text);
    free(text);
    f = open_memstream(&text, &n);
    vgpu_ctl_print_vms(f, r, true);
    fclose(f);
    cr_assert_not_null(strstr(text, "\033[31mbroken\033[0m"));
    cr_assert_not_null(strstr(text, "\033[1mNAME\033[0m"));
    free(text);
    json_decref(r);
}

/* What is too long for a table stands below it, in sentences. */
Test(ctl_usage, notes_below_the_table)
{
    json_t *r = json_loads("{\"pools\":[{\"name\":\"A\",\"backend\":\"cpu\",\"device\":null,\"fallback\":\"no "
                           "driver\",\"fault\":\"device lost: Xid\\n79\"},{\"name\":\"B\",\"backend\":\"cuda\","
                           "\"device\":\"NVIDIA H200\",\"fallback\":null,\"fault\":null}],"
                           "\"executors\":[{\"name\":\"e\",\"backend\":\"cuda\","
                           "\"fault\":\"\",\"last_fault\":\"gone\"}]}",
                           0, NULL);
    char *text = NULL;
    size_t n;

    cr_assert_not_null(r);
    FILE *f = open_memstream(&text, &n);
    vgpu_ctl_print_pools(f, r, false);
    fclose(f);
    cr_assert_str_eq(text,
                     "POOL  MEMBERS  CAPACITY  EXECUTOR  BACKEND  PID  STATE\n"
                     "A           -         -  -         cpu        -  -\n"
                     "B           -         -  -         cuda       -  -\n"
                     "A: backend auto fell back: no driver\n"
                     "A: fault: device lost: Xid?79\n"
                     "B: device: NVIDIA H200\n",
                     "%s", text);
    free(text);
    json_object_del(r, "pools");
    f = open_memstream(&text, &n);
    vgpu_ctl_print_stats(f, r, false);
    fclose(f);
    cr_assert_str_eq(text, "\nexecutors\nname  backend\ne     cuda\ne: last fault: gone\n", "%s", text);
    free(text);
    json_decref(r);
}

Test(ctl_usage, a_result_that_cannot_be_written_is_no_success)
{
    char *argv[] = {"vgpu-ctl", "help", NULL};
    FILE *full = fopen("/dev/full", "w");
    size_t m;

    cr_assert_not_null(full);
    free(errors);
    FILE *e = open_memstream(&errors, &m);
    cr_assert_eq(vgpu_ctl_run(2, argv, full, e), 1);
    fclose(e);
    fclose(full);
    cr_assert_not_null(strstr(errors, "cannot write the result: No space left on device"), "%s", errors);
}
