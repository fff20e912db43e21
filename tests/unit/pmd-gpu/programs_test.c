/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Programs over a backend, with workers that run nothing (fake_worker.c): order over both kinds of operations, turns,
 * deadlines, workers that die, lie, or do not start. What real workers compute is tested by suite ml.
 */
#include "programs_rig.h"

TestSuite(programs, .timeout = 60);

Test(programs, both_kinds_keep_the_order_of_their_vm)
{
    rig_open("");
    for (uint32_t i = 0; i < 12; i++)
        for (uint32_t vm = 0; vm < 3; vm++) {
            execute(vm, i % 3 ? FAKE_OK : FAKE_SLOW);
            fill(vm, 2 * i);
            fill(vm, 2 * i + 1);
            if (i % 2)
                send_as(vm, 1, (struct vgpu_work){.opcode = VGPU_OP_BUFFER_PUT, .arg = {7}, .n = 4});
        }
    collect();
    expect_order();
    for (uint32_t i = 0; i < d.sent; i++)
        expect(i, VGPU_OK);
    for (uint32_t vm = 0; vm < 3; vm++)
        for (uint32_t i = 0; i < 24; i++)
            cr_expect_eq(((uint32_t *)(d.arena[vm] + 32768))[i], i + 1);
    rig_close();
}

/* An operation of the device does not begin before the execution in front of it has ended, and the other way round. */
Test(programs, a_change_of_kind_waits)
{
    rig_open("");
    execute(0, FAKE_SLOW);
    uint32_t word = fill(0, 0);
    uint64_t start = vgpu_now_ns();
    while (*(volatile uint32_t *)(d.arena[0] + 32768) == 0) {
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
        cr_assert_lt(vgpu_now_ns() - start, WAIT_NS);
    }
    cr_expect_neq(span(0, 0)->to_ns, 0, "the fill ran before the execution had ended");
    collect();
    expect(word, VGPU_OK);
    rig_close();
}

/* Did somebody else have the device between two executions of this VM, that often? */
static uint32_t turns_of(uint32_t vm, const uint32_t n[3])
{
    uint32_t turns = 1;

    for (uint32_t i = 1; i < n[vm]; i++) {
        bool between = false;
        for (uint32_t b = 0; b < 3; b++)
            for (uint32_t j = 0; b != vm && j < n[b]; j++)
                between |= span(b, j)->from_ns > span(vm, i - 1)->from_ns && span(b, j)->from_ns < span(vm, i)->from_ns;
        turns += between;
    }
    return turns;
}

/* One VM at a time has executions; nobody waits until another has had all of its own. */
Test(programs, turns_do_not_overlap_and_are_fair)
{
    const uint32_t n[3] = {40, 20, 20};
    bool fair = false;

    /* On a busy machine a worker may stand still for longer than all the others need: then they are through, rightly. */
    for (uint32_t attempt = 0; attempt < ATTEMPTS && !fair; attempt++) {
        rig_open("quantum_us=6000,overstay_ms=60000");
        for (uint32_t vm = 0; vm < 3; vm++)
            execute_as(vm, 1, FAKE_OK, 100); /* their workers are there */
        collect();
        for (uint32_t vm = 0; vm < 3; vm++)
            for (uint32_t i = 0; i < n[vm]; i++)
                execute_as(vm, 1, FAKE_SLOW, i);
        collect();
        for (uint32_t a = 0; a < 3; a++)
            for (uint32_t i = 0; i < n[a]; i++)
                for (uint32_t b = 0; b < 3; b++)
                    for (uint32_t j = 0; b != a && j < n[b]; j++)
                        cr_expect(span(b, j)->from_ns >= span(a, i)->to_ns || span(b, j)->to_ns <= span(a, i)->from_ns,
                                  "an execution of VM %u runs beside one of VM %u", a, b);
        fair = turns_of(0, n) >= 3 && turns_of(1, n) >= 3 && turns_of(2, n) >= 3;
        rig_close();
    }
    cr_expect(fair, "in each of %u attempts somebody had all of his executions in one or two turns", ATTEMPTS);
}

/* Who asks for one thing after the other keeps its turn in between; not against a higher priority. */
Test(programs, a_short_pause_is_no_end_of_a_turn)
{
    bool waited = false, at_once = false;

    for (uint32_t attempt = 0; attempt < ATTEMPTS && !waited; attempt++) {
        rig_open("quantum_us=10000000,linger_us=300000");
        execute_as(1, 1, FAKE_OK, 0); /* its worker is there */
        collect();
        execute_as(0, 1, FAKE_OK, 0);
        collect();
        execute_as(1, 1, FAKE_OK, 1);
        collect();
        waited = span(1, 1)->from_ns - span(0, 0)->to_ns >= 300000000;
        rig_close();
    }
    cr_expect(waited, "it does not wait for the holder of the turn");
    for (uint32_t attempt = 0; attempt < ATTEMPTS && !at_once; attempt++) {
        rig_open("quantum_us=10000000,linger_us=1000000");
        execute_as(0, 1, FAKE_OK, 0);
        execute_as(1, 0, FAKE_OK, 0);
        collect();
        execute_as(0, 1, FAKE_OK, 1);
        uint64_t asked = vgpu_now_ns();
        execute_as(1, 0, FAKE_OK, 1);
        collect();
        at_once = span(1, 1)->from_ns - asked < 900000000;
        rig_close();
    }
    cr_expect(at_once, "a higher priority waits for a pause");
}

Test(programs, together_means_side_by_side)
{
    rig_open("sharing=together");
    for (uint32_t vm = 0; vm < 3; vm++)
        for (uint32_t i = 0; i < 10; i++)
            execute_as(vm, 1, FAKE_SLOW, i);
    collect();
    uint32_t overlaps = 0;
    for (uint32_t i = 0; i < 10; i++)
        for (uint32_t j = 0; j < 10; j++)
            overlaps += span(0, i)->from_ns < span(1, j)->to_ns && span(1, j)->from_ns < span(0, i)->to_ns;
    cr_expect_gt(overlaps, 0);
    rig_close();
}

/* A higher priority waits for what is on the device, and for nothing else. */
Test(programs, priority_takes_the_next_turn)
{
    rig_open("quantum_us=10000000,depth=2,overstay_ms=60000");
    execute_as(1, 0, FAKE_OK, 0); /* its worker is there */
    collect();
    for (uint32_t i = 0; i < 30; i++)
        execute_as(0, 2, FAKE_SLOW, i);
    uint64_t start = vgpu_now_ns();
    while (span(0, 2)->to_ns == 0 && vgpu_now_ns() - start < WAIT_NS)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    uint64_t asked = vgpu_now_ns();
    execute_as(1, 0, FAKE_OK, 1);
    collect();
    uint32_t between = 0;
    for (uint32_t i = 0; i < 30; i++)
        between += span(0, i)->from_ns > asked && span(0, i)->from_ns < span(1, 1)->from_ns;
    cr_expect_leq(between, 2, "%u executions of the low one began in between", between);
    rig_close();
}

/* One that stops sending for the sake of a better one goes on when that one is gone. */
Test(programs, a_turn_that_nobody_came_for_goes_on)
{
    rig_open("depth=1");
    for (uint32_t vm = 0; vm < 3; vm++)
        execute(vm, FAKE_OK); /* their workers are there */
    collect();
    execute_as(0, 1, FAKE_GATE, 2);
    for (uint64_t start = vgpu_now_ns(); span(0, 2)->from_ns == 0 && vgpu_now_ns() - start < WAIT_NS;)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    uint32_t behind = execute_as(0, 1, FAKE_OK, 3), better = execute_as(1, 0, FAKE_OK, 2), worse = execute_as(2, 2, FAKE_OK, 2);
    for (uint32_t i = 0; i < 10; i++)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    d.ops->cancel(d.b, 1);
    for (uint32_t i = 0; i < 10; i++)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    *(volatile uint32_t *)(d.arena[0] + FAKE_GATE_OFF) = 1;
    collect();
    expect(better, VGPU_E_CANCELLED);
    expect(behind, VGPU_OK);
    expect(worse, VGPU_OK);
    rig_close();
}

/* It answers and never says that there is room again: it is replaced, and keeps no turn from others meanwhile. */
Test(programs, a_worker_that_keeps_its_slots_is_replaced)
{
    rig_open("client=keeps,deadline_ms=1500");
    for (uint32_t i = 0; i < 80; i++) /* more than it has slots */
        execute_as(0, 1, FAKE_OK, i);
    uint32_t other = execute(1, FAKE_OK);
    collect();
    for (uint32_t i = 0; i < 80; i++)
        expect(i, VGPU_OK);
    expect(other, VGPU_OK);
    expect_order();
    rig_close();
}

/* Whatever numbers the descriptors of an executor with many VMs have, each worker gets its own. */
Test(programs, descriptors_of_any_number)
{
    struct vgpu_err err = {0};
    int filler[128 + 3 * VMS];
    uint32_t n = 0;

    rig_open("");
    while (n < 128 && (n == 0 || filler[n - 1] < 99)) {
        filler[n] = dup(STDERR_FILENO);
        cr_assert_geq(filler[n++], 0);
    }
    for (uint32_t vm = 0; vm < VMS; vm++) {
        d.ops->region_del(d.b, vm);
        for (uint32_t i = 0; i < 3; i++) /* the numbers that were just given back */
            filler[n++] = dup(STDERR_FILENO);
        cr_assert_eq(d.ops->region_add(d.b, vm, d.arena[vm], ARENA, d.fd[vm], 0, &err), 0, "%s", err.text);
    }
    for (uint32_t vm = 0; vm < VMS; vm++)
        execute(vm, FAKE_OK);
    collect();
    for (uint32_t vm = 0; vm < VMS; vm++) {
        expect(vm, VGPU_OK);
        cr_expect_neq(span(vm, 0)->to_ns, 0, "the worker of VM %u has another arena", vm);
    }
    while (n > 0)
        close(filler[--n]);
    rig_close();
}

/* What keeps the device busy without an operation (resident workers) leaves it to programs, and comes back. */
Test(programs, the_backend_below_and_programs_take_turns)
{
    uint32_t given = 0;

    for (uint32_t attempt = 0; attempt < ATTEMPTS && given < 2; attempt++) {
        rig_open_with("busy", "quantum_us=4000,overstay_ms=60000");
        uint32_t n_fill = 0, fills[OPS];
        for (uint32_t i = 0; i < 20; i++)
            execute_as(0, 1, FAKE_SLOW, i);
        for (uint32_t i = 0; i < 20; i++)
            execute_as(1, 1, FAKE_SLOW, i);
        for (uint64_t next = 0; d.got < d.sent || n_fill < 60;) { /* one every now and then, over all of it */
            if (n_fill < 60 && vgpu_now_ns() >= next) {
                fills[n_fill] = fill(2, n_fill);
                n_fill++;
                next = vgpu_now_ns() + 1000000;
            }
            d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
        }
        expect_order();
        for (uint32_t i = 0; i < d.sent; i++)
            expect(i, VGPU_OK);
        for (uint32_t i = 0; i < n_fill; i++)
            for (uint32_t vm = 0; vm < 2; vm++)
                for (uint32_t j = 0; j < 20; j++)
                    cr_expect(span(vm, j)->from_ns >= busy.to_ns[fills[i]] || span(vm, j)->to_ns <= busy.from_ns[fills[i]],
                              "fill %u ran beside an execution of VM %u", i, vm);
        given = busy.given;
        rig_close();
    }
    cr_expect_gt(given, 1, "the device went to programs %u times, in each of %u attempts", given, ATTEMPTS);
}

/* Between the two the higher priority has the next turn, whichever of them has it. */
Test(programs, priority_against_the_backend_below)
{
    rig_open_with("busy", "quantum_us=10000000,depth=2,overstay_ms=60000");
    for (uint32_t i = 0; i < 30; i++)
        execute_as(0, 2, FAKE_SLOW, i);
    uint64_t start = vgpu_now_ns();
    while (span(0, 2)->to_ns == 0 && vgpu_now_ns() - start < WAIT_NS)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    uint64_t asked = vgpu_now_ns();
    uint32_t word = send_as(1, 0, (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = 32768, .n = 4, .arg = {1}});
    collect();
    uint32_t between = 0;
    for (uint32_t i = 0; i < 30; i++)
        between += span(0, i)->from_ns > asked && span(0, i)->from_ns < busy.from_ns[word];
    cr_expect_leq(between, 2, "%u executions of the low one began before the high fill", between);
    /* And low operations of the backend below wait until the high programs are through. */
    uint32_t first = d.sent;
    for (uint32_t i = 30; i < 40; i++)
        execute_as(0, 0, FAKE_SLOW, i);
    start = vgpu_now_ns();
    while (span(0, 30)->from_ns == 0 && vgpu_now_ns() - start < WAIT_NS)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    word = send_as(1, 2, (struct vgpu_work){.opcode = VGPU_OP_FILL, .dst = 32772, .n = 4, .arg = {1}});
    collect();
    for (uint32_t i = 30; i < 40; i++)
        cr_expect_geq(busy.from_ns[word], span(0, i)->to_ns, "a low fill ran before execution %u of a high VM", i);
    for (uint32_t i = first; i < d.sent; i++)
        expect(i, VGPU_OK);
    rig_close();
}

/* Leaving the device and a VM that goes: nobody waits for ever. */
Test(programs, a_worker_that_dies_in_its_turn_gives_the_device_back)
{
    rig_open_with("busy", "quantum_us=10000000,deadline_ms=1500");
    uint32_t dies = execute(0, FAKE_DIE), hangs = execute(1, FAKE_HANG), word = fill(2, 0);
    collect();
    expect(dies, VGPU_E_LOST);
    expect(hangs, VGPU_E_TIMEOUT);
    expect(word, VGPU_OK);
    uint32_t again = fill(2, 1);
    collect();
    expect(again, VGPU_OK);
    rig_close();
}

Test(programs, a_worker_that_dies_costs_its_vm_what_it_held)
{
    rig_open("");
    uint32_t before = execute(0, FAKE_OK), dies = execute(0, FAKE_DIE), behind = execute(0, FAKE_OK),
             after = fill(0, 3);
    uint32_t other[5];
    for (uint32_t i = 0; i < 5; i++)
        other[i] = execute_as(1, 1, FAKE_SLOW, i);
    collect();
    expect(before, VGPU_OK);
    expect(dies, VGPU_E_LOST);
    cr_expect(d.op[behind].status == VGPU_E_LOST ||
              d.op[behind].status == VGPU_OK); /* sent to it, or to its successor */
    expect(after, VGPU_OK);
    for (uint32_t i = 0; i < 5; i++)
        expect(other[i], VGPU_OK);
    uint32_t again = execute(0, FAKE_OK);
    collect();
    expect(again, VGPU_OK);
    expect_order();
    rig_close();
}

Test(programs, deadline)
{
    uint64_t used_ns = 0;

    rig_open("deadline_ms=1500");
    d.ops->region_usage(d.b, 0, &used_ns);
    uint32_t hangs = execute(0, FAKE_HANG), word = fill(0, 0), other = execute(1, FAKE_OK);
    collect();
    expect(hangs, VGPU_E_TIMEOUT);
    expect(word, VGPU_OK);
    expect(other, VGPU_OK);
    cr_expect_geq(used_ns, 1500000000u, "an endless loop has its time in the accounts: %llu ns", (unsigned long long)used_ns);
    uint32_t again = execute(0, FAKE_OK);
    collect();
    expect(again, VGPU_OK);
    rig_close();
}

/* What does not end keeps the others waiting for overstay_ms, lower ones for ten times that, not for its deadline. Nor is it
 * an excuse that the others had the device for longer before. */
Test(programs, an_endless_loop_does_not_keep_its_turn)
{
    rig_open_with("busy", "deadline_ms=6000,quantum_us=1000,overstay_ms=30");
    for (uint32_t i = 0; i < 3; i++)
        execute_as(1, 1, FAKE_SLOW, 10 + i);
    collect();
    uint32_t hangs = execute_as(0, 1, FAKE_HANG, 0), behind = execute_as(0, 1, FAKE_OK, 1), n = 0, others[30];
    for (uint64_t start = vgpu_now_ns(); span(0, 0)->from_ns == 0 && vgpu_now_ns() - start < WAIT_NS;)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    for (uint32_t i = 0; i < 5; i++) {
        others[n++] = execute_as(1, 1, FAKE_OK, i);
        others[n++] = execute_as(2, 0, FAKE_OK, i);
        others[n++] = execute_as(4, 2, FAKE_OK, i);
        others[n++] = fill(3, i);
    }
    collect();
    expect(hangs, VGPU_E_TIMEOUT);
    for (uint32_t i = 0; i < n; i++)
        expect(others[i], VGPU_OK);
    uint32_t before = 0;
    while (d.done[before] != &d.op[hangs])
        before++;
    cr_expect_geq(before, n, "%u of %u operations of others came back before its deadline", before, n);
    cr_expect(d.op[behind].status == VGPU_OK || d.op[behind].status == VGPU_E_LOST, "%u", d.op[behind].status);
    expect_order();
    uint32_t again = execute_as(0, 1, FAKE_OK, 2), other = execute_as(1, 1, FAKE_OK, 6);
    collect();
    expect(again, VGPU_OK);
    expect(other, VGPU_OK);
    rig_close();
}

Test(programs, what_a_worker_says_is_not_believed)
{
    rig_open("");
    uint32_t lie = execute(0, FAKE_LIE), ok = execute(0, FAKE_OK), other = execute(1, FAKE_OK);
    collect();
    expect(lie, VGPU_E_BACKEND);
    cr_expect_eq(d.op[lie].value, 0);
    expect(ok, VGPU_OK);
    cr_expect_leq(d.op[ok].value, 1000);
    expect(other, VGPU_OK);
    uint32_t flood = execute(0, FAKE_FLOOD); /* its unasked replies answer later ones at most: of its own VM */
    collect();
    expect(flood, VGPU_OK);
    uint32_t third = execute(2, FAKE_OK);
    collect();
    expect(third, VGPU_OK);
    rig_close();
}

Test(programs, workers_that_do_not_start)
{
    const char *const how[] = {"client=dies", "client=fails", "client=never,start_ms=100"};

    for (uint32_t i = 0; i < 3; i++) {
        rig_open(how[i]);
        uint32_t first = execute(0, FAKE_OK), word = fill(0, 0), second = execute(0, FAKE_OK);
        collect();
        expect(first, VGPU_E_BACKEND);
        expect(word, VGPU_OK);
        expect(second, VGPU_E_BACKEND);
        rig_close();
    }
}

Test(programs, cancel)
{
    rig_open("");
    uint32_t hangs = execute(0, FAKE_HANG), waits = execute(0, FAKE_OK), word = fill(0, 0);
    uint64_t start = vgpu_now_ns();
    while (span(0, 0)->from_ns == 0 && vgpu_now_ns() - start < WAIT_NS)
        d.got += d.ops->poll(d.b, d.done + d.got, OPS - d.got);
    d.ops->cancel(d.b, 0);
    collect();
    expect(hangs, VGPU_E_CANCELLED);
    expect(waits, VGPU_E_CANCELLED);
    expect(word, VGPU_E_CANCELLED);
    struct vgpu_err err = {0};
    d.ops->region_del(d.b, 0);
    cr_assert_eq(d.ops->region_add(d.b, 0, d.arena[0], ARENA, d.fd[0], 0, &err), 0, "%s", err.text);
    uint32_t again = execute(0, FAKE_OK);
    collect();
    expect(again, VGPU_OK);
    rig_close();
}

/* No arena: no programs, all else works. */
Test(programs, a_region_without_an_arena_has_none)
{
    struct vgpu_err err = {0};

    rig_open("");
    d.ops->region_del(d.b, 0);
    cr_assert_eq(d.ops->region_add(d.b, 0, NULL, 0, -1, 0, &err), 0, "%s", err.text);
    uint32_t none = execute(0, FAKE_OK), word = send_as(0, 1, (struct vgpu_work){.opcode = VGPU_OP_NOP});
    collect();
    expect(none, VGPU_E_UNSUPPORTED);
    expect(word, VGPU_OK);
    rig_close();
}

Test(programs, options)
{
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {"depth=2", "plugin=/path"},
        {"plugin=x.so", "absolute path"},
        {"plugin=/x,depth=0", "from 1 to 32"},
        {"plugin=/x,depth=two", "\"two\""},
        {"plugin=/x,speed=9", "no \"speed\""},
        {"plugin=/x,sharing=maybe", "turns or together"},
        {"plugin", "key=value"},
        {"plugin=/x,quantum_us=-1", "from 1"},
        {"plugin=/x,spin_us=99999999999999999999", "from 0"},
    };
    struct vgpu_programs_options o;
    struct vgpu_err err;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        cr_expect_eq(vgpu_programs_parse(wrong[i].text, &o, &err), -EINVAL, "%s", wrong[i].text);
        cr_expect(strstr(err.text, wrong[i].says), "%s: %s", wrong[i].text, err.text);
    }
    cr_expect_eq(vgpu_programs_parse("", &o, &err), 0);
    cr_expect_eq(o.plugin[0], 0);
    cr_assert_eq(vgpu_programs_parse("plugin=/x,client=a=1;b=two,depth=4,sharing=together", &o, &err), 0);
    cr_expect_str_eq(o.client, "a=1;b=two");
    cr_expect(o.together && o.depth == 4 && o.quantum_us == 8000);
}

/* Paths that cannot work are said at the start, not at the first program. */
Test(programs, what_is_not_there_is_said_at_open)
{
    struct vgpu_backend_config config = {
        .heap_bytes = 65536, .max_vms = 1, .queues = 1, .max_in_flight = 1, .options = ""};
    struct vgpu_programs_options o;
    struct vgpu_backend *b;
    struct vgpu_err err = {0};

    cr_assert_eq(vgpu_programs_parse("plugin=/nowhere.so,worker=" FAKE_WORKER, &o, &err), 0);
    cr_expect_eq(vgpu_programs_over(&vgpu_backend_null, &o)->open(&config, &b, &err), -ENOENT);
    cr_expect(strstr(err.text, "/nowhere.so"), "%s", err.text);
    cr_assert_eq(vgpu_programs_parse("plugin=/dev/null,worker=/nowhere", &o, &err), 0);
    cr_expect_eq(vgpu_programs_over(&vgpu_backend_null, &o)->open(&config, &b, &err), -ENOENT);
    cr_expect(strstr(err.text, "/nowhere"), "%s", err.text);
}
