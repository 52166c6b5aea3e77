/* The part of NVML's ABI that the library answers: return codes, structures, symbols.
 * Layouts and numbers as in NVIDIA's nvml.h; tests hold them against nvidia-ml-py. */
#ifndef ABI_H
#define ABI_H

#include <stdint.h>

#define API __attribute__((visibility("default"))) Return

typedef enum {
    OK = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMED_OUT = 10,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    LIB_RM_VERSION_MISMATCH = 18,
    ARGUMENT_VERSION_MISMATCH = 25,
    UNKNOWN = 999,
} Return;

typedef void *Handle;

typedef struct {
    char bus_id_legacy[16];
    uint32_t domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} PciInfo;

typedef struct {
    uint32_t gpu, memory;
} Utilization;

typedef struct {
    uint64_t total, free, used;
} Memory;

typedef struct {
    uint32_t version;
    uint64_t total, reserved, free, used;
} MemoryV2;

/* Versions 2 and 3 share this layout. */
typedef struct {
    uint32_t pid;
    uint64_t used;
    uint32_t gpu_instance, compute_instance;
} ProcessInfo;

typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency;
    uint32_t type, status;
    union {
        double d;
        uint32_t u32;
        uint64_t u64;
    } value;
} FieldValue;

enum { TYPE_DOUBLE = 0, TYPE_U32 = 1, TYPE_U64 = 3 };

typedef struct {
    Handle device;
    uint64_t type, data;
    uint32_t gpu_instance, compute_instance;
} EventData;

enum { EVENT_XID = 0x8, EVENTS = 0xfe9f };

typedef struct {
    uint32_t version;
    uint8_t cluster[16];
    uint32_t status, clique, state, health;
    uint8_t summary;
} FabricInfo;

typedef struct {
    uint32_t metric, status;
    double value;
    const char *names[3];
} GpmMetric;

typedef struct {
    uint32_t version, count;
    void *first, *second;
    GpmMetric metrics[];
} GpmMetrics;

typedef struct {
    uint32_t version, supported;
} GpmSupport;

enum {
    MEMORY_V2 = 0x2000028,
    FABRIC_V3 = 0x3000028,
    GPM_V1 = 1,
    NO_INSTANCE = 0xffffffff,
};

#endif
