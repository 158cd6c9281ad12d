/* NVIDIA's management library for machines without one: what it says stands in the files of a folder, $FAKE_NVML.

   count        how many GPUs there are
   events       lines "<gpu> <xid>": each is an event, for whoever waits when it is added; 0 is a double-bit ECC error
   late.<gpu>   events of it wake nobody: only who asks without waiting gets them
   lost.<gpu>   the GPU is lost: once that was seen, until the library is initialised anew
   rows.<gpu>   rows wait for a reset to be remapped
   action.<gpu> the recovery action

   Only what runtime/nvml.py calls, and what Ray calls when it starts. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, TIMEOUT = 10, LOST = 15 };
enum { GPUS_MAX = 64, POLL_MS = 5 };
static const unsigned long long DOUBLE_BIT = 2, XID = 8;

typedef struct { int gpu; } Device;
typedef struct { Device *device; unsigned long long type, data; unsigned instance[2]; } Event;
typedef struct {
    unsigned field, scope;
    long long timestamp, latency;
    unsigned type, result;
    union { unsigned number; unsigned long long wide; } value;
} Field;

static Device devices[GPUS_MAX];
static int is_gone[GPUS_MAX];
static long seen;

static FILE *named(const char *name, int gpu) {
    char path[4096];
    const char *folder = getenv("FAKE_NVML");
    if (gpu < 0) snprintf(path, sizeof path, "%s/%s", folder ? folder : ".", name);
    else snprintf(path, sizeof path, "%s/%s.%d", folder ? folder : ".", name, gpu);
    return fopen(path, "r");
}

static int number(const char *name, int gpu, int otherwise) {
    FILE *file = named(name, gpu);
    int found = otherwise;
    if (file) {
        if (fscanf(file, "%d", &found) != 1) found = 1;
        fclose(file);
    }
    return found;
}

static int is_lost(Device *device) { return is_gone[device->gpu] |= number("lost", device->gpu, 0); }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    for (int gpu = 0; gpu < GPUS_MAX; gpu++) devices[gpu].gpu = gpu, is_gone[gpu] = 0;
    return SUCCESS;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int result) { (void)result; return "as the fake has it"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = number("count", -1, 0); return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned gpu, Device **device) {
    *device = &devices[gpu];
    return is_lost(*device) ? LOST : SUCCESS;
}
int nvmlDeviceGetName(Device *device, char *name, unsigned length) {
    (void)device;
    snprintf(name, length, "NVIDIA A100-SXM4-80GB");
    return SUCCESS;
}
int nvmlDeviceGetSupportedEventTypes(Device *device, unsigned long long *types) {
    (void)device;
    *types = DOUBLE_BIT | XID;
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, void *set) {
    (void)device, (void)types, (void)set;
    return SUCCESS;
}
int nvmlEventSetCreate(void **set) {
    FILE *file = named("events", -1);
    *set = &seen;
    seen = 0;
    if (file) {
        fseek(file, 0, SEEK_END);
        seen = ftell(file);
        fclose(file);
    }
    return SUCCESS;
}
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeout_ms) {
    (void)set;
    for (long left = timeout_ms;; left -= POLL_MS) {
        FILE *file = named("events", -1);
        char line[64] = "";
        int gpu = 0, xid = 0;
        if (file) {
            fseek(file, seen, SEEK_SET);
            int is_whole = fgets(line, sizeof line, file) && strchr(line, '\n');
            fclose(file);
            if (is_whole && sscanf(line, "%d %d", &gpu, &xid) == 2 && !(timeout_ms && number("late", gpu, 0))) {
                seen += strlen(line);
                memset(event, 0, sizeof *event);
                event->device = &devices[gpu];
                event->type = xid ? XID : DOUBLE_BIT;
                event->data = xid;
                return SUCCESS;
            }
        }
        if (left <= 0) return TIMEOUT;
        usleep(POLL_MS * 1000);
    }
}
int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *degrees) {
    (void)sensor;
    *degrees = 40;
    return is_lost(device) ? LOST : SUCCESS;
}
int nvmlDeviceGetRemappedRows(Device *device, unsigned *right, unsigned *wrong, unsigned *pending, unsigned *failed) {
    *right = *wrong = *failed = 0;
    *pending = number("rows", device->gpu, 0);
    return SUCCESS;
}
int nvmlDeviceGetRetiredPagesPendingStatus(Device *device, int *pending) {
    (void)device, (void)pending;
    return NOT_SUPPORTED;
}
int nvmlDeviceGetFieldValues(Device *device, int count, Field *fields) {
    for (int at = 0; at < count; at++) {
        fields[at].result = SUCCESS;
        fields[at].value.wide = 0;
        fields[at].value.number = number("action", device->gpu, 0);
    }
    return SUCCESS;
}
