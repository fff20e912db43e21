/* SPDX-License-Identifier: Apache-2.0 */
/* Libraries that stand for NVML in nvml_test.c: one for each value of FAKE. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAKE_GOOD     0
#define FAKE_MISMATCH 1
#define FAKE_HANGS    2
#define FAKE_CRASHES  3
#define FAKE_EMPTY    4
#define FAKE_OTHER    5 /* some other library */

struct pci { /* nvmlPciInfo_t */
    char legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char address[32];
};

#if FAKE == FAKE_OTHER
#define nvmlInit_v2 something_else
#endif
int nvmlInit_v2(void);
int nvmlInit_v2(void)
{
    switch (FAKE) {
    case FAKE_MISMATCH: return 18;
    case FAKE_HANGS: pause(); return 0;
    case FAKE_CRASHES: abort();
    default: return 0;
    }
}

const char *nvmlErrorString(int code);
const char *nvmlErrorString(int code)
{
    return code == 18 ? "Driver/library version mismatch" : "?";
}

int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetCount_v2(unsigned *count)
{
    *count = FAKE == FAKE_EMPTY ? 0 : 1;
    return 0;
}

int nvmlSystemGetDriverVersion(char *out, unsigned bytes);
int nvmlSystemGetDriverVersion(char *out, unsigned bytes)
{
    strncpy(out, "580.65.06", bytes);
    return 0;
}

int nvmlSystemGetCudaDriverVersion_v2(int *out);
int nvmlSystemGetCudaDriverVersion_v2(int *out)
{
    *out = 13000;
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out)
{
    *out = &nvmlInit_v2;
    return index == 0 ? 0 : 2;
}

int nvmlDeviceGetPciInfo_v3(void *device, struct pci *out);
int nvmlDeviceGetPciInfo_v3(void *device, struct pci *out)
{
    *out = (struct pci){.bus = 0x41};
    return device ? 0 : 2;
}
