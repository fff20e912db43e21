/* SPDX-License-Identifier: Apache-2.0 */
#include "store/schema.h"

#include "store/store.h"

/*
 * Version 1. The constraints repeat what the code checks, so that no writer, not even an administrator with the sqlite3
 * shell, can leave a registry that vgpud would misread. A pool's room is a constraint too: it is counted inside the
 * statement that inserts.
 * in_flight and arena_bytes: 0 stands for the configuration's default; device_bytes: NULL does, as 0 means none.
 */
static const char schema_1[] =
    "CREATE TABLE pools("
    " name TEXT NOT NULL PRIMARY KEY"
    "  CHECK(length(name) BETWEEN 1 AND 31 AND name NOT GLOB '*[^A-Za-z0-9._-]*'),"
    " capacity INTEGER NOT NULL CHECK(capacity BETWEEN 1 AND 65535)"
    ") STRICT, WITHOUT ROWID;"
    "CREATE TABLE vms("
    " vm_id INTEGER PRIMARY KEY CHECK(vm_id BETWEEN 1 AND 65535),"
    " name TEXT NOT NULL UNIQUE CHECK(length(name) BETWEEN 1 AND 31 AND name NOT GLOB '*[^A-Za-z0-9._-]*'),"
    " pool TEXT NOT NULL REFERENCES pools(name) ON UPDATE CASCADE ON DELETE RESTRICT,"
    " priority INTEGER NOT NULL CHECK(priority BETWEEN 0 AND 2),"
    " in_flight INTEGER NOT NULL DEFAULT 0 CHECK(in_flight BETWEEN 0 AND 65536),"
    " arena_bytes INTEGER NOT NULL DEFAULT 0 CHECK(arena_bytes BETWEEN 0 AND 281474976710656),"
    " device_bytes INTEGER CHECK(device_bytes BETWEEN 0 AND 281474976710656),"
    " uid INTEGER CHECK(uid BETWEEN 0 AND 4294967294),"
    " token BLOB CHECK(token IS NULL OR (length(token) = 16 AND uid IS NOT NULL))"
    ") STRICT;"
    "CREATE INDEX vms_pool ON vms(pool, priority);"
    "CREATE TRIGGER vms_room_insert BEFORE INSERT ON vms"
    " WHEN (SELECT count(*) FROM vms WHERE pool = NEW.pool) >= (SELECT capacity FROM pools WHERE name = NEW.pool)"
    " BEGIN SELECT RAISE(ABORT, 'pool is full'); END;"
    "CREATE TRIGGER vms_room_update BEFORE UPDATE OF pool ON vms"
    " WHEN NEW.pool <> OLD.pool AND"
    "  (SELECT count(*) FROM vms WHERE pool = NEW.pool) >= (SELECT capacity FROM pools WHERE name = NEW.pool)"
    " BEGIN SELECT RAISE(ABORT, 'pool is full'); END;"
    "CREATE TRIGGER pools_shrink BEFORE UPDATE OF capacity ON pools"
    " WHEN NEW.capacity < (SELECT count(*) FROM vms WHERE pool = NEW.name)"
    " BEGIN SELECT RAISE(ABORT, 'pool has more members'); END;";

/* Version 2: the engine that a VM prefers (enum vgpu_vm_engine; 0 is auto). */
static const char schema_2[] =
    "ALTER TABLE vms ADD COLUMN engine INTEGER NOT NULL DEFAULT 0 CHECK(engine BETWEEN 0 AND 3);";

const char *const vgpu_store_migration[] = {schema_1, schema_2};
const uint32_t vgpu_store_migration_count = sizeof(vgpu_store_migration) / sizeof(vgpu_store_migration[0]);
_Static_assert(sizeof(vgpu_store_migration) / sizeof(vgpu_store_migration[0]) == VGPU_STORE_SCHEMA,
               "one migration for each version up to VGPU_STORE_SCHEMA");
