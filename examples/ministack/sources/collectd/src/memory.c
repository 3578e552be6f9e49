/* Memory in bytes, under the real plugin's names: memory.memory-used, -free… */
#include "config.h"

#include "collectd.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#ifdef HAVE_MACH_MACH_H
#include <mach/mach.h>
#endif

enum { MOST_KINDS = 8 };

/* What the system's memory is divided into. */
struct kinds {
  const char *names[MOST_KINDS];
  double bytes[MOST_KINDS];
  size_t count;
};

static bool absolute = true;
static bool percentage = false;

static void memory_configure(const struct item *item) {
  if (strcasecmp(item->key, "ValuesAbsolute") == 0)
    config_bool(item, &absolute);
  else if (strcasecmp(item->key, "ValuesPercentage") == 0)
    config_bool(item, &percentage);
  else
    say(LEVEL_WARNING, "memory: unknown option %s", item->key);
}

static void add(struct kinds *kinds, const char *name, double bytes) {
  kinds->names[kinds->count] = name;
  kinds->bytes[kinds->count++] = bytes;
}

#ifdef HAVE_MACH_MACH_H

static bool measure(struct kinds *kinds) {
  mach_port_t host = mach_host_self();
  vm_statistics64_data_t pages;
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  vm_size_t size;

  bool good = host_page_size(host, &size) == KERN_SUCCESS &&
              host_statistics64(host, HOST_VM_INFO64, (host_info64_t)&pages, &count) == KERN_SUCCESS;
  mach_port_deallocate(mach_task_self(), host);
  if (!good)
    return false;
  add(kinds, "wired", (double)pages.wire_count * (double)size);
  add(kinds, "active", (double)pages.active_count * (double)size);
  add(kinds, "inactive", (double)pages.inactive_count * (double)size);
  add(kinds, "free", (double)pages.free_count * (double)size);
  return true;
}

#else

static bool measure(struct kinds *kinds) {
  double total = 0, unused = 0, buffers = 0, cached = 0, reclaimable = 0, unreclaimable = 0;
  const struct {
    const char *name;
    double *bytes;
  } wanted[] = {
      {"MemTotal", &total}, {"MemFree", &unused},         {"Buffers", &buffers},
      {"Cached", &cached},  {"SReclaimable", &reclaimable}, {"SUnreclaim", &unreclaimable},
  };
  char line[256], name[64];
  double number;
  FILE *file = fopen("/proc/meminfo", "r");

  if (file == NULL)
    return false;
  while (fgets(line, sizeof(line), file) != NULL) {
    if (sscanf(line, "%63[^:]: %lf", name, &number) != 2)
      continue;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); i++)
      if (strcmp(name, wanted[i].name) == 0)
        *wanted[i].bytes = number * 1024;
  }
  fclose(file);
  double used = total - unused - buffers - cached - reclaimable;
  if (total <= 0 || used < 0)
    return false;
  add(kinds, "used", used);
  add(kinds, "free", unused);
  add(kinds, "buffered", buffers);
  add(kinds, "cached", cached);
  add(kinds, "slab_recl", reclaimable);
  add(kinds, "slab_unrecl", unreclaimable);
  return true;
}

#endif

static void memory_read(void) {
  struct kinds kinds = {.count = 0};
  double total = 0;

  if (!measure(&kinds)) {
    say(LEVEL_WARNING, "memory: cannot measure it on this system");
    return;
  }
  for (size_t i = 0; i < kinds.count; i++)
    if (strcmp(kinds.names[i], "slab_unrecl") != 0) /* that is part of the used */
      total += kinds.bytes[i];
  for (size_t i = 0; i < kinds.count; i++) {
    double percent = 100 * kinds.bytes[i] / total;
    if (absolute)
      dispatch(&(struct reading){"memory", "memory", kinds.names[i], &kinds.bytes[i], 1});
    if (percentage)
      dispatch(&(struct reading){"memory", "percent", kinds.names[i], &percent, 1});
  }
}

const struct plugin memory_plugin = {"memory", memory_configure, memory_read};
