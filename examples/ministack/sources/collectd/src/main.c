/* A collectd in miniature: it measures load and memory and sends them to
 * Graphite. It is not the real collectd (collectd.org), nor derived from it;
 * it reads the same configuration file and obeys the same signals, so that
 * dkumonitor's builder and launcher can be tried with it. */
#include "config.h"

#include "collectd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct plugin *const plugins[] = {&load_plugin, &memory_plugin, &write_graphite_plugin};
enum { PLUGINS = sizeof(plugins) / sizeof(*plugins) };

static bool loaded[PLUGINS];
static char *hostname;
static char *base_dir;
static double interval = 10;
static time_t round_time; /* of the readings that are being taken */

/* Signals come through a pipe, so that the one poll of the loop sees them. */
static int signal_pipe[2];

static void on_signal(int number) {
  int before = errno;
  char byte = (char)number;
  if (write(signal_pipe[1], &byte, 1) < 0) {
    /* The pipe is full of signals: this one is among them. */
  }
  errno = before;
}

void dispatch(const struct reading *reading) { graphite_write(reading, hostname, round_time); }

static int find_plugin(const char *name) {
  for (int i = 0; i < PLUGINS; i++)
    if (strcasecmp(plugins[i]->name, name) == 0)
      return i;
  return -1;
}

/* --- configuration -------------------------------------------------- */

static void load_plugins(const struct item *root) {
  char missing[1024] = "";

  for (size_t i = 0; i < root->child_count; i++) {
    const struct item *item = &root->children[i];
    if (strcasecmp(item->key, "LoadPlugin") != 0)
      continue;
    const char *name = item->value_count == 1 ? item->values[0] : "(unnamed)";
    int index = find_plugin(name);
    if (index >= 0)
      loaded[index] = true;
    else
      snprintf(missing + strlen(missing), sizeof(missing) - strlen(missing), " %s", name);
  }
  if (missing[0] != '\0')
    say(LEVEL_WARNING, "plugins that the miniature does not have, left out:%s", missing);
}

static void configure_plugin(const struct item *item) {
  int index = item->value_count == 1 ? find_plugin(item->values[0]) : -1;
  if (index < 0)
    return; /* said where it was to be loaded */
  if (!loaded[index])
    say(LEVEL_WARNING, "plugin %s is configured but not loaded", item->values[0]);
  for (size_t i = 0; loaded[index] && i < item->child_count; i++)
    plugins[index]->configure(&item->children[i]);
}

static bool configure(const struct item *root) {
  bool types = false, good = true;

  load_plugins(root);
  for (size_t i = 0; i < root->child_count; i++) {
    const struct item *item = &root->children[i];
    if (strcasecmp(item->key, "Hostname") == 0)
      config_text(item, &hostname);
    else if (strcasecmp(item->key, "Interval") == 0)
      config_number(item, &interval);
    else if (strcasecmp(item->key, "BaseDir") == 0)
      config_text(item, &base_dir);
    else if (strcasecmp(item->key, "Plugin") == 0)
      configure_plugin(item);
    else if (strcasecmp(item->key, "TypesDB") == 0)
      for (size_t k = 0; k < item->value_count; k++) {
        types = true;
        good = types_read(item->values[k]) && good;
      }
    /* What else the real one knows (PluginDir, ReadThreads…) means nothing here. */
  }
  if (!(interval >= 0.1 && interval <= 86400)) {
    say(LEVEL_ERROR, "cannot use the Interval %g: it must be between 0.1 and 86400 seconds", interval);
    good = false;
  }
  if (!types && good)
    good = types_read(TYPES_DB);
  if (hostname == NULL) {
    char name[256] = "localhost";
    if (gethostname(name, sizeof(name)) != 0)
      say(LEVEL_WARNING, "cannot get the host's name: %s", strerror(errno));
    name[sizeof(name) - 1] = '\0';
    hostname = copy(name);
  }
  return good;
}

/* Makes a folder with its parents and goes there, as the real one does. */
static bool enter(char *path, bool make) {
  for (char *at = path + 1; make && *at != '\0'; at++) {
    if (*at != '/')
      continue;
    *at = '\0';
    mkdir(path, 0755);
    *at = '/';
  }
  if (make)
    mkdir(path, 0755);
  if (chdir(path) == 0)
    return true;
  say(LEVEL_ERROR, "cannot enter the BaseDir %s: %s", path, strerror(errno));
  return false;
}

/* --- running -------------------------------------------------------- */

static double clock_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void measure(void) {
  round_time = time(NULL);
  for (int i = 0; i < PLUGINS; i++)
    if (loaded[i] && plugins[i]->read != NULL)
      plugins[i]->read();
  graphite_flush();
}

/* Waits until the time, or a signal, whose number it gives. */
static int wait_until(double due) {
  double left = due - clock_now();
  struct pollfd waiting = {.fd = signal_pipe[0], .events = POLLIN};
  char number;

  if (poll(&waiting, 1, left > 0 ? (int)(left * 1000) + 1 : 0) > 0 && read(signal_pipe[0], &number, 1) == 1)
    return number;
  return 0;
}

static bool catch_signals(void) {
  struct sigaction action = {.sa_handler = on_signal};

  if (pipe(signal_pipe) != 0) {
    say(LEVEL_ERROR, "cannot make a pipe: %s", strerror(errno));
    return false;
  }
  for (int i = 0; i < 2; i++) {
    fcntl(signal_pipe[i], F_SETFL, O_NONBLOCK);
    fcntl(signal_pipe[i], F_SETFD, FD_CLOEXEC);
  }
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  signal(SIGPIPE, SIG_IGN);
  return true;
}

static int run(void) {
  if (!catch_signals())
    return EXIT_FAILURE;
  say(LEVEL_INFO, "collectd (miniature) %s: measuring %s every %g seconds", PACKAGE_VERSION, hostname, interval);
  double due = clock_now();
  for (;;) {
    if (clock_now() >= due) {
      measure();
      due += interval;
      if (due < clock_now()) /* a suspended machine does not catch up */
        due = clock_now() + interval;
    }
    switch (wait_until(due)) {
    case SIGINT:
    case SIGTERM:
      say(LEVEL_INFO, "stopping");
      graphite_flush();
      return EXIT_SUCCESS;
    case SIGUSR1:
      graphite_flush();
      break;
    }
  }
}

static int usage(FILE *to, int status) {
  fputs("Usage: collectd -f -C FILE [-B] [-P FILE] [-t]\n"
        "  -C FILE  the configuration\n"
        "  -f       stay in the foreground (the miniature cannot do otherwise)\n"
        "  -t       check the configuration and leave\n"
        "  -B       do not make the BaseDir\n"
        "  -P FILE  taken for the real one's sake; with -f there is no PID file\n"
        "  -h       print this and leave\n",
        to);
  fprintf(to, "collectd in miniature, version %s; it is not the real collectd\n", PACKAGE_VERSION);
  return status;
}

int main(int count, char **words) {
  const char *path = NULL;
  bool foreground = false, check = false, make_base = true;

  for (int option; (option = getopt(count, words, "C:P:Bfth")) != -1;) {
    switch (option) {
    case 'C':
      path = optarg;
      break;
    case 'f':
      foreground = true;
      break;
    case 't':
      check = true;
      break;
    case 'B':
      make_base = false;
      break;
    case 'P':
      break;
    case 'h':
      return usage(stdout, EXIT_SUCCESS);
    default:
      return usage(stderr, EXIT_FAILURE);
    }
  }
  if (path == NULL || optind < count)
    return usage(stderr, EXIT_FAILURE);

  struct item root = {0};
  bool good = config_read(path, &root) && configure(&root);
  config_free(&root);
  if (!good || check)
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
  if (!foreground) {
    say(LEVEL_ERROR, "cannot run in the background: start the miniature with -f");
    return EXIT_FAILURE;
  }
  if (base_dir != NULL && !enter(base_dir, make_base))
    return EXIT_FAILURE;
  return run();
}
