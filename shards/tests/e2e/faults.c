/* What the tests put before the system's own calls (LD_PRELOAD), to see a broker on a bad host. Each fault holds while a
 * file of its name is in the directory that PLAZA_FAULTS names; what was refused is told in its file `refused`.
 *   sync    fsync and fdatasync of the store's files fail with EIO
 *   stall   they wait until the fault is over
 *   full    writes to the store's files fail with ENOSPC
 *   tables  writes to and syncs of the store's table files alone fail, with ENOSPC
 *   merge-reads, merge-writes
 *           the same fails with EIO where the engine merges its tables: of those it reads, or of those it writes
 *   noring  there is no io_uring for this process: EPERM
 *   wedge-shard-N  the thread of that shard waits in its next read until the fault is over
 *   clock   the clock on the wall is so many seconds ahead as the file says */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int there(const char *fault) {
    const char *faults = getenv("PLAZA_FAULTS");
    char flag[PATH_MAX];
    int saved = errno, found;
    if (faults == NULL) return 0;
    snprintf(flag, sizeof flag, "%s/%s", faults, fault);
    found = access(flag, F_OK) == 0;
    errno = saved;
    return found;
}

static void note(const char *fault) {
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/refused", getenv("PLAZA_FAULTS"));
    int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    if (REAL(write)(fd, fault, strlen(fault)) > 0) REAL(write)(fd, "\n", 1);
    close(fd);
}

/* Whether the fault is there and the file is one of the store's. */
static int hits(int fd, const char *fault) {
    char link[64], path[PATH_MAX];
    ssize_t len;
    if (!there(fault)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof path - 1);
    if (len < 0) return 0;
    path[len] = 0;
    if (strstr(path, "/data/store") == NULL) return 0;
    note(fault);
    return 1;
}

static int named(int fd, const char *part) {
    char link[64], path[PATH_MAX];
    ssize_t len;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    len = readlink(link, path, sizeof path - 1);
    if (len < 0) return 0;
    path[len] = 0;
    return strstr(path, part) != NULL;
}

#define TABLES "/data/store/keyspaces/"

/* Whether this thread of the engine merges tables: it has read of one, and not synced the journal since, as it does before it
 * writes a table of what is in memory. */
static __thread int merges;

static int table_read_fails(int fd) {
    char name[16] = "";
    if (prctl(PR_GET_NAME, name) != 0 || strcmp(name, "fjall:worker") != 0 || !named(fd, TABLES)) return 0;
    merges = 1;
    if (!there("merge-reads")) return 0;
    note("merge-reads");
    errno = EIO;
    return 1;
}

/* Of the engine's tables, which its own threads write, and not of its journal. */
static int table_fails(int fd) {
    const char *fault = there("tables") ? "tables" : merges && there("merge-writes") ? "merge-writes" : NULL;
    if (fault == NULL || !named(fd, TABLES)) return 0;
    note(fault);
    errno = strcmp(fault, "tables") == 0 ? ENOSPC : EIO;
    return 1;
}

static int sync_fails(int fd) {
    if (merges && named(fd, ".jnl")) merges = 0;
    if (table_fails(fd)) return 1;
    while (hits(fd, "stall")) usleep(50000);
    if (!hits(fd, "sync")) return 0;
    errno = EIO;
    return 1;
}

static int write_fails(int fd) {
    if (table_fails(fd)) return 1;
    if (!hits(fd, "full")) return 0;
    errno = ENOSPC;
    return 1;
}

int fsync(int fd) { return sync_fails(fd) ? -1 : REAL(fsync)(fd); }

int fdatasync(int fd) { return sync_fails(fd) ? -1 : REAL(fdatasync)(fd); }

ssize_t write(int fd, const void *bytes, size_t len) { return write_fails(fd) ? -1 : REAL(write)(fd, bytes, len); }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return write_fails(fd) ? -1 : REAL(writev)(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at) {
    return write_fails(fd) ? -1 : REAL(pwrite64)(fd, bytes, len, at);
}

long syscall(long number, ...) {
    long given[6];
    va_list list;
    va_start(list, number);
    for (int at = 0; at < 6; at++) given[at] = va_arg(list, long);
    va_end(list);
    if (number == SYS_io_uring_setup && there("noring")) {
        errno = EPERM;
        return -1;
    }
    return REAL(syscall)(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

/* Whether this is the thread of a shard that is to be wedged. */
static int wedged(void) {
    char name[16] = "", fault[32];
    if (prctl(PR_GET_NAME, name) != 0 || strncmp(name, "shard-", 6) != 0) return 0;
    snprintf(fault, sizeof fault, "wedge-%.7s", name);
    return there(fault);
}

ssize_t read(int fd, void *bytes, size_t len) {
    while (wedged()) usleep(50000);
    if (table_read_fails(fd)) return -1;
    return REAL(read)(fd, bytes, len);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static __typeof__(&clock_gettime) real;
    const char *faults = getenv("PLAZA_FAULTS");
    char file[PATH_MAX], text[32] = "";
    int result, fd;
    if (real == NULL) real = REAL(clock_gettime);
    result = real(clock, now);
    if (result != 0 || clock != CLOCK_REALTIME || faults == NULL) return result;
    snprintf(file, sizeof file, "%s/clock", faults);
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    if (REAL(read)(fd, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
    close(fd);
    return 0;
}
