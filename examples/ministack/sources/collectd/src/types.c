/* types.db: which values a type has. */
#include "config.h"

#include "collectd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct type *types;
static size_t type_count;

bool types_read(const char *path) {
  FILE *file = fopen(path, "r");
  char line[4096];

  if (file == NULL) {
    say(LEVEL_ERROR, "cannot read the types %s: %s", path, strerror(errno));
    return false;
  }
  while (fgets(line, sizeof(line), file) != NULL) {
    char *rest = line;
    struct type type = {0};
    char *name = strtok_r(rest, " \t\r\n", &rest);
    if (name == NULL || *name == '#')
      continue;
    for (char *source; type.count < MOST_SOURCES && (source = strtok_r(NULL, ", \t\r\n", &rest)) != NULL;) {
      source[strcspn(source, ":")] = '\0';
      type.sources[type.count++] = copy(source);
    }
    type.name = copy(name);
    types = grow(types, type_count + 1, sizeof(type));
    types[type_count++] = type;
  }
  fclose(file);
  return true;
}

const struct type *types_find(const char *name) {
  for (size_t i = type_count; i > 0; i--) /* a later file's type replaces an earlier one's */
    if (strcmp(types[i - 1].name, name) == 0)
      return &types[i - 1];
  return NULL;
}
