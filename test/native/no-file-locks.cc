// For LD_PRELOAD: the file system as one of a network may be, without locks on folders and without files that have no
// names, and slow to write down what was written. Built by packed-cache.test.ts.
#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>

extern "C" int flock(int, int) { return 0; }

extern "C" int fdatasync(int) {
  usleep(1'000'000);
  return 0;
}

extern "C" int open(const char* path, int flags, ...) {
  if ((flags & O_TMPFILE) == O_TMPFILE) {
    errno = EOPNOTSUPP;
    return -1;
  }
  va_list more;
  va_start(more, flags);
  const mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
  va_end(more);
  using Open = int (*)(const char*, int, ...);
  static const auto next = reinterpret_cast<Open>(dlsym(RTLD_NEXT, "open"));
  return next(path, flags, mode);
}
