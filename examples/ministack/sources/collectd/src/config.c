/* Reads collectd.conf: lines of a key and its values, blocks in <>, quotes,
 * comments, and Include with patterns. */
#include "config.h"

#include "collectd.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum {
  DEEPEST_INCLUDE = 8,
  DEEPEST_BLOCK = 32,
  LARGEST_FILE = 1 << 20,
};

/* A file as it is being read. */
struct reader {
  const char *path;
  char *at;
  int line;
  int includes; /* how deep this file is included */
};

static bool read_file(const char *path, int includes, struct item *parent);

static bool wrong(const struct reader *r, const char *why) {
  say(LEVEL_ERROR, "cannot read the configuration: %s:%d: %s", r->path, r->line, why);
  return false;
}

/* Skips blanks and lines' continuations, but no line end. */
static void skip_blanks(struct reader *r) {
  for (;;) {
    if (*r->at == ' ' || *r->at == '\t' || *r->at == '\r') {
      r->at++;
    } else if (r->at[0] == '\\' && r->at[1] == '\n') {
      r->at += 2;
      r->line++;
    } else {
      return;
    }
  }
}

/* Skips empty lines and comments. */
static void skip_lines(struct reader *r) {
  for (;;) {
    skip_blanks(r);
    if (*r->at == '#')
      r->at += strcspn(r->at, "\n");
    if (*r->at != '\n')
      return;
    r->at++;
    r->line++;
  }
}

/* Takes a word, quoted or not; NULL where there is none or it has no end. */
static char *take_word(struct reader *r) {
  if (*r->at != '"') {
    size_t length = strcspn(r->at, " \t\r\n\"<>#");
    char *word = grow(NULL, length + 1, 1);
    memcpy(word, r->at, length);
    word[length] = '\0';
    r->at += length;
    if (length == 0) {
      free(word);
      return NULL;
    }
    return word;
  }
  char *word = grow(NULL, strlen(r->at), 1);
  char *out = word;
  for (r->at++; *r->at != '"'; r->at++) {
    if (*r->at == '\\' && r->at[1] != '\0')
      r->at++;
    if (*r->at == '\0') {
      free(word);
      return NULL;
    }
    if (*r->at == '\n')
      r->line++;
    *out++ = *r->at;
  }
  *out = '\0';
  r->at++;
  return word;
}

static void free_children(struct item *item) {
  for (size_t i = 0; i < item->child_count; i++)
    config_free(&item->children[i]);
  free(item->children);
}

void config_free(struct item *item) {
  for (size_t i = 0; i < item->value_count; i++)
    free(item->values[i]);
  free(item->values);
  free_children(item);
  free(item->key);
  memset(item, 0, sizeof(*item));
}

/* Reads a key and its values up to the line's or the bracket's end. */
static bool read_head(struct reader *r, struct item *item) {
  skip_blanks(r);
  if ((item->key = take_word(r)) == NULL)
    return wrong(r, "a key is missing");
  for (;;) {
    skip_blanks(r);
    if (strchr("\n>#", *r->at) != NULL) /* finds the end of the text too */
      return true;
    char *value = take_word(r);
    if (value == NULL)
      return wrong(r, "a value cannot be read; is a quote missing?");
    item->values = grow(item->values, item->value_count + 1, sizeof(char *));
    item->values[item->value_count++] = value;
  }
}

static int by_name(const void *a, const void *b) {
  return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Includes the files of a folder in the order of their names. */
static bool include_folder(const char *path, const char *filter, int includes, struct item *parent) {
  DIR *folder = opendir(path);
  if (folder == NULL) {
    say(LEVEL_ERROR, "cannot include the folder %s: %s", path, strerror(errno));
    return false;
  }
  char **files = NULL;
  size_t count = 0;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    if (entry->d_name[0] == '.' || (filter != NULL && fnmatch(filter, entry->d_name, 0) != 0))
      continue;
    size_t size = strlen(path) + strlen(entry->d_name) + 2;
    files = grow(files, count + 1, sizeof(char *));
    files[count] = grow(NULL, size, 1);
    snprintf(files[count++], size, "%s/%s", path, entry->d_name);
  }
  closedir(folder);
  if (count > 0)
    qsort(files, count, sizeof(char *), by_name);
  bool good = true;
  for (size_t i = 0; i < count; i++) {
    good = good && read_file(files[i], includes, parent);
    free(files[i]);
  }
  free(files);
  return good;
}

/* Puts what Include names where it stands. */
static bool include(const struct reader *r, const struct item *item, struct item *parent) {
  const char *filter = NULL;
  if (item->value_count != 1)
    return wrong(r, "Include needs one path");
  if (r->includes >= DEEPEST_INCLUDE)
    return wrong(r, "files include each other too deeply");
  for (size_t i = 0; i < item->child_count; i++)
    if (strcasecmp(item->children[i].key, "Filter") == 0 && item->children[i].value_count == 1)
      filter = item->children[i].values[0];

  glob_t found;
  if (glob(item->values[0], 0, NULL, &found) != 0) {
    say(LEVEL_WARNING, "%s:%d: Include \"%s\" matches nothing", r->path, r->line, item->values[0]);
    return true;
  }
  bool good = true;
  for (size_t i = 0; good && i < found.gl_pathc; i++) {
    struct stat status;
    if (stat(found.gl_pathv[i], &status) == 0 && S_ISDIR(status.st_mode))
      good = include_folder(found.gl_pathv[i], filter, r->includes + 1, parent);
    else
      good = read_file(found.gl_pathv[i], r->includes + 1, parent);
  }
  globfree(&found);
  return good;
}

static bool read_items(struct reader *r, struct item *parent, int depth);

/* Reads one line or block into item; the block's end stands for itself. */
static bool read_item(struct reader *r, struct item *item, int depth) {
  bool block = *r->at == '<';
  if (block)
    r->at++;
  if (!read_head(r, item))
    return false;
  if (!block)
    return *r->at != '>' || wrong(r, "a > without its <");
  if (*r->at != '>')
    return wrong(r, "a block's name needs its >");
  r->at++;
  if (depth >= DEEPEST_BLOCK)
    return wrong(r, "blocks stand in each other too deeply");
  if (!read_items(r, item, depth + 1))
    return false;
  if (r->at[0] != '<')
    return wrong(r, "the file ends within a block");
  r->at += 2;
  struct item end = {0};
  bool good = read_head(r, &end);
  if (good && (strcasecmp(end.key, item->key) != 0 || *r->at != '>'))
    good = wrong(r, "the end of a block does not fit its beginning");
  if (good)
    r->at++;
  config_free(&end);
  return good;
}

/* Reads items up to the end of the text or of the block. */
static bool read_items(struct reader *r, struct item *parent, int depth) {
  for (;;) {
    skip_lines(r);
    if (*r->at == '\0' || (r->at[0] == '<' && r->at[1] == '/'))
      return true;
    struct item item = {0};
    bool good = read_item(r, &item, depth);
    if (good && strcasecmp(item.key, "Include") == 0) {
      good = include(r, &item, parent);
      config_free(&item);
    } else if (good) {
      parent->children = grow(parent->children, parent->child_count + 1, sizeof(item));
      parent->children[parent->child_count++] = item;
    }
    if (!good) {
      config_free(&item);
      return false;
    }
  }
}

static bool read_file(const char *path, int includes, struct item *parent) {
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    say(LEVEL_ERROR, "cannot read the configuration %s: %s", path, strerror(errno));
    return false;
  }
  char *text = grow(NULL, LARGEST_FILE + 1, 1);
  size_t size = fread(text, 1, LARGEST_FILE, file);
  bool good = !ferror(file) && size < LARGEST_FILE;
  fclose(file);
  text[size] = '\0';
  if (!good) {
    say(LEVEL_ERROR, "cannot read the configuration %s: it is no file of less than 1 MiB", path);
  } else {
    struct reader r = {.path = path, .at = text, .line = 1, .includes = includes};
    good = read_items(&r, parent, 0);
    if (good && *r.at != '\0')
      good = wrong(&r, "the end of a block that did not begin");
  }
  free(text);
  return good;
}

bool config_read(const char *path, struct item *root) { return read_file(path, 0, root); }

static bool unusable(const struct item *item, const char *wanted) {
  say(LEVEL_WARNING, "option %s needs %s: left out", item->key, wanted);
  return false;
}

bool config_text(const struct item *item, char **into) {
  if (item->value_count != 1)
    return unusable(item, "one text");
  free(*into);
  *into = copy(item->values[0]);
  return true;
}

bool config_number(const struct item *item, double *into) {
  char *end = "?";
  double number = item->value_count == 1 ? strtod(item->values[0], &end) : 0;
  if (*end != '\0' || end == item->values[0])
    return unusable(item, "a number");
  *into = number;
  return true;
}

bool config_bool(const struct item *item, bool *into) {
  static const char *const words[] = {"true", "yes", "on", "false", "no", "off"};
  for (size_t i = 0; item->value_count == 1 && i < sizeof(words) / sizeof(*words); i++) {
    if (strcasecmp(item->values[0], words[i]) == 0) {
      *into = i < 3;
      return true;
    }
  }
  return unusable(item, "true or false");
}
