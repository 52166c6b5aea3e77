/* What GPUs do: the getters, fields, processes, GPM, events. */
#define _GNU_SOURCE
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "calls.h"

API nvmlDeviceGetUtilizationRates(Handle device, Utilization *rates) {
    GPU(device);
    if (gpu->mig) return NOT_SUPPORTED;
    *rates = (Utilization){(uint32_t)gpu->utilization, (uint32_t)gpu->memory_utilization};
    return OK;
}

API nvmlDeviceGetMemoryInfo(Handle device, Memory *memory) {
    Mig *mig = instance_of(device);
    if (mig) {
        uint64_t total = mig->gpu->memory_total / INSTANCES;
        *memory = (Memory){total, total - total / 4, total / 4};
        return OK;
    }
    GPU(device);
    *memory = (Memory){gpu->memory_total, gpu->memory_total - gpu->memory_used, gpu->memory_used};
    return OK;
}

API nvmlDeviceGetMemoryInfo_v2(Handle device, MemoryV2 *memory) {
    GPU(device);
    if (memory->version != MEMORY_V2) return ARGUMENT_VERSION_MISMATCH;
    memory->total = gpu->memory_total;
    memory->used = gpu->memory_used;
    memory->reserved = 1 << 29;
    memory->free = gpu->memory_total - gpu->memory_used - memory->reserved;
    return OK;
}

API nvmlDeviceGetTemperature(Handle device, uint32_t sensor, uint32_t *degrees) {
    GPU(device);
    if (sensor != 0) return INVALID_ARGUMENT;
    *degrees = (uint32_t)gpu->temperature;
    return OK;
}

NUMBER(nvmlDeviceGetPowerUsage, gpu->power)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, 700000)

API nvmlDeviceGetClockInfo(Handle device, uint32_t clock, uint32_t *megahertz) {
    GPU(device);
    *megahertz = (uint32_t)(clock == 2 ? gpu->clock_memory : gpu->clock_sm);
    return OK;
}

API nvmlDeviceGetMaxClockInfo(Handle device, uint32_t clock, uint32_t *megahertz) {
    GPU(device);
    (void)gpu;
    *megahertz = clock == 2 ? 2619 : 1980;
    return OK;
}

NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, gpu->pcie_generation)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, gpu->pcie_width)

API nvmlDeviceGetGpuFabricInfoV(Handle device, FabricInfo *info) {
    GPU(device);
    if (info->version != FABRIC_V3) return ARGUMENT_VERSION_MISMATCH;
    info->state = (uint32_t)gpu->fabric_state;
    info->health = (uint32_t)gpu->fabric_health;
    info->status = OK;
    info->summary = gpu->fabric_health ? 2 : 1;
    return OK;
}

API nvmlDeviceGetComputeRunningProcesses_v3(Handle device, uint32_t *count, ProcessInfo *found) {
    Mig *mig = instance_of(device);
    GPU(mig ? (Handle)mig->gpu : device);
    if (driver.restricted && gpu->mig && !mig) return NO_PERMISSION;
    uint32_t room = found ? *count : 0;
    *count = 0;
    for (uint32_t i = 0; i < gpu->processes; i++) {
        if (mig && gpu->process[i].gpu_instance != mig->id) continue;
        if (*count < room) found[*count] = gpu->process[i];
        ++*count;
    }
    return *count > room ? INSUFFICIENT_SIZE : OK;
}

/* Fills one field; false for those that this GPU does not have. */
static int field(const Gpu *gpu, FieldValue *one) {
    uint32_t link = one->scope;
    one->type = TYPE_U64;
    switch (one->field) {
        case 3: one->value.u64 = gpu->ecc_corrected; return 1;
        case 4: one->value.u64 = gpu->ecc_uncorrected; return 1;
        case 74: one->value.u64 = gpu->throttle_ns[0]; return 1;
        case 269: one->value.u64 = gpu->throttle_ns[1]; return 1;
        case 270: one->value.u64 = gpu->throttle_ns[2]; return 1;
        case 271: one->value.u64 = gpu->throttle_ns[3]; return 1;
        case 83: one->value.u64 = gpu->energy_mj; return 1;
        case 82: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->memory_temperature; return 1;
        case 91: one->type = TYPE_U32, one->value.u32 = LINKS; return 1;
        case 94: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->pcie_replays; return 1;
        case 142: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->remapped_corrected; return 1;
        case 143: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->remapped_uncorrected; return 1;
        case 144: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->remap_pending; return 1;
        case 145: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->remap_failed; return 1;
        case 230: one->type = TYPE_U32, one->value.u32 = (uint32_t)gpu->recovery_action; return 1;
        case 162:
            if (link >= LINKS) return 0;
            one->value.u64 = gpu->link_errors[link];
            return 1;
        case 161:
        case 163:
            one->value.u64 = 0;
            return link < LINKS;
        case 165:
            if (link >= LINKS) return 0;
            one->type = TYPE_U32, one->value.u32 = !gpu->link_down[link];
            return 1;
        default: return 0;
    }
}

API nvmlDeviceGetFieldValues(Handle device, int count, FieldValue *values) {
    GPU(device);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        values[i].timestamp = now.tv_sec * 1000000 + now.tv_nsec / 1000;
        values[i].latency = 1;
        values[i].status = field(gpu, &values[i]) ? OK : NOT_SUPPORTED;
    }
    return OK;
}

/* -- GPM: a sample remembers what the GPU did when it was taken ------------------------------- */

typedef struct {
    uint64_t sm, tensor, dram;
} Sample;

API nvmlGpmQueryDeviceSupport(Handle device, GpmSupport *support) {
    GPU(device);
    (void)gpu;
    if (support->version != GPM_V1) return ARGUMENT_VERSION_MISMATCH;
    support->supported = 1;
    return OK;
}

API nvmlGpmSampleAlloc(Sample **sample) {
    *sample = calloc(1, sizeof **sample);
    return OK;
}

API nvmlGpmSampleFree(Sample *sample) {
    free(sample);
    return OK;
}

API nvmlGpmSampleGet(Handle device, Sample *sample) {
    GPU(device);
    if (gpu->mig) return NOT_SUPPORTED;
    *sample = (Sample){gpu->sm_active, gpu->tensor_active, gpu->dram_active};
    return OK;
}

API nvmlGpmMigSampleGet(Handle device, uint32_t instance, Sample *sample) {
    GPU(device);
    if (!instance || instance > gpu->mig) return INVALID_ARGUMENT;
    *sample = (Sample){gpu->sm_active, gpu->tensor_active, gpu->dram_active};
    return OK;
}

API nvmlGpmMetricsGet(GpmMetrics *asked) {
    if (asked->version != GPM_V1) return ARGUMENT_VERSION_MISMATCH;
    const Sample *now = asked->second;
    for (uint32_t i = 0; i < asked->count; i++) {
        GpmMetric *one = &asked->metrics[i];
        one->status = OK;
        switch (one->metric) {
            case 2:
            case 3: one->value = (double)now->sm; break;
            case 5: one->value = (double)now->tensor; break;
            case 10: one->value = (double)now->dram; break;
            case 20:
            case 21: one->value = 1200.0; break;
            case 60:
            case 61: one->value = 96000.0; break;
            default: one->status = NOT_SUPPORTED;
        }
    }
    return OK;
}

/* -- events ------------------------------------------------------------------------------------ */

/* A set is a descriptor that becomes readable when the control file is replaced: waiting costs nothing. */
API nvmlEventSetCreate(void **set) {
    forget_events();
    intptr_t watch = watch_control();
    if (watch < 0) return UNKNOWN;
    *set = (void *)(watch + 1);
    return OK;
}

API nvmlEventSetFree(void *set) {
    close((int)((intptr_t)set - 1));
    return OK;
}

API nvmlDeviceGetSupportedEventTypes(Handle device, uint64_t *types) {
    GPU(device);
    (void)gpu;
    *types = EVENTS;
    return OK;
}

API nvmlDeviceRegisterEvents(Handle device, uint64_t types, void *set) {
    GPU(device);
    (void)gpu;
    (void)set;
    return types & ~(uint64_t)EVENTS ? NOT_SUPPORTED : OK;
}

API nvmlEventSetWait_v2(void *set, EventData *event, uint32_t timeout) {
    struct pollfd watch = {.fd = (int)((intptr_t)set - 1), .events = POLLIN};
    uint64_t end = milliseconds() + timeout;
    while (!next_event(event)) {
        uint64_t now = milliseconds();
        if (now >= end) return TIMED_OUT;
        if (poll(&watch, 1, (int)(end - now)) > 0) {
            char changes[4096];
            if (read(watch.fd, changes, sizeof changes) < 0) return UNKNOWN;
            changed();
        }
    }
    return OK;
}
