/* Life of the library, and what GPUs are: count, names, PCI, MIG. */
#include <stdio.h>
#include <string.h>

#include "calls.h"

static int initialized;

int is_initialized(void) { return initialized; }

API nvmlInitWithFlags(uint32_t flags) {
    (void)flags;
    refresh();
    if (driver.missing) return DRIVER_NOT_LOADED;
    if (driver.mismatch) return LIB_RM_VERSION_MISMATCH;
    initialized = 1;
    return OK;
}

API nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

API nvmlShutdown(void) {
    if (!initialized) return UNINITIALIZED;
    initialized = 0;
    return OK;
}

__attribute__((visibility("default"))) const char *nvmlErrorString(Return code) {
    switch (code) {
        case OK: return "Success";
        case NOT_SUPPORTED: return "Not Supported";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case GPU_IS_LOST: return "GPU is lost";
        case LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

API nvmlSystemGetDriverVersion(char *text, uint32_t size) {
    if (!initialized) return UNINITIALIZED;
    snprintf(text, size, "595.45.04");
    return OK;
}

API nvmlDeviceGetCount_v2(uint32_t *count) {
    if (!initialized) return UNINITIALIZED;
    *count = (uint32_t)driver.gpus;
    return OK;
}

API nvmlDeviceGetHandleByIndex_v2(uint32_t index, Handle *device) {
    if (!initialized) return UNINITIALIZED;
    refresh();
    if (index >= driver.gpus) return INVALID_ARGUMENT;
    *device = &gpus[index];
    return gpus[index].lost ? GPU_IS_LOST : OK;
}

API nvmlDeviceGetName(Handle device, char *text, uint32_t size) {
    GPU(device);
    (void)gpu;
    snprintf(text, size, "NVIDIA H100 80GB HBM3");
    return OK;
}

API nvmlDeviceGetUUID(Handle device, char *text, uint32_t size) {
    Mig *mig = instance_of(device);
    if (mig) {
        snprintf(text, size, "MIG-00000000-0000-4000-8000-0000000%02u%02u0", mig->gpu->index, mig->id);
        return OK;
    }
    GPU(device);
    snprintf(text, size, "GPU-00000000-0000-4000-8000-00000000000%u", gpu->index);
    return OK;
}

NUMBER(nvmlDeviceGetMinorNumber, gpu->index)

API nvmlDeviceGetPciInfo_v3(Handle device, PciInfo *pci) {
    GPU(device);
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x18 + 0x10 * gpu->index;
    pci->device_id = 0x233010de;
    snprintf(pci->bus_id_legacy, sizeof pci->bus_id_legacy, "0000:%02X:00.0", pci->bus & 0xff);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus & 0xff);
    return OK;
}

API nvmlDeviceGetMigMode(Handle device, uint32_t *current, uint32_t *pending) {
    GPU(device);
    *current = *pending = gpu->mig > 0;
    return OK;
}

NUMBER(nvmlDeviceGetMaxMigDeviceCount, INSTANCES)

API nvmlDeviceGetMigDeviceHandleByIndex(Handle device, uint32_t index, Handle *instance) {
    GPU(device);
    if (index >= gpu->mig || index >= INSTANCES) return NOT_FOUND;
    *instance = &gpu->instance[index];
    return OK;
}

API nvmlDeviceGetGpuInstanceId(Handle device, uint32_t *id) {
    Mig *mig = instance_of(device);
    if (!mig) return NOT_SUPPORTED;
    *id = mig->id;
    return OK;
}

API nvmlDeviceGetComputeInstanceId(Handle device, uint32_t *id) {
    if (!instance_of(device)) return NOT_SUPPORTED;
    *id = 0;
    return OK;
}
