/*
 * Hands for the network tests, each a mode of one program; run it in the namespace it is meant for.
 *   pump TAP NETNS-FILE NAME   opens TAP like a VMM does, and is a network card NAME in the other namespace
 *   inject DEVICE              sends every line of standard input, a frame in hexadecimal
 *   sniff DEVICE               prints every frame that comes in, a line in hexadecimal
 *   serve tcp|udp PORT         answers everybody with the address that it sees
 *   ask tcp|udp ADDRESS PORT   prints the answer; ends with 1 when there is none within 3 s
 * Each mode that waits prints "ready" first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static unsigned char frame[70000];

static void check(int is_good, const char *what) {
  if (is_good) return;
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(2);
}

static void ready(void) {
  puts("ready");
  fflush(stdout);
}

static int open_tap(const char *name) {
  struct ifreq request = {0};
  int fd = open("/dev/net/tun", O_RDWR);
  check(fd >= 0, "/dev/net/tun");
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  check(ioctl(fd, TUNSETIFF, &request) == 0, name);
  return fd;
}

static void pump(const char *tap, const char *netns, const char *name) {
  struct pollfd ends[2] = {{.fd = open_tap(tap), .events = POLLIN}};
  int other = open(netns, O_RDONLY);
  check(other >= 0, netns);
  check(setns(other, CLONE_NEWNET) == 0, "setns");
  ends[1] = (struct pollfd){.fd = open_tap(name), .events = POLLIN};
  ready();
  for (;;) {
    check(poll(ends, 2, -1) >= 0, "poll");
    for (int from = 0; from < 2; from++) {
      if (!ends[from].revents) continue;
      ssize_t length = read(ends[from].fd, frame, sizeof frame);
      if (length <= 0) {
        if (errno == EAGAIN || errno == EINTR) continue;
        exit(0); /* The tap was removed. */
      }
      /* A card that is down refuses a frame, which is what a card does. */
      if (write(ends[1 - from].fd, frame, (size_t)length) < 0) continue;
    }
  }
}

static int open_packet(const char *device) {
  int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));
  check(fd >= 0, "packet socket");
  struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(device)};
  check(address.sll_ifindex > 0, device);
  check(bind(fd, (struct sockaddr *)&address, sizeof address) == 0, "bind");
  struct packet_mreq promiscuous = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
  check(setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) == 0, "promiscuous");
  /* Tagged frames lose their tag on the way to a packet socket; it comes as a message beside them. */
  int one = 1;
  check(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one) == 0, "auxdata");
  return fd;
}

static void inject(const char *device) {
  int fd = open_packet(device);
  static char line[20000];
  ready();
  while (fgets(line, sizeof line, stdin)) {
    size_t length = 0;
    while (sscanf(line + 2 * length, "%2hhx", &frame[length]) == 1) length++;
    check(send(fd, frame, length, 0) == (ssize_t)length, "send");
  }
}

static void sniff(const char *device) {
  int fd = open_packet(device);
  ready();
  for (;;) {
    struct sockaddr_ll from;
    char control[256];
    struct iovec part = {frame, sizeof frame};
    struct msghdr message = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(fd, &message, 0);
    if (length < 0) exit(0); /* The device is gone. */
    if (from.sll_pkttype == PACKET_OUTGOING) continue;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
      struct tpacket_auxdata *extra = (struct tpacket_auxdata *)CMSG_DATA(part);
      if (part->cmsg_level == SOL_PACKET && part->cmsg_type == PACKET_AUXDATA && (extra->tp_status & TP_STATUS_VLAN_VALID)) printf("vlan%d ", extra->tp_vlan_tci & 4095);
    }
    for (ssize_t index = 0; index < length; index++) printf("%02x", frame[index]);
    puts("");
    fflush(stdout);
  }
}

static struct sockaddr_in endpoint(const char *address, const char *port) {
  struct sockaddr_in result = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
  check(inet_pton(AF_INET, address, &result.sin_addr) == 1, "address");
  return result;
}

static void serve(int is_udp, const char *port) {
  int fd = socket(AF_INET, is_udp ? SOCK_DGRAM : SOCK_STREAM, 0), one = 1;
  struct sockaddr_in local = endpoint("0.0.0.0", port), peer;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  check(bind(fd, (struct sockaddr *)&local, sizeof local) == 0, "bind");
  check(is_udp || listen(fd, 16) == 0, "listen");
  ready();
  for (;;) {
    socklen_t size = sizeof peer;
    char text[64];
    if (is_udp) {
      if (recvfrom(fd, frame, sizeof frame, 0, (struct sockaddr *)&peer, &size) < 0) continue;
      inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text);
      sendto(fd, text, strlen(text), 0, (struct sockaddr *)&peer, size);
    } else {
      int call = accept(fd, (struct sockaddr *)&peer, &size);
      if (call < 0) continue;
      inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text);
      if (write(call, text, strlen(text)) < 0) perror("write");
      close(call);
    }
  }
}

static int ask(int is_udp, const char *address, const char *port) {
  int fd = socket(AF_INET, is_udp ? SOCK_DGRAM : SOCK_STREAM, 0);
  struct sockaddr_in peer = endpoint(address, port);
  struct timeval limit = {.tv_sec = 3};
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  if (connect(fd, (struct sockaddr *)&peer, sizeof peer) != 0) return perror("connect"), 1;
  if (is_udp && send(fd, "?", 1, 0) != 1) return perror("send"), 1;
  ssize_t length = read(fd, frame, 63);
  if (length <= 0) return perror("read"), 1;
  printf("%.*s\n", (int)length, frame);
  return 0;
}

int main(int count, char **words) {
  const char *mode = count > 2 ? words[1] : "";
  if (!strcmp(mode, "pump") && count == 5) pump(words[2], words[3], words[4]);
  else if (!strcmp(mode, "inject")) inject(words[2]);
  else if (!strcmp(mode, "sniff")) sniff(words[2]);
  else if (!strcmp(mode, "serve") && count == 4) serve(!strcmp(words[2], "udp"), words[3]);
  else if (!strcmp(mode, "ask") && count == 5) return ask(!strcmp(words[2], "udp"), words[3], words[4]);
  else return 2;
  return 0;
}
