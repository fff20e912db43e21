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

/*
 * Version 3: who a VM is to the hypervisor (uuid), how it is isolated, what the administrator decided about it, what a
 * pool runs on, and who changed what (audit).
 *
 * `expected` is set and cleared by the hooks that start and stop a VM. `origin` of a pool: 0 came with a new store, 1 the
 * configuration named it, 2 an administrator made it. `configured` is the capacity that the configuration gave last: the
 * configuration changes a capacity when its own value changed, so that what an administrator set survives a restart.
 * A row of the audit is never changed; old rows are removed from its beginning (store/audit.c).
 */
static const char schema_3[] =
    "ALTER TABLE vms ADD COLUMN uuid TEXT CHECK(length(uuid) = 36 AND uuid NOT GLOB '*[^0-9a-f-]*'"
    " AND uuid LIKE '________-____-____-____-____________' AND length(replace(uuid, '-', '')) = 32);"
    "ALTER TABLE vms ADD COLUMN isolation INTEGER NOT NULL DEFAULT 0 CHECK(isolation BETWEEN 0 AND 1);"
    "ALTER TABLE vms ADD COLUMN iommu_domain INTEGER NOT NULL DEFAULT 0 CHECK(iommu_domain BETWEEN 0 AND 4294967295);"
    "ALTER TABLE vms ADD COLUMN admin_state INTEGER NOT NULL DEFAULT 0 CHECK(admin_state BETWEEN 0 AND 2);"
    "ALTER TABLE vms ADD COLUMN reason TEXT NOT NULL DEFAULT '' CHECK(length(CAST(reason AS BLOB)) <= 95"
    " AND reason NOT GLOB '*[' || char(1) || '-' || char(31) || char(127) || ']*'"
    " AND (reason = '' OR admin_state <> 0));"
    "ALTER TABLE vms ADD COLUMN expected INTEGER NOT NULL DEFAULT 0 CHECK(expected BETWEEN 0 AND 1);"
    "CREATE UNIQUE INDEX vms_uuid ON vms(uuid);"
    "ALTER TABLE pools ADD COLUMN executor TEXT NOT NULL DEFAULT ''"
    "  CHECK(length(executor) <= 31 AND executor NOT GLOB '*[^A-Za-z0-9._-]*');"
    "ALTER TABLE pools ADD COLUMN sm_share INTEGER NOT NULL DEFAULT 0 CHECK(sm_share BETWEEN 0 AND 100);"
    "ALTER TABLE pools ADD COLUMN configured INTEGER;"
    "ALTER TABLE pools ADD COLUMN origin INTEGER NOT NULL DEFAULT 2 CHECK(origin BETWEEN 0 AND 2);"
    "UPDATE pools SET origin = 1, configured = capacity;"
    "INSERT INTO pools(name, capacity, origin) SELECT column1, 32, 0 FROM (VALUES('A'), ('B'))"
    " WHERE NOT EXISTS (SELECT 1 FROM pools);"
    "CREATE TABLE audit("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT,"
    " time_us INTEGER NOT NULL,"
    " uid INTEGER NOT NULL,"
    " pid INTEGER NOT NULL,"
    " user TEXT NOT NULL CHECK(length(user) <= 63),"
    " command TEXT NOT NULL CHECK(length(command) <= 63),"
    " object TEXT NOT NULL CHECK(length(object) <= 63),"
    " vm_id INTEGER CHECK(vm_id BETWEEN 1 AND 65535),"
    " old TEXT CHECK(old GLOB '{*}'),"
    " new TEXT CHECK(new GLOB '{*}'),"
    " result TEXT NOT NULL"
    ") STRICT;"
    "CREATE INDEX audit_vm ON audit(vm_id, seq) WHERE vm_id IS NOT NULL;"
    "CREATE INDEX audit_refused ON audit(seq) WHERE result <> 'ok';"
    "CREATE TRIGGER audit_fixed BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit is not changed'); END;";

/*
 * Version 4: pools count their members. To count them anew for each VM that comes made the registration of 65,535 a matter of
 * minutes. Triggers keep the number, so that it is right whoever writes; a pool's name stays, as a renamed one would take its
 * members along uncounted. The number is derived: each opening compares it with what is there (store/open.c).
 */
static const char schema_4[] =
    "ALTER TABLE pools ADD COLUMN members INTEGER NOT NULL DEFAULT 0 CHECK(members BETWEEN 0 AND 65535);"
    "UPDATE pools SET members = (SELECT count(*) FROM vms WHERE pool = pools.name);"
    "DROP TRIGGER vms_room_insert;"
    "DROP TRIGGER vms_room_update;"
    "DROP TRIGGER pools_shrink;"
    "CREATE TRIGGER vms_room_insert BEFORE INSERT ON vms"
    " WHEN (SELECT members >= capacity FROM pools WHERE name = NEW.pool)"
    " BEGIN SELECT RAISE(ABORT, 'pool is full'); END;"
    "CREATE TRIGGER vms_room_update BEFORE UPDATE OF pool ON vms"
    " WHEN NEW.pool <> OLD.pool AND (SELECT members >= capacity FROM pools WHERE name = NEW.pool)"
    " BEGIN SELECT RAISE(ABORT, 'pool is full'); END;"
    "CREATE TRIGGER vms_count_insert AFTER INSERT ON vms"
    " BEGIN UPDATE pools SET members = members + 1 WHERE name = NEW.pool; END;"
    "CREATE TRIGGER vms_count_delete AFTER DELETE ON vms"
    " BEGIN UPDATE pools SET members = members - 1 WHERE name = OLD.pool; END;"
    "CREATE TRIGGER vms_count_update AFTER UPDATE OF pool ON vms WHEN NEW.pool <> OLD.pool"
    " BEGIN UPDATE pools SET members = members + iif(name = NEW.pool, 1, -1) WHERE name IN (NEW.pool, OLD.pool); END;"
    "CREATE TRIGGER pools_shrink BEFORE UPDATE OF capacity ON pools WHEN NEW.capacity < OLD.members"
    " BEGIN SELECT RAISE(ABORT, 'pool has more members'); END;"
    "CREATE TRIGGER pools_name BEFORE UPDATE OF name ON pools WHEN NEW.name <> OLD.name"
    " BEGIN SELECT RAISE(ABORT, 'a pool keeps its name'); END;";

const char *const vgpu_store_migration[] = {schema_1, schema_2, schema_3, schema_4};
const uint32_t vgpu_store_migration_count = sizeof(vgpu_store_migration) / sizeof(vgpu_store_migration[0]);
_Static_assert(sizeof(vgpu_store_migration) / sizeof(vgpu_store_migration[0]) == VGPU_STORE_SCHEMA,
               "one migration for each version up to VGPU_STORE_SCHEMA");
