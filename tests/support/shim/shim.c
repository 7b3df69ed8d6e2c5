/* Stands between a process and the C library, so that a test can turn its clock and refuse its writes to files.
 *
 * SANDBAR_SHIM names a file of two 64-bit integers that the test changes while the process runs: what is added to the
 * wall clock, in milliseconds, and the errno with which writes to regular files fail, 0 for none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *orders;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("SANDBAR_SHIM");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, 2 * sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) orders = mapped;
  close(file);
}

/* === the wall clock === */

static void turn(struct timespec *time) {
  int64_t by = orders ? orders[0] : 0;
  int64_t nanos = time->tv_nsec + by % 1000 * 1000000;
  time->tv_sec += by / 1000 + (nanos < 0 ? -1 : nanos / 1000000000);
  time->tv_nsec = (nanos + 1000000000) % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
  int answer = syscall(SYS_clock_gettime, clock, time);
  if (answer == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) turn(time);
  return answer;
}

int gettimeofday(struct timeval *restrict into, void *restrict zone) {
  (void)zone;
  struct timespec now;
  int answer = clock_gettime(CLOCK_REALTIME, &now);
  if (answer == 0) *into = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
  return answer;
}

time_t time(time_t *into) {
  struct timespec now = {0};
  clock_gettime(CLOCK_REALTIME, &now);
  if (into) *into = now.tv_sec;
  return now.tv_sec;
}

/* === writes to files === */

/* True, with errno set, if the write is to fail. What goes to the standard streams lies on another disk. */
static int refused(int file) {
  int with = orders ? (int)orders[1] : 0;
  struct stat found;
  if (with == 0 || file <= 2 || fstat(file, &found) != 0 || !S_ISREG(found.st_mode)) return 0;
  errno = with;
  return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *bytes, size_t size) {
  return refused(file) ? -1 : syscall(SYS_write, file, bytes, size);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
  return refused(file) ? -1 : REAL(pwrite)(file, bytes, size, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
  return refused(file) ? -1 : REAL(pwrite64)(file, bytes, size, at);
}

int ftruncate(int file, off_t size) {
  return refused(file) ? -1 : REAL(ftruncate)(file, size);
}

int ftruncate64(int file, off64_t size) {
  return refused(file) ? -1 : REAL(ftruncate64)(file, size);
}
