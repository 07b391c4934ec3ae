/* Preloaded into a run: counts the system calls by which files under one folder come to be, and lets one go wrong.
 *
 * At this level nothing gets past it: Python's own files, and what Rust and C write (weights, tokenizer, pictures).
 */
#define _GNU_SOURCE
#define _FILE_OFFSET_BITS 64
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

static char folder[PATH_MAX];
static long calls, wrong;
static int error, noted;

/* Under this folder the call number `at` fails with the error `number`, or with 0 is the last: the process is killed.
 * What is called goes to the file `log`, a line a call. */
void faults_arm(const char *under, long at, int number, int log) {
    snprintf(folder, sizeof folder, "%s/", under);
    calls = 0;
    wrong = at;
    error = number;
    noted = log;
}

static int goes_wrong(const char *call, const char *path) {
    size_t length = strlen(folder);
    if (!length || strncmp(path, folder, length)) return 0;
    dprintf(noted, "%s %s\n", call, path + length);
    calls++;
    int takes_space = !strcmp(call, "write") || !strcmp(call, "mkdir");
    return calls == wrong || (error == ENOSPC && wrong && calls > wrong && takes_space); /* a full disk stays full */
}

static int descriptor_goes_wrong(const char *call, int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = folder[0] ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0) return 0;
    path[length] = 0;
    return goes_wrong(call, path);
}

static int fail(void) {
    if (!error) kill(getpid(), SIGKILL);
    errno = error;
    return -1;
}

ssize_t write(int descriptor, const void *bytes, size_t count) {
    if (!descriptor_goes_wrong("write", descriptor)) return REAL(write)(descriptor, bytes, count);
    (void)!REAL(write)(descriptor, bytes, count / 2); /* torn */
    return fail();
}

ssize_t pwrite(int descriptor, const void *bytes, size_t count, off_t at) {
    return descriptor_goes_wrong("write", descriptor) ? fail() : REAL(pwrite)(descriptor, bytes, count, at);
}

ssize_t sendfile(int out, int in, off_t *at, size_t count) {
    return descriptor_goes_wrong("write", out) ? fail() : REAL(sendfile)(out, in, at, count);
}

int fsync(int descriptor) { return descriptor_goes_wrong("fsync", descriptor) ? fail() : REAL(fsync)(descriptor); }

int rename(const char *from, const char *to) { return goes_wrong("rename", to) ? fail() : REAL(rename)(from, to); }

int mkdir(const char *path, mode_t mode) {
    return access(path, F_OK) && goes_wrong("mkdir", path) ? fail() : REAL(mkdir)(path, mode);
}
