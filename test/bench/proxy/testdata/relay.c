/* The limit of what a proxy can do: it accepts, connects once for each connection, and copies bytes in both directions
 * without looking at them. One thread, edge-triggered epoll. Usage: relay PORT BACKEND-PORT, both on 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 1 << 16, BUFFER = 256 << 10 };

static int peer[MAX_FD];
static char buffer[BUFFER];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static struct sockaddr_in loopback(int port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return a;
}

static void watch(int epoll, int fd) {
  struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) < 0) fail("epoll_ctl");
}

/* write_all waits for a peer that reads too slowly: it is a limit for benches, not a proxy. */
static int write_all(int fd, const char *p, ssize_t n) {
  while (n > 0) {
    ssize_t w = write(fd, p, n);
    if (w < 0 && errno == EAGAIN) continue;
    if (w < 0) return -1;
    p += w;
    n -= w;
  }
  return 0;
}

static void end(int fd) {
  int other = peer[fd];
  close(fd);
  if (other >= 0) close(other);
  peer[fd] = -1;
  if (other >= 0) peer[other] = -1;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int one = 1, epoll = epoll_create1(0), listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in here = loopback(atoi(argv[1])), there = loopback(atoi(argv[2]));
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0) fail("bind");
  if (listen(listener, 4096) < 0) fail("listen");
  struct epoll_event l = {.events = EPOLLIN, .data.fd = listener};
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &l);
  for (;;) {
    struct epoll_event events[256];
    int n = epoll_wait(epoll, events, 256, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) {
        int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (client < 0) continue;
        int backend = socket(AF_INET, SOCK_STREAM, 0);
        if (backend < 0 || client >= MAX_FD || backend >= MAX_FD || connect(backend, (struct sockaddr *)&there, sizeof there) < 0) {
          close(client);
          if (backend >= 0) close(backend);
          continue;
        }
        fcntl(backend, F_SETFL, O_NONBLOCK);
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(backend, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        peer[client] = backend;
        peer[backend] = client;
        watch(epoll, client);
        watch(epoll, backend);
        continue;
      }
      for (;;) {
        if (peer[fd] < 0) break;
        ssize_t r = read(fd, buffer, BUFFER);
        if (r < 0 && errno == EAGAIN) break;
        if (r <= 0 || write_all(peer[fd], buffer, r) < 0) {
          end(fd);
          break;
        }
        if (r < BUFFER) break; /* the next arrival raises another event */
      }
    }
  }
}
