#define _GNU_SOURCE
#include "state.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { EVERY_MS = 50, QUEUE = 256, LINE = 256 };

Driver driver = {.gpus = GPUS};
Gpu gpus[GPUS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t looked;
static int stale; /* the file is known to have changed: look at once */
static struct stat seen;
static EventData queue[QUEUE];
static uint32_t queued, taken, told; /* told: events of the file that are in the queue or were */

#define KEY(name) {#name, offsetof(Gpu, name)}
static const struct {
    const char *name;
    size_t offset;
} keys[] = {
    KEY(utilization), KEY(memory_utilization), KEY(memory_total), KEY(memory_used),
    KEY(temperature), KEY(memory_temperature), KEY(power), KEY(clock_sm), KEY(clock_memory),
    KEY(ecc_corrected), KEY(ecc_uncorrected),
    KEY(remapped_corrected), KEY(remapped_uncorrected), KEY(remap_pending), KEY(remap_failed),
    KEY(pcie_replays), KEY(pcie_generation), KEY(pcie_width),
    KEY(recovery_action), KEY(fabric_state), KEY(fabric_health),
    KEY(sm_active), KEY(tensor_active), KEY(dram_active),
    KEY(mig), KEY(lost), KEY(reset_required), KEY(hang), KEY(latency),
    {"power_cap", offsetof(Gpu, throttled[0])}, {"sw_thermal", offsetof(Gpu, throttled[1])},
    {"hw_thermal", offsetof(Gpu, throttled[2])}, {"power_brake", offsetof(Gpu, throttled[3])},
};

uint64_t milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A healthy GPU under load. */
static void reset(Gpu *gpu, uint32_t index) {
    Gpu kept = *gpu;
    *gpu = (Gpu){
        .index = index, .utilization = 97, .memory_utilization = 61,
        .memory_total = 85899345920, .memory_used = 68719476736,
        .temperature = 58 + index, .memory_temperature = 71 + index, .power = 612000 + index,
        .clock_sm = 1980, .clock_memory = 2619, .pcie_generation = 5, .pcie_width = 16,
        .fabric_state = 3, .sm_active = 91, .tensor_active = 47, .dram_active = 55,
    };
    memcpy(gpu->throttle_ns, kept.throttle_ns, sizeof kept.throttle_ns);
    gpu->energy_mj = kept.energy_mj;
    for (uint32_t i = 0; i < INSTANCES; i++) gpu->instance[i] = (Mig){gpu, i + 1};
}

/* Apply what follows the target on a line of the control file. */
static void apply(Gpu *gpu, const char *key, const uint64_t *value, int count, uint32_t *events) {
    if (!strcmp(key, "process") && count >= 2 && gpu->processes < PROCESSES) {
        uint32_t instance = count >= 4 ? (uint32_t)value[2] : NO_INSTANCE;
        uint32_t compute = count >= 4 ? (uint32_t)value[3] : NO_INSTANCE;
        gpu->process[gpu->processes++] = (ProcessInfo){(uint32_t)value[0], value[1], instance, compute};
    } else if (!strcmp(key, "link_down") && count >= 1 && value[0] < LINKS) {
        gpu->link_down[value[0]] = 1;
    } else if (!strcmp(key, "link_errors") && count >= 2 && value[0] < LINKS) {
        gpu->link_errors[value[0]] = value[1];
    } else if (!strcmp(key, "event") && count >= 2) {
        if (++*events > told) {
            uint32_t instance = count >= 4 ? (uint32_t)value[2] : NO_INSTANCE;
            uint32_t compute = count >= 4 ? (uint32_t)value[3] : NO_INSTANCE;
            queue[queued++ % QUEUE] = (EventData){gpu, value[0], value[1], instance, compute};
            told = *events;
        }
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!strcmp(key, keys[i].name) && count >= 1) *(uint64_t *)((char *)gpu + keys[i].offset) = value[0];
    }
}

static void parse(FILE *file) {
    char line[LINE], target[16], key[32];
    uint32_t events = 0;
    driver = (Driver){.gpus = GPUS};
    for (uint32_t i = 0; i < GPUS; i++) reset(&gpus[i], i);
    while (fgets(line, sizeof line, file)) {
        unsigned long long raw[4];
        uint64_t value[4];
        int count = sscanf(line, "%15s %31s %llu %llu %llu %llu", target, key, raw, raw + 1, raw + 2, raw + 3) - 2;
        if (count < 1) continue;
        for (int i = 0; i < count; i++) value[i] = raw[i];
        if (!strcmp(target, "driver")) {
            if (!strcmp(key, "missing")) driver.missing = value[0];
            if (!strcmp(key, "mismatch")) driver.mismatch = value[0];
            if (!strcmp(key, "silent")) driver.silent = value[0];
            if (!strcmp(key, "restricted")) driver.restricted = value[0];
            if (!strcmp(key, "gpus") && value[0] <= GPUS) driver.gpus = value[0];
            continue;
        }
        for (uint32_t i = 0; i < GPUS; i++) {
            if (*target == '*' || (uint32_t)atoi(target) == i) apply(&gpus[i], key, value, count, &events);
        }
    }
}

static const char *control(void) {
    static char path[4096];
    Dl_info self;
    if (!*path && dladdr((void *)refresh, &self) && strlen(self.dli_fname) < sizeof path - 16) {
        const char *slash = strrchr(self.dli_fname, '/');
        int folder = slash ? (int)(slash - self.dli_fname) + 1 : 0;
        snprintf(path, sizeof path, "%.*scontrol", folder, self.dli_fname);
    }
    return path;
}

static void load(void) {
    struct stat now;
    if (stat(control(), &now) != 0) {
        memset(&now, 0, sizeof now);
    } else if (now.st_ino == seen.st_ino && now.st_size == seen.st_size &&
               now.st_mtim.tv_sec == seen.st_mtim.tv_sec && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec) {
        return;
    }
    FILE *file = now.st_ino ? fopen(control(), "r") : NULL;
    if (file) {
        parse(file);
        fclose(file);
    } else if (!gpus[0].memory_total) {
        for (uint32_t i = 0; i < GPUS; i++) reset(&gpus[i], i);
    }
    seen = now;
}

void refresh(void) {
    uint64_t now = milliseconds();
    pthread_mutex_lock(&lock);
    if (!looked || stale || now - looked >= EVERY_MS) {
        stale = 0;
        uint64_t passed = looked ? now - looked : 0;
        for (uint32_t i = 0; i < GPUS; i++) {
            gpus[i].energy_mj += gpus[i].power * passed / 1000;
            for (int reason = 0; reason < THROTTLES; reason++) {
                if (gpus[i].throttled[reason]) gpus[i].throttle_ns[reason] += passed * 1000000;
            }
        }
        looked = now;
        load();
    }
    pthread_mutex_unlock(&lock);
}

Return touch(Gpu *gpu) {
    refresh();
    if (gpu->latency) usleep((useconds_t)gpu->latency);
    while (gpu->hang) {
        usleep(20000);
        refresh();
    }
    if (gpu->lost) return GPU_IS_LOST;
    return gpu->reset_required ? RESET_REQUIRED : OK;
}

int next_event(EventData *event) {
    refresh();
    pthread_mutex_lock(&lock);
    int found = taken < queued && !driver.silent;
    if (found) *event = queue[taken++ % QUEUE];
    pthread_mutex_unlock(&lock);
    return found;
}

void forget_events(void) {
    refresh();
    pthread_mutex_lock(&lock);
    taken = queued;
    pthread_mutex_unlock(&lock);
}

int watch_control(void) {
    char folder[4096];
    snprintf(folder, sizeof folder, "%s", control());
    *strrchr(folder, '/') = 0;
    int watch = inotify_init1(IN_CLOEXEC);
    if (watch >= 0) inotify_add_watch(watch, folder, IN_MOVED_TO | IN_MODIFY | IN_CLOSE_WRITE);
    return watch;
}

void changed(void) {
    pthread_mutex_lock(&lock);
    stale = 1;
    pthread_mutex_unlock(&lock);
}
