/* Shared declarations of the miniature collectd. */
#ifndef COLLECTD_H
#define COLLECTD_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

/* --- util.c --------------------------------------------------------- */

enum level { LEVEL_ERROR, LEVEL_WARNING, LEVEL_INFO };

/* Writes one line with a time stamp to standard error. */
void say(enum level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As their namesakes, but they end the program where memory is out. */
void *grow(void *old, size_t count, size_t size);
char *copy(const char *text);

/* --- config.c ------------------------------------------------------- */

/* One line of the configuration, or one block with what is in it. */
struct item {
  char *key;
  char **values; /* of all of them the text */
  size_t value_count;
  struct item *children;
  size_t child_count;
};

/* Reads a configuration file with all that it includes into root, which the
 * caller has zeroed. False if anything is wrong; it has been said then. */
bool config_read(const char *path, struct item *root);
void config_free(struct item *root);

/* The only value of an item as text, number or truth. They say what is wrong
 * and leave the target as it was, where it is not one. */
bool config_text(const struct item *item, char **into);
bool config_number(const struct item *item, double *into);
bool config_bool(const struct item *item, bool *into);

/* --- types.c -------------------------------------------------------- */

enum { MOST_SOURCES = 8 };

/* One line of types.db: the names of a type's values. */
struct type {
  char *name;
  char *sources[MOST_SOURCES];
  size_t count;
};

bool types_read(const char *path);
const struct type *types_find(const char *name);

/* --- the plugins ---------------------------------------------------- */

/* What a read plugin measured: one value for each source of its type. */
struct reading {
  const char *plugin;
  const char *type;
  const char *type_instance; /* may be empty */
  const double *values;
  size_t count;
};

/* Hands a reading to the writers. Called by the read plugins. */
void dispatch(const struct reading *reading);

struct plugin {
  const char *name;
  /* Takes one item of its <Plugin> block; NULL if it knows none. */
  void (*configure)(const struct item *item);
  /* Measures and dispatches; NULL for a writer. */
  void (*read)(void);
};

extern const struct plugin load_plugin, memory_plugin, write_graphite_plugin;

/* write_graphite.c: adds a reading to each node's buffer; sends the buffers. */
void graphite_write(const struct reading *reading, const char *host, time_t now);
void graphite_flush(void);

#endif
