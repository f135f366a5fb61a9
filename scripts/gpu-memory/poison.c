/* Fills every allocation of device memory with one byte, given in POISON (as 0xff), before the program gets it.
 * A program that reads no memory it has not written does the same whatever the byte is.
 *
 * Preloaded into a program that looks the driver's functions up by dlsym, as Apus does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long pointer;
typedef void *stream;

static void *(*find)(void *, const char *);
static int (*allocate)(pointer *, size_t);
static int (*allocate_async)(pointer *, size_t, stream);
static int (*fill)(pointer, unsigned char, size_t);
static int (*fill_async)(pointer, unsigned char, size_t, stream);
static unsigned long allocations;

static unsigned char byte(void) {
    const char *text = getenv("POISON");
    return (unsigned char)strtoul(text ? text : "0xff", NULL, 0);
}

static int poisoned(pointer *out, size_t size) {
    int status = allocate(out, size);
    allocations++;
    return status ? status : fill(*out, byte(), size);
}

static int poisoned_async(pointer *out, size_t size, stream on) {
    int status = allocate_async(out, size, on);
    allocations++;
    return status ? status : fill_async(*out, byte(), size, on);
}

void *dlsym(void *library, const char *name) {
    if (!find) find = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    void *found = find(library, name);
    if (!found) return found;
    if (!strcmp(name, "cuMemAlloc_v2")) {
        allocate = found;
        fill = find(library, "cuMemsetD8_v2");
        return poisoned;
    }
    if (!strcmp(name, "cuMemAllocAsync")) {
        allocate_async = found;
        fill_async = find(library, "cuMemsetD8Async");
        return poisoned_async;
    }
    return found;
}

__attribute__((destructor)) static void report(void) {
    if (allocations) fprintf(stderr, "poison: %lu allocations filled with 0x%02x\n", allocations, byte());
}
