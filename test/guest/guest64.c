/*
 * The default test guest: boots in milliseconds on a real cloud-hypervisor, prints one
 * NKUDO-... line per thing it does to COM1, answers the ACPI power button (powers off),
 * takes and gives back CPUs, PCI devices and virtio-mem memory, and sleeps between polls, so
 * that it costs almost no CPU.
 *
 * The first word of the command line says what it does: tick (default), idle, clinging,
 * nobutton, poweroff, reboot, triple, crash, panic, flood, echo, vsock. A number as second word
 * is the delay in milliseconds before poweroff, reboot, triple, crash and panic act, the number
 * of lines of flood, the port of vsock. README.md has the table.
 *
 * Device registers are found by scanning the DSDT for the OpRegions GDST (bit 0 CPU, bit 2
 * PCI, bit 3 power button), PCST (PCI hot-plug) and PRST (CPU hot-plug).
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define SERIAL_DATA 0x3f8
#define SERIAL_LINE_STATUS 0x3fd
#define ACPI_SLEEP_CONTROL 0x600
#define ACPI_SLEEP_S5 0x34
#define ACPI_PM_TIMER 0x608
#define KEYBOARD_CONTROLLER 0x64
#define KEYBOARD_RESET 0xfe

#define PM_TICKS_PER_MS 3580u
#define POLL_PERIOD_NS 10000000u /* KVM's local APIC timer counts nanoseconds */
#define TIMER_VECTOR 0x40
#define SPURIOUS_VECTOR 0xff
#define DEFAULT_ACTION_DELAY_MS 200u
#define TICK_PERIOD_MS 1000u
#define DEFAULT_FLOOD_LINES 1000u
#define DEFAULT_VSOCK_PORT 1024u
#define DEVICE_HOLE 0xd0000000ul /* 32-bit device window: never RAM, no device there */

extern u64 pml4[512];
extern u64 pdpt_low[512];
extern void sleep_until_timer(void);
extern void timer_interrupt(void);
extern void die_by_triple_fault(void);
extern void die_by_emulation_failure(u64 device_address);

static u64 page_directory_by_gib[4][512] __attribute__((aligned(4096)));
/* Tables for device registers above 4 GiB: at most two for each of the few regions that are mapped. */
static u64 device_tables[16][512] __attribute__((aligned(4096)));
static u32 device_tables_used;

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0,%1" ::"a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0,%1" ::"a"(value), "Nd"(port)); }

static inline u8 inb(u16 port) {
  u8 value;
  __asm__ volatile("inb %1,%0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline u32 inl(u16 port) {
  u32 value;
  __asm__ volatile("inl %1,%0" : "=a"(value) : "Nd"(port));
  return value;
}

static inline void write_msr(u32 msr, u64 value) {
  __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)));
}

static inline u64 read_msr(u32 msr) {
  u32 low;
  u32 high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return low | (u64)high << 32;
}

/* ---- serial output ---- */

static void put_char(char c) {
  while (!(inb(SERIAL_LINE_STATUS) & 0x20))
    ;
  outb(SERIAL_DATA, c);
}

static void put(const char *s) {
  while (*s) put_char(*s++);
}

static void put_decimal(u32 value) {
  char digits[12];
  int i = 11;
  digits[i] = 0;
  do {
    digits[--i] = '0' + value % 10;
    value /= 10;
  } while (value);
  put(digits + i);
}

static void put_line(const char *s) {
  put(s);
  put("\r\n");
}

static void put_number_line(const char *label, u32 value) {
  put(label);
  put_decimal(value);
  put("\r\n");
}

/* ---- memory ---- */

static u32 read32(const u8 *p) { return p[0] | (u32)p[1] << 8 | (u32)p[2] << 16 | (u32)p[3] << 24; }
static u64 read64(const u8 *p) { return read32(p) | (u64)read32(p + 4) << 32; }

static int has_signature(const u8 *p, const char *s) {
  return p[0] == s[0] && p[1] == s[1] && p[2] == s[2] && p[3] == s[3];
}

static u64 *table_at(u64 *entry) {
  if (!(*entry & 1)) *entry = (u64)device_tables[device_tables_used++ & 15] | 3;
  return (u64 *)(*entry & ~0xffful);
}

/* Maps the 2 MiB page of a device register above 4 GiB. */
static void map_high(u64 address) {
  u64 *pdpt = table_at(&pml4[(address >> 39) & 511]);
  u64 *directory = table_at(&pdpt[(address >> 30) & 511]);
  directory[(address >> 21) & 511] = (address & ~0x1ffffful) | 0x93;
}

/* Maps the 2 MiB page of a device register between 1 and 4 GiB. */
static void map_low(u64 address) {
  u32 gib = (address >> 30) & 3;
  if (gib == 0) return;
  pdpt_low[gib] = (u64)page_directory_by_gib[gib] | 3;
  page_directory_by_gib[gib][(address >> 21) & 511] = (address & ~0x1ffffful) | 0x93;
}

/* ---- sleeping: one interrupt vector, fired by the local APIC timer ---- */

static struct {
  u16 offset_low;
  u16 selector;
  u8 stack;
  u8 type;
  u16 offset_middle;
  u32 offset_high;
  u32 zero;
} idt[256] __attribute__((aligned(16)));

static void set_gate(int vector, void (*handler)(void)) {
  u64 address = (u64)handler;
  idt[vector].offset_low = (u16)address;
  idt[vector].selector = 0x08;
  idt[vector].type = 0x8e;
  idt[vector].offset_middle = (u16)(address >> 16);
  idt[vector].offset_high = (u32)(address >> 32);
}

static void start_timer(void) {
  struct {
    u16 limit;
    u64 base;
  } __attribute__((packed)) pointer = {sizeof(idt) - 1, (u64)idt};
  set_gate(TIMER_VECTOR, timer_interrupt);
  set_gate(SPURIOUS_VECTOR, timer_interrupt);
  __asm__ volatile("lidt %0" ::"m"(pointer));
  outb(0x21, 0xff); /* mask both legacy interrupt controllers */
  outb(0xa1, 0xff);
  write_msr(0x1b, read_msr(0x1b) | 0xc00);    /* APIC on, x2APIC mode */
  write_msr(0x80f, 0x100 | SPURIOUS_VECTOR);  /* software enable */
  write_msr(0x83e, 0xb);                      /* divide by 1 */
  write_msr(0x832, 0x20000 | TIMER_VECTOR);   /* periodic */
  write_msr(0x838, POLL_PERIOD_NS);
}

static u64 elapsed_pm_ticks;
static u32 last_pm_timer;

/* Milliseconds since start_clock(), by the ACPI PM timer (24 or 32 bits wide). */
static u32 elapsed_ms(void) {
  u32 now = inl(ACPI_PM_TIMER);
  u32 delta = now - last_pm_timer;
  if (now < last_pm_timer) delta &= 0xffffff;
  last_pm_timer = now;
  elapsed_pm_ticks += delta;
  return (u32)(elapsed_pm_ticks / PM_TICKS_PER_MS);
}

static void start_clock(void) {
  last_pm_timer = inl(ACPI_PM_TIMER);
  elapsed_pm_ticks = 0;
}

/* ---- virtio-blk (modern PCI, polled): makes vm.counters and the activated event real ---- */

static u32 pci_read(u32 slot, u32 offset) {
  outl(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  return inl(0xcfc);
}

static void pci_write(u32 slot, u32 offset, u32 value) {
  outl(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  outl(0xcfc, value);
}

#define VIRTIO_BLK_PCI_ID 0x10421af4
#define DESCRIPTOR_NEXT 1
#define DESCRIPTOR_WRITE 2
#define QUEUE_SIZE 8

static struct {
  u64 address;
  u32 length;
  u16 flags;
  u16 next;
} descriptors[QUEUE_SIZE] __attribute__((aligned(4096)));

static volatile struct {
  u16 flags;
  u16 index;
  u16 ring[QUEUE_SIZE];
  u16 event;
} available __attribute__((aligned(4096)));

static volatile struct {
  u16 flags;
  u16 index;
  struct {
    u32 id;
    u32 length;
  } ring[QUEUE_SIZE];
  u16 event;
} used __attribute__((aligned(4096)));

static struct {
  u32 type;
  u32 reserved;
  u64 sector;
} request_header;
static u8 request_data[512];
static u8 request_status;
static volatile u16 *queue_notify;
static u16 used_seen;

/* Slot of the PCI device with this id (device << 16 | vendor), or 0. */
static u32 find_slot(u32 id) {
  for (u32 slot = 1; slot < 32; slot++) {
    if (pci_read(slot, 0) == id) return slot;
  }
  return 0;
}

/* Maps the first memory window of a device and lets it answer; 0 when it lies where this guest can't reach. */
static u64 map_bar0(u32 slot) {
  u32 low = pci_read(slot, 0x10);
  u64 bar = low & ~15u;
  if ((low & 6) == 4) bar |= (u64)pci_read(slot, 0x14) << 32;
  if (bar >> 39)
    map_high(bar);
  else if (bar >> 32)
    return 0;
  else
    map_low(bar);
  pci_write(slot, 4, pci_read(slot, 4) | 6);
  return bar;
}

struct virtio {
  volatile u8 *common;
  volatile u8 *notify;
  volatile u8 *config;
  u32 notify_multiplier;
};

/* Finds the registers of a modern virtio device and agrees on no feature but the version. */
static int virtio_open(u32 slot, struct virtio *device) {
  u64 bar = map_bar0(slot);
  if (!bar) return 0;
  device->common = 0;
  device->notify = 0;
  device->config = 0;
  for (u32 p = pci_read(slot, 0x34) & 0xfc; p;) {
    u32 header = pci_read(slot, p);
    if ((header & 255) == 9) {
      u32 type = header >> 24;
      u32 offset = pci_read(slot, p + 8);
      if (type == 1) device->common = (volatile u8 *)(bar + offset);
      if (type == 4) device->config = (volatile u8 *)(bar + offset);
      if (type == 2) {
        device->notify = (volatile u8 *)(bar + offset);
        device->notify_multiplier = pci_read(slot, p + 16);
      }
    }
    p = (header >> 8) & 0xfc;
  }
  if (!device->common || !device->notify) return 0;
  volatile u8 *common = device->common;
  common[20] = 0;
  common[20] = 1;
  common[20] = 3;
  *(volatile u32 *)(common + 8) = 1;  /* feature word 1 */
  *(volatile u32 *)(common + 12) = 1; /* VIRTIO_F_VERSION_1 */
  common[20] = 11;
  return (common[20] & 8) != 0;
}

/* Gives the device one queue; returns the register to write the queue's number to. */
static volatile u16 *virtio_queue(struct virtio *device, u16 index, u16 size, volatile void *table, volatile void *driver, volatile void *answers) {
  volatile u8 *common = device->common;
  *(volatile u16 *)(common + 22) = index;
  *(volatile u16 *)(common + 24) = size;
  *(volatile u32 *)(common + 32) = (u32)(u64)table;
  *(volatile u32 *)(common + 36) = 0;
  *(volatile u32 *)(common + 40) = (u32)(u64)driver;
  *(volatile u32 *)(common + 44) = 0;
  *(volatile u32 *)(common + 48) = (u32)(u64)answers;
  *(volatile u32 *)(common + 52) = 0;
  volatile u16 *doorbell = (volatile u16 *)(device->notify + *(volatile u16 *)(common + 30) * device->notify_multiplier);
  *(volatile u16 *)(common + 28) = 1;
  return doorbell;
}

static int blk_init(void) {
  struct virtio device;
  u32 slot = find_slot(VIRTIO_BLK_PCI_ID);
  if (slot == 0) return 0;
  if (!virtio_open(slot, &device)) {
    put_line("NKUDO-BLK refused");
    return 0;
  }
  queue_notify = virtio_queue(&device, 0, QUEUE_SIZE, descriptors, &available, &used);
  device.common[20] = 15;
  put_number_line("NKUDO-BLK ready slot ", slot);
  return 1;
}

/* One 512-byte request; 0 = done, a virtio status, or -1 when the device doesn't answer in 1 s. */
static int blk_transfer(u32 type, u64 sector) {
  request_header.type = type;
  request_header.sector = sector;
  request_status = 255;
  descriptors[0].address = (u64)&request_header;
  descriptors[0].length = sizeof(request_header);
  descriptors[0].flags = DESCRIPTOR_NEXT;
  descriptors[0].next = 1;
  descriptors[1].address = (u64)request_data;
  descriptors[1].length = sizeof(request_data);
  descriptors[1].flags = (type ? 0 : DESCRIPTOR_WRITE) | DESCRIPTOR_NEXT;
  descriptors[1].next = 2;
  descriptors[2].address = (u64)&request_status;
  descriptors[2].length = 1;
  descriptors[2].flags = DESCRIPTOR_WRITE;
  available.flags = 1; /* no interrupts */
  available.ring[available.index & (QUEUE_SIZE - 1)] = 0;
  __asm__ volatile("" ::: "memory");
  available.index++;
  __asm__ volatile("" ::: "memory");
  *queue_notify = 0;
  u32 deadline = elapsed_ms() + 1000;
  while (used.index == used_seen) {
    if (elapsed_ms() > deadline) return -1;
  }
  used_seen = used.index;
  return *(volatile u8 *)&request_status;
}

/* ---- memory that comes and goes: virtio-mem ---- */

#define VIRTIO_MEM_PCI_ID 0x10581af4
#define MEM_BLOCK_BYTES 0x200000ul
#define MEM_REQUEST_PLUG 0
#define MEM_REQUEST_UNPLUG 1

static struct {
  u64 address;
  u32 length;
  u16 flags;
  u16 next;
} mem_descriptors[QUEUE_SIZE] __attribute__((aligned(4096)));
static volatile struct {
  u16 flags;
  u16 index;
  u16 ring[QUEUE_SIZE];
  u16 event;
} mem_available __attribute__((aligned(4096)));
static volatile struct {
  u16 flags;
  u16 index;
  struct {
    u32 id;
    u32 length;
  } ring[QUEUE_SIZE];
  u16 event;
} mem_used __attribute__((aligned(4096)));
static struct {
  u16 type;
  u16 padding[3];
  u64 address;
  u16 blocks;
  u16 padding_after[3];
} mem_request;
static volatile struct {
  u16 type;
  u16 padding[3];
  u16 state;
} mem_response;
static volatile u8 *mem_config;
static volatile u16 *mem_notify;

/* block_size, node_id, addr, region_size, usable_region_size, plugged_size, requested_size */
static u64 mem_config64(u32 offset) {
  return *(volatile u32 *)(mem_config + offset) | (u64) * (volatile u32 *)(mem_config + offset + 4) << 32;
}

static void mem_init(void) {
  u32 slot = 0;
  for (u32 s = 1; s < 32 && !slot; s++) {
    if (pci_read(s, 0) == VIRTIO_MEM_PCI_ID) slot = s;
  }
  if (!slot) return;
  u32 low = pci_read(slot, 0x10);
  u64 bar = low & ~15u;
  if ((low & 6) == 4) bar |= (u64)pci_read(slot, 0x14) << 32;
  if (bar >> 32) map_high(bar);
  else map_low(bar);
  pci_write(slot, 4, pci_read(slot, 4) | 6);
  volatile u8 *common = 0;
  volatile u8 *notify = 0;
  u32 notify_multiplier = 0;
  for (u32 p = pci_read(slot, 0x34) & 0xfc; p;) {
    u32 header = pci_read(slot, p);
    if ((header & 255) == 9) {
      volatile u8 *at = (volatile u8 *)(bar + pci_read(slot, p + 8));
      if (header >> 24 == 1) common = at;
      if (header >> 24 == 2) {
        notify = at;
        notify_multiplier = pci_read(slot, p + 16);
      }
      if (header >> 24 == 4) mem_config = at;
    }
    p = (header >> 8) & 0xfc;
  }
  if (!common || !notify || !mem_config) {
    mem_config = 0;
    return;
  }
  volatile u8 *status = common + 20;
  *status = 0;
  *status = 1;
  *status = 3;
  *(volatile u32 *)(common + 8) = 1;  /* feature word 1 */
  *(volatile u32 *)(common + 12) = 1; /* VIRTIO_F_VERSION_1 */
  *status = 11;
  *(volatile u16 *)(common + 22) = 0; /* queue 0 */
  *(volatile u16 *)(common + 24) = QUEUE_SIZE;
  *(volatile u32 *)(common + 32) = (u32)(u64)mem_descriptors;
  *(volatile u32 *)(common + 36) = 0;
  *(volatile u32 *)(common + 40) = (u32)(u64)&mem_available;
  *(volatile u32 *)(common + 44) = 0;
  *(volatile u32 *)(common + 48) = (u32)(u64)&mem_used;
  *(volatile u32 *)(common + 52) = 0;
  mem_notify = (volatile u16 *)(notify + *(volatile u16 *)(common + 30) * notify_multiplier);
  *(volatile u16 *)(common + 28) = 1;
  *status = 15;
  put_line("NKUDO-MEM ready");
}

/* Takes or gives back what is asked for, in one request; says how much it has then. */
static void answer_memory(void) {
  if (!mem_config) return;
  u64 plugged = mem_config64(40);
  u64 requested = mem_config64(48);
  if (plugged == requested) return;
  int grows = requested > plugged;
  mem_request.type = grows ? MEM_REQUEST_PLUG : MEM_REQUEST_UNPLUG;
  mem_request.address = mem_config64(16) + (grows ? plugged : requested);
  mem_request.blocks = (u16)((grows ? requested - plugged : plugged - requested) / MEM_BLOCK_BYTES);
  mem_descriptors[0].address = (u64)&mem_request;
  mem_descriptors[0].length = sizeof(mem_request);
  mem_descriptors[0].flags = DESCRIPTOR_NEXT;
  mem_descriptors[0].next = 1;
  mem_descriptors[1].address = (u64)&mem_response;
  mem_descriptors[1].length = sizeof(mem_response);
  mem_descriptors[1].flags = DESCRIPTOR_WRITE;
  u16 seen = mem_used.index;
  mem_available.flags = 1; /* no interrupts */
  mem_available.ring[mem_available.index & (QUEUE_SIZE - 1)] = 0;
  __asm__ volatile("" ::: "memory");
  mem_available.index++;
  __asm__ volatile("" ::: "memory");
  *mem_notify = 0;
  u32 deadline = elapsed_ms() + 1000;
  while (mem_used.index == seen) {
    if (elapsed_ms() > deadline) {
      mem_config = 0;
      put_line("NKUDO-MEM silent");
      return;
    }
  }
  if (mem_response.type) {
    mem_config = 0;
    put_line("NKUDO-MEM refused");
    return;
  }
  put_number_line("NKUDO-MEM MiB ", (u32)(requested >> 20));
}

/* ---- virtio-vsock (polled): accepts connections to one port, takes what comes and says nothing ---- */

#define VIRTIO_VSOCK_PCI_ID 0x10531af4
#define VSOCK_OP_REQUEST 1
#define VSOCK_OP_RESPONSE 2
#define VSOCK_OP_RST 3
#define VSOCK_OP_SHUTDOWN 4
#define VSOCK_BUFFERS 4

struct descriptor {
  u64 address;
  u32 length;
  u16 flags;
  u16 next;
};

struct vsock_header {
  u64 source_cid;
  u64 destination_cid;
  u32 source_port;
  u32 destination_port;
  u32 length;
  u16 type;
  u16 op;
  u32 flags;
  u32 buffer_size;
  u32 forwarded;
} __attribute__((packed));

struct driver_ring {
  u16 flags;
  u16 index;
  u16 ring[QUEUE_SIZE];
  u16 event;
};

struct device_ring {
  u16 flags;
  u16 index;
  struct {
    u32 id;
    u32 length;
  } ring[QUEUE_SIZE];
  u16 event;
};

static struct descriptor vsock_table[3][QUEUE_SIZE] __attribute__((aligned(4096)));
static volatile struct driver_ring vsock_driver[3] __attribute__((aligned(4096)));
static volatile struct device_ring vsock_device[3] __attribute__((aligned(4096)));
static volatile u16 *vsock_notify[3];
static volatile struct vsock_header vsock_received[VSOCK_BUFFERS];
static u8 vsock_payload[VSOCK_BUFFERS][4096];
static volatile struct vsock_header vsock_sent[VSOCK_BUFFERS];
static u16 vsock_seen;
static u32 vsock_port;

static void vsock_offer(u16 buffer) {
  volatile struct driver_ring *ring = &vsock_driver[0];
  ring->ring[ring->index & (QUEUE_SIZE - 1)] = buffer * 2;
  __asm__ volatile("" ::: "memory");
  ring->index++;
  __asm__ volatile("" ::: "memory");
  *vsock_notify[0] = 0;
}

static int vsock_init(u32 port) {
  struct virtio device;
  u32 slot = find_slot(VIRTIO_VSOCK_PCI_ID);
  if (slot == 0 || !virtio_open(slot, &device)) return 0;
  vsock_port = port;
  for (u16 queue = 0; queue < 3; queue++) {
    vsock_driver[queue].flags = 1; /* no interrupts */
    vsock_notify[queue] = virtio_queue(&device, queue, QUEUE_SIZE, vsock_table[queue], &vsock_driver[queue], &vsock_device[queue]);
  }
  device.common[20] = 15;
  for (u16 buffer = 0; buffer < VSOCK_BUFFERS; buffer++) {
    struct descriptor *head = &vsock_table[0][buffer * 2];
    head[0].address = (u64)&vsock_received[buffer];
    head[0].length = sizeof(struct vsock_header);
    head[0].flags = DESCRIPTOR_WRITE | DESCRIPTOR_NEXT;
    head[0].next = buffer * 2 + 1;
    head[1].address = (u64)vsock_payload[buffer];
    head[1].length = sizeof(vsock_payload[buffer]);
    head[1].flags = DESCRIPTOR_WRITE;
    vsock_offer(buffer);
  }
  put("NKUDO-VSOCK ready cid ");
  put_decimal(device.config ? *(volatile u32 *)device.config : 0);
  put_number_line(" port ", port);
  return 1;
}

static void vsock_answer(volatile struct vsock_header *to, u16 op) {
  volatile struct driver_ring *ring = &vsock_driver[1];
  u16 slot = ring->index & (VSOCK_BUFFERS - 1);
  volatile struct vsock_header *answer = &vsock_sent[slot];
  answer->source_cid = to->destination_cid;
  answer->destination_cid = to->source_cid;
  answer->source_port = to->destination_port;
  answer->destination_port = to->source_port;
  answer->length = 0;
  answer->type = 1;
  answer->op = op;
  answer->flags = 0;
  answer->buffer_size = 65536;
  answer->forwarded = 0;
  vsock_table[1][slot].address = (u64)answer;
  vsock_table[1][slot].length = sizeof(struct vsock_header);
  vsock_table[1][slot].flags = 0;
  ring->ring[ring->index & (QUEUE_SIZE - 1)] = slot;
  __asm__ volatile("" ::: "memory");
  ring->index++;
  __asm__ volatile("" ::: "memory");
  *vsock_notify[1] = 1;
}

static void vsock_poll(void) {
  while (vsock_device[0].index != vsock_seen) {
    u16 buffer = (u16)(vsock_device[0].ring[vsock_seen & (QUEUE_SIZE - 1)].id / 2);
    volatile struct vsock_header *packet = &vsock_received[buffer];
    vsock_seen++;
    if (packet->op == VSOCK_OP_REQUEST) {
      int is_ours = packet->destination_port == vsock_port;
      put_number_line(is_ours ? "NKUDO-VSOCK accepted " : "NKUDO-VSOCK refused ", packet->destination_port);
      vsock_answer(packet, is_ours ? VSOCK_OP_RESPONSE : VSOCK_OP_RST);
    }
    if (packet->op == VSOCK_OP_SHUTDOWN) vsock_answer(packet, VSOCK_OP_RST);
    vsock_offer(buffer);
  }
}

/* ---- pvpanic: how a guest says that it is beyond help ---- */

#define PVPANIC_PCI_ID 0x00111b36
#define PVPANIC_PANICKED 1

static void report_panic(void) {
  u32 slot = find_slot(PVPANIC_PCI_ID);
  u64 bar = slot ? map_bar0(slot) : 0;
  put_line(bar ? "NKUDO-PANIC" : "NKUDO-PANIC unheard");
  if (bar) *(volatile u8 *)bar = PVPANIC_PANICKED;
}

/* ---- ACPI ---- */

static volatile u8 *ged_register;
static volatile u32 *pci_hotplug_registers;
static volatile u8 *cpu_hotplug_registers; /* selection at 0, status at 4 */
static u32 cpu_places;

/* Address of the named SystemMemory OpRegion in a DSDT, or 0. */
static u64 find_region(const u8 *dsdt, u32 length, const char *name) {
  for (u32 i = 2; i + 16 < length; i++) {
    if (dsdt[i - 2] != 0x5b || dsdt[i - 1] != 0x80) continue;
    if (!has_signature(dsdt + i, name) || dsdt[i + 4] != 0) continue;
    const u8 *value = dsdt + i + 5;
    if (*value == 0x0e) return read64(value + 1);
    if (*value == 0x0c) return read32(value + 1);
  }
  return 0;
}

static void find_acpi_registers(const u8 *rsdp) {
  if (!rsdp) return;
  const u8 *xsdt = (const u8 *)read64(rsdp + 24);
  u32 count = (read32(xsdt + 4) - 36) / 8;
  for (u32 i = 0; i < count; i++) {
    const u8 *table = (const u8 *)read64(xsdt + 36 + 8 * i);
    if (has_signature(table, "APIC")) {
      for (u32 p = 44; p + 2 <= read32(table + 4) && table[p + 1]; p += table[p + 1]) cpu_places += table[p] == 0 || table[p] == 9;
    }
    if (!has_signature(table, "FACP")) continue;
    const u8 *dsdt = (const u8 *)read64(table + 140);
    u32 length = read32(dsdt + 4);
    u64 ged = find_region(dsdt, length, "GDST");
    u64 pci = find_region(dsdt, length, "PCST");
    u64 cpu = find_region(dsdt, length, "PRST");
    if (ged) map_high(ged);
    if (pci) map_high(pci);
    if (cpu) map_high(cpu);
    cpu_hotplug_registers = (volatile u8 *)cpu;
    ged_register = (volatile u8 *)ged;
    pci_hotplug_registers = (volatile u32 *)pci;
  }
}

static void power_off(void) { outb(ACPI_SLEEP_CONTROL, ACPI_SLEEP_S5); }

static void eject_removed_pci_devices(void) {
  if (!pci_hotplug_registers) return;
  pci_hotplug_registers[3] = 0; /* segment 0 */
  u32 removed = pci_hotplug_registers[1];
  for (int slot = 0; slot < 32; slot++) {
    if (!(removed >> slot & 1)) continue;
    pci_hotplug_registers[2] = 1u << slot;
    put_number_line("NKUDO-EJECT slot ", slot);
  }
}

static void greet_inserted_pci_devices(void) {
  if (!pci_hotplug_registers) return;
  pci_hotplug_registers[3] = 0; /* segment 0 */
  u32 inserted = pci_hotplug_registers[0]; /* reading clears it */
  for (int slot = 0; slot < 32; slot++) {
    if (inserted >> slot & 1) put_number_line("NKUDO-PLUG slot ", slot);
  }
}

#define CPU_INSERTING 2
#define CPU_REMOVING 4
#define CPU_EJECT 8

/* The new CPU is never started: that it is there is all that this guest says of it. */
static void answer_cpus(int clings) {
  if (!cpu_hotplug_registers) return;
  for (u32 cpu = 0; cpu < cpu_places; cpu++) {
    *(volatile u32 *)cpu_hotplug_registers = cpu;
    u8 status = cpu_hotplug_registers[4];
    if (status & CPU_INSERTING) {
      cpu_hotplug_registers[4] = CPU_INSERTING;
      put_number_line("NKUDO-CPU plugged ", cpu);
    }
    if (status & CPU_REMOVING && !clings) {
      cpu_hotplug_registers[4] = CPU_REMOVING | CPU_EJECT;
      put_number_line("NKUDO-CPU ejected ", cpu);
    }
  }
}

static int is_clinging;

static void answer_acpi_events(int ignore_button) {
  if (!is_clinging) answer_memory();
  if (!ged_register) return;
  u8 events = *ged_register; /* reading clears it */
  if (events & 1) answer_cpus(is_clinging);
  if (events & 4) greet_inserted_pci_devices();
  if (events & 4 && !is_clinging) eject_removed_pci_devices();
  if (!(events & 8)) return;
  put_line("NKUDO-POWER-BUTTON");
  if (!ignore_button) power_off();
}

/* ---- the command line ---- */

static int first_word_is(const char *line, const char *word) {
  while (*word) {
    if (*line++ != *word++) return 0;
  }
  return *line == 0 || *line == ' ';
}

static u32 second_word_as_number(const char *line, u32 otherwise) {
  while (*line && *line != ' ') line++;
  while (*line == ' ') line++;
  if (*line < '0' || *line > '9') return otherwise;
  u32 value = 0;
  while (*line >= '0' && *line <= '9') value = value * 10 + (*line++ - '0');
  return value;
}

static void act(const char *line) {
  if (first_word_is(line, "poweroff")) {
    put_line("NKUDO-POWEROFF");
    power_off();
  }
  if (first_word_is(line, "reboot")) {
    put_line("NKUDO-REBOOT");
    outb(KEYBOARD_CONTROLLER, KEYBOARD_RESET);
  }
  if (first_word_is(line, "triple")) {
    put_line("NKUDO-TRIPLE-FAULT");
    die_by_triple_fault();
  }
  if (first_word_is(line, "crash")) {
    put_line("NKUDO-CRASH");
    map_low(DEVICE_HOLE);
    die_by_emulation_failure(DEVICE_HOLE);
  }
  /* As an operating system that halts after a panic: it answers nothing any more. */
  if (first_word_is(line, "panic")) {
    report_panic();
    for (;;) sleep_until_timer();
  }
}

static int acts_by_itself(const char *line) {
  return first_word_is(line, "poweroff") || first_word_is(line, "reboot") || first_word_is(line, "triple") ||
         first_word_is(line, "crash") || first_word_is(line, "panic");
}

/* Lines of 64 bytes, as fast as the port takes them. */
static void flood(u32 lines) {
  for (u32 line = 1; line <= lines; line++) {
    put("NKUDO-FLOOD ......................................... ");
    for (u32 bound = 10000000; bound > line && bound > 1; bound /= 10) put_char('0');
    put_number_line("", line);
  }
  put_line("NKUDO-FLOOD-END");
}

/* What comes in goes out again. */
static void echo(void) {
  while (inb(SERIAL_LINE_STATUS) & 1) put_char((char)inb(SERIAL_DATA));
}

static void run_ticking(int disk_ready, int ignore_button) {
  u32 ticks = 0;
  for (;;) {
    sleep_until_timer();
    answer_acpi_events(ignore_button);
    if (elapsed_ms() < (ticks + 1) * TICK_PERIOD_MS) continue;
    put_number_line("NKUDO-TICK ", ++ticks);
    if (!disk_ready) continue;
    request_data[0] = ticks;
    if (blk_transfer(1, 1 + (ticks & 15)) == 0) continue;
    put_line("NKUDO-BLK write failed");
    disk_ready = 0;
  }
}

void guest_main(u64 start_info) {
  const u8 *info = (const u8 *)start_info;
  const char *line = (const char *)read64(info + 24);
  if (!line) line = "";
  put_line("NKUDO-GUEST-READY");
  put("NKUDO-CMDLINE ");
  put_line(line);
  find_acpi_registers((const u8 *)read64(info + 32));
  put_line(ged_register ? "NKUDO-ACPI ready" : "NKUDO-ACPI missing");
  start_timer();
  start_clock();
  is_clinging = first_word_is(line, "clinging");
  if (!is_clinging) mem_init();

  if (acts_by_itself(line)) {
    u32 delay = second_word_as_number(line, DEFAULT_ACTION_DELAY_MS);
    while (elapsed_ms() < delay) {
      sleep_until_timer();
      answer_acpi_events(0);
    }
    act(line);
  }
  if (first_word_is(line, "flood")) flood(second_word_as_number(line, DEFAULT_FLOOD_LINES));
  int is_echo = first_word_is(line, "echo");
  int is_vsock = first_word_is(line, "vsock");
  if (is_vsock && !vsock_init(second_word_as_number(line, DEFAULT_VSOCK_PORT))) {
    put_line("NKUDO-VSOCK missing");
    is_vsock = 0;
  }
  if (is_echo || is_vsock || first_word_is(line, "flood") || first_word_is(line, "idle") || is_clinging) {
    put_line("NKUDO-IDLE");
    for (;;) {
      sleep_until_timer();
      answer_acpi_events(0);
      if (is_echo) echo();
      if (is_vsock) vsock_poll();
    }
  }
  int disk_ready = blk_init();
  if (disk_ready) put_number_line("NKUDO-BLK read ", (u32)blk_transfer(0, 0));
  run_ticking(disk_ready, first_word_is(line, "nobutton"));
}
