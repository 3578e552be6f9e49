/* The load averages: load.load.shortterm, midterm and longterm. */
#include "config.h"

#include "collectd.h"

#include <stdlib.h>
#include <strings.h>
#include <unistd.h>

static bool relative; /* divided by the number of processors */

static void load_configure(const struct item *item) {
  if (strcasecmp(item->key, "ReportRelative") == 0)
    config_bool(item, &relative);
  else
    say(LEVEL_WARNING, "load: unknown option %s", item->key);
}

static void load_read(void) {
  double values[3];
  if (getloadavg(values, 3) != 3) {
    say(LEVEL_WARNING, "load: cannot get the load averages");
    return;
  }
  long processors = relative ? sysconf(_SC_NPROCESSORS_ONLN) : 1;
  if (processors < 1)
    processors = 1;
  for (int i = 0; i < 3; i++)
    values[i] /= (double)processors;
  dispatch(&(struct reading){"load", "load", relative ? "relative" : "", values, 3});
}

const struct plugin load_plugin = {"load", load_configure, load_read};
