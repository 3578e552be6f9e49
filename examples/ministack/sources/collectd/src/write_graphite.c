/* Sends readings to Graphite by the plaintext protocol. A node that cannot be
 * reached keeps its lines, up to the size of its buffer, for the next try. */
#include "config.h"

#include "collectd.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum {
  BUFFER_SIZE = 64 << 10,
  /* The real one's size for a datagram: it fits into an Ethernet frame. */
  DATAGRAM_SIZE = 1428,
  NAME_SIZE = 1024,
  /* Seconds that connecting and sending may take. */
  PATIENCE = 3,
};

struct graphite_node {
  char *host, *port, *protocol, *prefix, *postfix, *escape;
  bool separate_instances, always_append_ds, preserve_separator, drop_duplicates, log_errors;
  int socket; /* -1 without a connection */
  bool troubled;
  size_t lost; /* lines that did not fit while the node was away */
  size_t used;
  char buffer[BUFFER_SIZE];
};

static struct graphite_node **nodes;
static size_t node_count;

static void configure_option(struct graphite_node *n, const struct item *item) {
  const struct {
    const char *key;
    char **text;
    bool *truth;
  } options[] = {
      {"Host", &n->host, NULL},
      {"Port", &n->port, NULL},
      {"Protocol", &n->protocol, NULL},
      {"Prefix", &n->prefix, NULL},
      {"Postfix", &n->postfix, NULL},
      {"EscapeCharacter", &n->escape, NULL},
      {"SeparateInstances", NULL, &n->separate_instances},
      {"AlwaysAppendDS", NULL, &n->always_append_ds},
      {"PreserveSeparator", NULL, &n->preserve_separator},
      {"DropDuplicateFields", NULL, &n->drop_duplicates},
      {"LogSendErrors", NULL, &n->log_errors},
      /* Of these the miniature has no need: it has no counters, and keeps its connection. */
      {"StoreRates", NULL, NULL},
      {"ReconnectInterval", NULL, NULL},
  };
  for (size_t i = 0; i < sizeof(options) / sizeof(*options); i++) {
    if (strcasecmp(item->key, options[i].key) != 0)
      continue;
    if (options[i].text != NULL)
      config_text(item, options[i].text);
    if (options[i].truth != NULL)
      config_bool(item, options[i].truth);
    return;
  }
  say(LEVEL_WARNING, "write_graphite: unknown option %s", item->key);
}

static void graphite_configure(const struct item *item) {
  if (strcasecmp(item->key, "Node") != 0 && strcasecmp(item->key, "Carbon") != 0) {
    say(LEVEL_WARNING, "write_graphite: unknown option %s", item->key);
    return;
  }
  struct graphite_node *n = grow(NULL, 1, sizeof(*n));
  memset(n, 0, sizeof(*n));
  n->socket = -1;
  n->log_errors = true;
  n->host = copy("localhost");
  n->port = copy("2003");
  n->protocol = copy("tcp");
  n->prefix = copy("");
  n->postfix = copy("");
  n->escape = copy("_");
  for (size_t i = 0; i < item->child_count; i++)
    configure_option(n, &item->children[i]);
  nodes = grow(nodes, node_count + 1, sizeof(*nodes));
  nodes[node_count++] = n;
}

static void complain(struct graphite_node *n, const char *what, const char *why) {
  if (n->log_errors && !n->troubled)
    say(LEVEL_ERROR, "write_graphite: cannot %s %s:%s (%s): %s; trying again at each interval", what, n->host, n->port, n->protocol,
        why);
  n->troubled = true;
}

/* --- names ---------------------------------------------------------- */

/* Appends a part of a name. What would break the line is always escaped, a dot
 * only if it does not separate. */
static void add_part(char *name, const char *part, char escape, bool keep_dots) {
  size_t at = strlen(name);
  for (; *part != '\0' && at < NAME_SIZE - 1; part++, at++) {
    unsigned char c = (unsigned char)*part;
    bool bad = isspace(c) || iscntrl(c) || strchr("\"\\:!,/()", c) != NULL || (c == '.' && !keep_dots);
    name[at] = bad ? escape : *part;
  }
  name[at] = '\0';
}

/* The name of one value: prefix host postfix.plugin.type-instance.source, as
 * the real plugin's options arrange it. */
static void make_name(char *name, const struct graphite_node *n, const char *host, const struct reading *r, const char *source) {
  char escape = n->escape[0] == '\0' ? '_' : n->escape[0];
  bool keep = n->preserve_separator;
  bool duplicate = n->drop_duplicates && strcmp(r->plugin, r->type) == 0;

  name[0] = '\0';
  add_part(name, n->prefix, escape, true);
  add_part(name, host, escape, keep);
  add_part(name, n->postfix, escape, true);
  add_part(name, ".", escape, true);
  add_part(name, r->plugin, escape, keep);
  if (!duplicate || r->type_instance[0] != '\0')
    add_part(name, ".", escape, true);
  if (!duplicate)
    add_part(name, r->type, escape, keep);
  if (r->type_instance[0] != '\0') {
    if (!duplicate)
      add_part(name, n->separate_instances ? "." : "-", escape, true);
    add_part(name, r->type_instance, escape, keep);
  }
  if (n->always_append_ds || r->count > 1) {
    add_part(name, ".", escape, true);
    add_part(name, source, escape, keep);
  }
}

void graphite_write(const struct reading *r, const char *host, time_t now) {
  const struct type *type = types_find(r->type);
  if (type == NULL || type->count != r->count) {
    say(LEVEL_WARNING, "write_graphite: types.db does not describe the type %s with %zu values: left out", r->type, r->count);
    return;
  }
  for (size_t k = 0; k < node_count; k++) {
    struct graphite_node *n = nodes[k];
    for (size_t i = 0; i < r->count; i++) {
      char name[NAME_SIZE], line[NAME_SIZE + 64];
      make_name(name, n, host, r, type->sources[i]);
      int size = snprintf(line, sizeof(line), "%s %.15g %lld\r\n", name, r->values[i], (long long)now);
      if (n->used + (size_t)size > BUFFER_SIZE) {
        n->lost++;
        continue;
      }
      memcpy(n->buffer + n->used, line, (size_t)size);
      n->used += (size_t)size;
    }
  }
}

/* --- sending -------------------------------------------------------- */

/* Connects with a limit of time; an errno where it fails. */
static int connect_within(int s, const struct addrinfo *address) {
  int flags = fcntl(s, F_GETFL);
  int error = 0;
  socklen_t size = sizeof(error);
  struct pollfd waiting = {.fd = s, .events = POLLOUT};

  fcntl(s, F_SETFD, FD_CLOEXEC);
  fcntl(s, F_SETFL, flags | O_NONBLOCK);
  if (connect(s, address->ai_addr, address->ai_addrlen) != 0) {
    if (errno != EINPROGRESS)
      return errno;
    if (poll(&waiting, 1, PATIENCE * 1000) < 1)
      return ETIMEDOUT;
    if (getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0)
      return error != 0 ? error : errno;
  }
  fcntl(s, F_SETFL, flags);
  setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){.tv_sec = PATIENCE}, sizeof(struct timeval));
  return 0;
}

static bool node_connect(struct graphite_node *n) {
  bool udp = strcasecmp(n->protocol, "udp") == 0;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = udp ? SOCK_DGRAM : SOCK_STREAM};
  struct addrinfo *addresses;

  int failure = getaddrinfo(n->host, n->port, &hints, &addresses);
  if (failure != 0) {
    complain(n, "resolve", gai_strerror(failure));
    return false;
  }
  int error = 0;
  for (struct addrinfo *a = addresses; a != NULL && n->socket < 0; a = a->ai_next) {
    int s = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    error = s < 0 ? errno : connect_within(s, a);
    if (error == 0)
      n->socket = s;
    else if (s >= 0)
      close(s);
  }
  freeaddrinfo(addresses);
  if (n->socket < 0)
    complain(n, "connect to", strerror(error));
  return n->socket >= 0;
}

/* Whether the other side has closed: only reading tells, as a first write
 * into a closed connection still succeeds and its lines are lost. */
static bool is_closed(int s) {
  char byte;
  ssize_t got = recv(s, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

static void node_close(struct graphite_node *n) {
  close(n->socket);
  n->socket = -1;
}

/* How much of the text goes into one send: a datagram holds whole lines. */
static size_t portion(const struct graphite_node *n, const char *text, size_t size) {
  if (strcasecmp(n->protocol, "udp") != 0 || size <= DATAGRAM_SIZE)
    return size;
  size_t end = DATAGRAM_SIZE;
  while (end > 0 && text[end - 1] != '\n')
    end--;
  return end > 0 ? end : DATAGRAM_SIZE;
}

static void node_flush(struct graphite_node *n) {
  if (n->socket >= 0 && strcasecmp(n->protocol, "udp") != 0 && is_closed(n->socket))
    node_close(n);
  if (n->used == 0 || (n->socket < 0 && !node_connect(n)))
    return;

  size_t sent = 0;
  while (sent < n->used) {
    ssize_t count = send(n->socket, n->buffer + sent, portion(n, n->buffer + sent, n->used - sent), 0);
    if (count < 0 && errno == EINTR)
      continue;
    if (count < 0) {
      complain(n, "send to", strerror(errno));
      node_close(n);
      break;
    }
    sent += (size_t)count;
  }
  if (sent == n->used) {
    if (n->troubled)
      say(LEVEL_INFO, "write_graphite: %s:%s can be reached again; %zu lines were lost", n->host, n->port, n->lost);
    n->troubled = false;
    n->lost = 0;
  }
  /* A line of which a part went out is sent again, whole, by the next connection. */
  while (sent > 0 && sent < n->used && n->buffer[sent - 1] != '\n')
    sent--;
  n->used -= sent;
  memmove(n->buffer, n->buffer + sent, n->used);
}

void graphite_flush(void) {
  for (size_t i = 0; i < node_count; i++)
    node_flush(nodes[i]);
}

const struct plugin write_graphite_plugin = {"write_graphite", graphite_configure, NULL};
