/* What the exported calls share. */
#ifndef CALLS_H
#define CALLS_H

#include "state.h"

int is_initialized(void);

/* The GPU behind a handle, or an early return with what NVML would answer. */
#define GPU(handle)                                                                \
    Gpu *gpu = (Gpu *)(handle);                                                    \
    if (!is_initialized()) return UNINITIALIZED;                                   \
    if (gpu < gpus || gpu >= gpus + GPUS) return INVALID_ARGUMENT;                 \
    Return touched = touch(gpu);                                                   \
    if (touched != OK) return touched

/* A call that answers one number about a GPU. */
#define NUMBER(name, value)                                                        \
    API name(Handle device, uint32_t *number) {                                    \
        GPU(device);                                                               \
        (void)gpu;                                                                 \
        *number = (uint32_t)(value);                                               \
        return OK;                                                                 \
    }

/* The MIG instance behind a handle; NULL when it is a whole GPU's. */
static inline Mig *instance_of(Handle handle) {
    for (int i = 0; i < GPUS; i++) {
        Mig *first = gpus[i].instance;
        if ((Mig *)handle >= first && (Mig *)handle < first + INSTANCES) return (Mig *)handle;
    }
    return (Mig *)0;
}

#endif
