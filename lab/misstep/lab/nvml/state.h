/* What the GPUs of the library are like now. It is read from the file `control` beside the library. */
#ifndef STATE_H
#define STATE_H

#include <stdint.h>

#include "abi.h"

enum { GPUS = 8, LINKS = 18, PROCESSES = 32, INSTANCES = 7, THROTTLES = 4 };

typedef struct Gpu Gpu;

/* A GPU instance with its only compute instance. */
typedef struct {
    Gpu *gpu;
    uint32_t id;
} Mig;

struct Gpu {
    uint32_t index;
    uint64_t utilization, memory_utilization, memory_total, memory_used;
    uint64_t temperature, memory_temperature, power, clock_sm, clock_memory;
    uint64_t ecc_corrected, ecc_uncorrected;
    uint64_t remapped_corrected, remapped_uncorrected, remap_pending, remap_failed;
    uint64_t pcie_replays, pcie_generation, pcie_width;
    uint64_t recovery_action, fabric_state, fabric_health;
    uint64_t sm_active, tensor_active, dram_active;
    uint64_t throttled[THROTTLES]; /* by reason, see telemetry.c; while one holds, its nanoseconds run */
    uint64_t mig;                  /* number of instances; 0 means MIG is off */
    uint64_t lost, reset_required, hang, latency;
    uint64_t link_down[LINKS], link_errors[LINKS];
    uint32_t processes;
    ProcessInfo process[PROCESSES];
    /* Kept over changes of the control file. */
    uint64_t throttle_ns[THROTTLES], energy_mj;
    Mig instance[INSTANCES];
};

typedef struct {
    uint64_t missing, mismatch, gpus;
    uint64_t silent;     /* no events are delivered */
    uint64_t restricted; /* who asks is not root: with MIG, processes are told by each instance alone */
} Driver;

extern Driver driver;
extern Gpu gpus[GPUS];

/* Read the control file if it changed, and let counters run. Cheap when called often. */
void refresh(void);

/* What a call on a GPU answers before it does its work: waits out latency and hangs, then lost or OK. */
Return touch(Gpu *gpu);

/* The next event that the control file asked for; 0 when there is none. */
int next_event(EventData *event);

/* What happened before somebody asked for events is lost, as in the driver. */
void forget_events(void);

/* A descriptor that becomes readable when the control file is replaced, and the news that it was. */
int watch_control(void);
void changed(void);

/* Monotonic milliseconds. */
uint64_t milliseconds(void);

#endif
