/* Messages and memory. */
#include "config.h"

#include "collectd.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void say(enum level level, const char *format, ...) {
  static const char *const names[] = {"error", "warning", "info"};
  char stamp[32];
  time_t now = time(NULL);
  struct tm parts;
  va_list arguments;

  if (localtime_r(&now, &parts) == NULL || strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &parts) == 0)
    strcpy(stamp, "?");
  fprintf(stderr, "[%s] [%s] ", stamp, names[level]);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
}

void *grow(void *old, size_t count, size_t size) {
  void *new = count > SIZE_MAX / size ? NULL : realloc(old, count * size);
  if (new == NULL) {
    say(LEVEL_ERROR, "cannot go on: out of memory");
    exit(EXIT_FAILURE);
  }
  return new;
}

char *copy(const char *text) {
  size_t size = strlen(text) + 1;
  return memcpy(grow(NULL, size, 1), text, size);
}
