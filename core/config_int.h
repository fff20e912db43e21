/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Private to core/config*.c: the table of keys, and the collector of faults. config.c holds the table and all that
 * follows from it (defaults, parsing of one value, the reference); config_yaml.c walks a YAML document along the table;
 * config_check.c holds the rules that join several keys.
 */
#ifndef VGPU_CORE_CONFIG_INT_H
#define VGPU_CORE_CONFIG_INT_H

#include "core/config.h"

#define VGPU_KEY_BYTES             64u
#define VGPU_VM_IDS                65535u /* as VGPU_VM_ID_MAX of the store */
#define VGPU_CPU_MAX               4095
#define VGPU_CONFIG_MAX_FAULTS     64u
#define VGPU_CONFIG_MAX_FILE_BYTES (256u * 1024u)

enum vgpu_key_type {
    VGPU_KEY_SECTION, /* a mapping */
    VGPU_KEY_LIST,    /* a list of mappings; its keys' paths start with "NAME[]." */
    VGPU_KEY_PATH,    /* absolute path */
    VGPU_KEY_SOCKET,  /* absolute path that fits sockaddr_un */
    VGPU_KEY_BINARY,  /* absolute path or empty */
    VGPU_KEY_NAME,    /* [A-Za-z0-9._-], 1 to 31 of them */
    VGPU_KEY_BACKEND,
    VGPU_KEY_TEXT,
    VGPU_KEY_UINT,   /* uint32_t */
    VGPU_KEY_SIZE,   /* uint64_t bytes, K/M/G suffix */
    VGPU_KEY_MICROS, /* microseconds in the file, uint64_t nanoseconds in the struct */
    VGPU_KEY_BOOL,
    VGPU_KEY_TRI, /* auto, true or false */
    VGPU_KEY_SCOPE,
    VGPU_KEY_SCHED,
    VGPU_KEY_LEVEL, /* of the log */
    VGPU_KEY_WORD,  /* one of the row's words; the struct has an enum that counts them from 0 */
    VGPU_KEY_CPU,  /* int: a CPU number or any */
    VGPU_KEY_CPUS, /* list of the former */
    VGPU_KEY_DEVICE,  /* struct vgpu_device_config */
    VGPU_KEY_DEVICES, /* list of the former */
};

/* One row of the schema. For keys of list elements the offset counts from the element's start. */
struct vgpu_key {
    const char *path;
    enum vgpu_key_type type;
    const char *unit;  /* of numbers, "" for others */
    uint64_t min, max; /* of numbers, in the file's unit; of lists, how many elements */
    size_t offset, bytes;
    const char *value; /* default as it would be written; NULL: required in each list element, or derived */
    const char *doc;
    bool power_of_two;
    size_t count_offset; /* lists: of the uint32_t that counts the elements */
    const char *const *words; /* VGPU_KEY_WORD; NULL at the end */
};
extern const struct vgpu_key vgpu_keys[];
extern const uint32_t vgpu_key_count;

/* The row of this path, or NULL. */
const struct vgpu_key *vgpu_key_find(const char *path);
/* Reads one scalar into base + offset. False with `why` = "what is wrong; expected what". `plain`: written unquoted. */
bool vgpu_key_set(const struct vgpu_key *k, void *base, const char *text, size_t bytes, bool plain, char *why,
                  size_t why_bytes);
/* Reads one CPU. The same. */
bool vgpu_key_cpu(const char *text, int *out);
/* Reads "ADDRESS", "ADDRESS@DOMAIN", either with ":ro" behind it. The same. */
bool vgpu_key_device(const char *text, struct vgpu_device_config *out);
/* As a file would say it; bytes >= 32. */
void vgpu_key_device_text(const struct vgpu_device_config *d, char *out, size_t bytes);
/* Writes its value as it would stand in a file. base: the configuration, or the list's element. */
void vgpu_key_write(FILE *out, const struct vgpu_key *k, const void *base, const struct vgpu_config *c);
/* "a whole number from 1 to 1024 (descriptors)" */
void vgpu_key_expected(const struct vgpu_key *k, char *out, size_t bytes);
/* The element's defaults; required keys stay empty. `list` is its row. */
void vgpu_key_element_defaults(const struct vgpu_key *list, void *element);
/* Every default but the derived paths. */
void vgpu_config_defaults_underived(struct vgpu_config *c);
/* Makes a quoted, printable, shortened copy of what stood in the file. */
void vgpu_key_quote(const char *text, size_t text_bytes, char *out, size_t bytes);

/* Paths that follow run_dir or state_dir unless they are set. */
struct vgpu_derived {
    const char *path;      /* of the key that is derived */
    const char *from_path; /* of the key that it follows */
    size_t from_offset;
    const char *leaf;
};
#define VGPU_DERIVED_COUNT 4u
extern const struct vgpu_derived vgpu_derived[VGPU_DERIVED_COUNT];
/* Fills one that is still empty; false when it does not fit. */
bool vgpu_config_derive(struct vgpu_config *c, const struct vgpu_derived *d);

/* Where each value stood, and what was wrong. */
struct vgpu_place {
    char key[VGPU_KEY_BYTES];
    uint32_t line, column;
};
struct vgpu_fault {
    uint32_t line, column, order;
    char text[384];
};
struct vgpu_faults {
    uint32_t count; /* may exceed what is kept */
    struct vgpu_fault fault[VGPU_CONFIG_MAX_FAULTS];
    uint32_t place_count;
    struct vgpu_place place[512];
};
void vgpu_fault_at(struct vgpu_faults *f, uint32_t line, uint32_t column, const char *key, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* At the place where this key, or the nearest thing around it, stands in the file; else 1:1. */
void vgpu_fault_key(struct vgpu_faults *f, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Does this key stand in the file? */
bool vgpu_place_known(const struct vgpu_faults *f, const char *key);

/* The rules that join several keys. Fills derived paths, and drops default executors that no pool uses. */
void vgpu_config_check(struct vgpu_config *c, struct vgpu_faults *f);

#endif
