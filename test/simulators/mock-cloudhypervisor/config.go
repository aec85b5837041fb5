package main

// The VM configuration: shape and defaults as vm.info shows them, schemas for reading it, and the checks
// that the real program makes at boot.

import (
	"encoding/json"
	"fmt"
	"strings"
)

// VMConfig holds the settings that the simulator acts on, in the order in which vm.info shows them.
// Others are kept as they came.
type VMConfig struct {
	CPUs            CPUs            `json:"cpus"`
	Memory          Memory          `json:"memory"`
	Payload         *Payload        `json:"payload,omitempty"`
	RateLimitGroups json.RawMessage `json:"rate_limit_groups,omitempty"`
	Disks           []*Disk         `json:"disks,omitempty"`
	Nets            []*Net          `json:"net,omitempty"`
	RNG             RNG             `json:"rng"`
	Balloon         json.RawMessage `json:"balloon,omitempty"`
	FS              []*Device       `json:"fs,omitempty"`
	Pmem            []*Device       `json:"pmem,omitempty"`
	Serial          Console         `json:"serial"`
	Console         PCIConsole      `json:"console"`
	DebugConsole    DebugConsole    `json:"debug_console"`
	Devices         []*Device       `json:"devices,omitempty"`
	UserDevices     json.RawMessage `json:"user_devices,omitempty"`
	Vdpa            json.RawMessage `json:"vdpa,omitempty"`
	Vsock           *Vsock          `json:"vsock,omitempty"`
	Pvpanic         bool            `json:"pvpanic"`
	Iommu           bool            `json:"iommu"`
	Numa            json.RawMessage `json:"numa,omitempty"`
	Watchdog        bool            `json:"watchdog"`
	PCISegments     json.RawMessage `json:"pci_segments,omitempty"`
	Platform        json.RawMessage `json:"platform,omitempty"`
	TPM             json.RawMessage `json:"tpm,omitempty"`
	LandlockEnable  bool            `json:"landlock_enable"`
	LandlockRules   json.RawMessage `json:"landlock_rules,omitempty"`
}

type CPUs struct {
	BootVCPUs   uint32          `json:"boot_vcpus"`
	MaxVCPUs    uint32          `json:"max_vcpus"`
	Topology    json.RawMessage `json:"topology,omitempty"`
	KVMHyperv   bool            `json:"kvm_hyperv"`
	MaxPhysBits uint8           `json:"max_phys_bits"`
	Affinity    json.RawMessage `json:"affinity,omitempty"`
	Features    struct {
		AMX bool `json:"amx"`
	} `json:"features"`
	Nested         bool   `json:"nested"`
	CoreScheduling string `json:"core_scheduling"`
	Profile        string `json:"profile"`
}

type Memory struct {
	Size           uint64          `json:"size"`
	Mergeable      bool            `json:"mergeable"`
	HotplugMethod  string          `json:"hotplug_method"`
	HotplugSize    *uint64         `json:"hotplug_size,omitempty"`
	HotpluggedSize *uint64         `json:"hotplugged_size,omitempty"`
	Shared         bool            `json:"shared"`
	Hugepages      bool            `json:"hugepages"`
	HugepageSize   *uint64         `json:"hugepage_size,omitempty"`
	Prefault       bool            `json:"prefault"`
	Reserve        bool            `json:"reserve"`
	Zones          json.RawMessage `json:"zones,omitempty"`
	THP            bool            `json:"thp"`
}

type Payload struct {
	Firmware  *string `json:"firmware,omitempty"`
	Kernel    *string `json:"kernel,omitempty"`
	Cmdline   *string `json:"cmdline,omitempty"`
	Initramfs *string `json:"initramfs,omitempty"`
}

type Disk struct {
	ID              *string      `json:"id,omitempty"`
	PCISegment      uint16       `json:"pci_segment"`
	Path            *string      `json:"path,omitempty"`
	ReadOnly        bool         `json:"readonly"`
	Direct          bool         `json:"direct"`
	NumQueues       uint32       `json:"num_queues"`
	QueueSize       uint16       `json:"queue_size"`
	VhostUser       bool         `json:"vhost_user"`
	RateLimiter     *RateLimiter `json:"rate_limiter_config,omitempty"`
	DisableIoUring  bool         `json:"disable_io_uring"`
	DisableAio      bool         `json:"disable_aio"`
	Serial          *string      `json:"serial,omitempty"`
	BackingFiles    bool         `json:"backing_files"`
	Sparse          bool         `json:"sparse"`
	ImageType       string       `json:"image_type"`
	LockGranularity string       `json:"lock_granularity"`
}

type RateLimiter struct {
	Bandwidth *TokenBucket `json:"bandwidth"`
	Ops       *TokenBucket `json:"ops"`
}

type TokenBucket struct {
	Size         uint64  `json:"size"`
	OneTimeBurst *uint64 `json:"one_time_burst"`
	RefillTime   uint64  `json:"refill_time"`
}

type Net struct {
	ID          *string `json:"id,omitempty"`
	PCISegment  uint16  `json:"pci_segment"`
	Tap         *string `json:"tap,omitempty"`
	MAC         *string `json:"mac,omitempty"`
	NumQueues   uint32  `json:"num_queues"`
	QueueSize   uint16  `json:"queue_size"`
	VhostUser   bool    `json:"vhost_user"`
	VhostMode   string  `json:"vhost_mode"`
	OffloadTSO  bool    `json:"offload_tso"`
	OffloadUFO  bool    `json:"offload_ufo"`
	OffloadCsum bool    `json:"offload_csum"`
}

type Vsock struct {
	ID         *string `json:"id,omitempty"`
	PCISegment uint16  `json:"pci_segment"`
	CID        uint64  `json:"cid"`
	Socket     string  `json:"socket"`
}

// Device is one that the simulator stores and never makes.
type Device struct {
	ID   *string `json:"id,omitempty"`
	Path *string `json:"path,omitempty"`
	File *string `json:"file,omitempty"`
	Tag  *string `json:"tag,omitempty"`
}

type RNG struct {
	PCISegment uint16 `json:"pci_segment"`
	Src        string `json:"src"`
}

type Console struct {
	File   *string `json:"file,omitempty"`
	Mode   string  `json:"mode"`
	Socket *string `json:"socket,omitempty"`
}

type PCIConsole struct {
	Console
	PCISegment uint16 `json:"pci_segment"`
}

type DebugConsole struct {
	File   *string `json:"file,omitempty"`
	Mode   string  `json:"mode"`
	Iobase uint16  `json:"iobase"`
}

func defaultConfig() *VMConfig {
	config := &VMConfig{
		CPUs:         CPUs{BootVCPUs: 1, MaxVCPUs: 1, MaxPhysBits: 46, Nested: true, CoreScheduling: "Vm", Profile: "Host"},
		Memory:       Memory{Size: 512 << 20, HotplugMethod: "Acpi", THP: true},
		RNG:          RNG{Src: "/dev/urandom"},
		Serial:       Console{Mode: "Null"},
		Console:      PCIConsole{Console: Console{Mode: "Tty"}},
		DebugConsole: DebugConsole{Mode: "Off", Iobase: 233},
	}
	return config
}

func defaultDisk() *Disk {
	return &Disk{NumQueues: 1, QueueSize: 128, Sparse: true, ImageType: "Unknown", LockGranularity: "ByteRange"}
}

func (d *Disk) UnmarshalJSON(text []byte) error {
	type plain Disk
	*d = *defaultDisk()
	return json.Unmarshal(text, (*plain)(d))
}

func (n *Net) UnmarshalJSON(text []byte) error {
	type plain Net
	*n = Net{NumQueues: 2, QueueSize: 256, VhostMode: "Client", OffloadTSO: true, OffloadUFO: true, OffloadCsum: true}
	return json.Unmarshal(text, (*plain)(n))
}

var (
	anySchema     = &schema{kind: "any"}
	stringSchema  = &schema{kind: "string"}
	pathSchema    = &schema{kind: "path"}
	booleanSchema = &schema{kind: "boolean"}
	u8Schema      = &schema{kind: "u8"}
	u16Schema     = &schema{kind: "u16"}
	u32Schema     = &schema{kind: "u32"}
	u64Schema     = &schema{kind: "u64"}
	consoleModes  = &schema{kind: "enum", variants: []string{"Off", "Pty", "Tty", "File", "Socket", "Null"}}
)

func structSchema(name string, required string, fields map[string]*schema) *schema {
	return &schema{kind: "struct", name: name, required: strings.Fields(required), fields: fields}
}

var (
	bucketSchema      = structSchema("TokenBucketConfig", "size refill_time", map[string]*schema{"size": u64Schema, "one_time_burst": u64Schema, "refill_time": u64Schema})
	rateLimiterSchema = structSchema("RateLimiterConfig", "", map[string]*schema{"bandwidth": bucketSchema, "ops": bucketSchema})
)

var diskSchema = structSchema("DiskConfig", "", map[string]*schema{
	"id": stringSchema, "path": pathSchema, "readonly": booleanSchema, "direct": booleanSchema, "num_queues": u32Schema,
	"queue_size": u16Schema, "vhost_user": booleanSchema, "pci_segment": u16Schema, "serial": stringSchema, "rate_limiter_config": rateLimiterSchema,
})

var netSchema = structSchema("NetConfig", "", map[string]*schema{
	"id": stringSchema, "tap": stringSchema, "mac": {kind: "mac"}, "num_queues": u32Schema, "queue_size": u16Schema,
	"vhost_user": booleanSchema, "pci_segment": u16Schema,
})

var vsockSchema = structSchema("VsockConfig", "cid socket", map[string]*schema{"id": stringSchema, "cid": u64Schema, "socket": pathSchema, "pci_segment": u16Schema})

var serialSchema = structSchema("SerialConfig", "", map[string]*schema{"mode": consoleModes, "file": pathSchema, "socket": pathSchema})

var configSchema = structSchema("VmConfig", "", map[string]*schema{
	"cpus": structSchema("CpusConfig", "boot_vcpus max_vcpus", map[string]*schema{
		"boot_vcpus": u32Schema, "max_vcpus": u32Schema, "kvm_hyperv": booleanSchema, "max_phys_bits": u8Schema, "nested": booleanSchema,
	}),
	"memory": structSchema("MemoryConfig", "size", map[string]*schema{
		"size": u64Schema, "mergeable": booleanSchema, "shared": booleanSchema, "hugepages": booleanSchema, "hugepage_size": u64Schema,
		"hotplug_size": u64Schema, "hotplugged_size": u64Schema, "prefault": booleanSchema, "reserve": booleanSchema, "thp": booleanSchema,
		"hotplug_method": {kind: "enum", variants: []string{"Acpi", "VirtioMem"}},
	}),
	"payload": structSchema("PayloadConfig", "", map[string]*schema{"firmware": pathSchema, "kernel": pathSchema, "cmdline": stringSchema, "initramfs": pathSchema}),
	"disks":   {kind: "sequence", element: diskSchema},
	"net":     {kind: "sequence", element: netSchema},
	"vsock":   vsockSchema,
	"serial":  serialSchema,
	"console": structSchema("ConsoleConfig", "", map[string]*schema{"mode": consoleModes, "file": pathSchema, "socket": pathSchema}),
	"pvpanic": booleanSchema, "iommu": booleanSchema, "watchdog": booleanSchema, "landlock_enable": booleanSchema,
})

// validate returns the status and the causes of the first thing that the real program refuses.
func (c *VMConfig) validate() (int, []string) {
	invalid := func(status int, causes ...string) (int, []string) {
		return status, append([]string{"Failed to validate config"}, causes...)
	}
	const notBootable = "Payload configuration is not bootable"
	if c.Payload == nil || (c.Payload.Firmware == nil && c.Payload.Kernel == nil) {
		return invalid(400, notBootable, "No bootitem provided: neither firmware nor kernel")
	}
	if c.Payload.Firmware != nil && c.Payload.Kernel != nil {
		return invalid(400, notBootable, "Specifying a kernel is not supported when a firmware is provided")
	}
	if c.CPUs.MaxVCPUs < c.CPUs.BootVCPUs {
		return invalid(400, fmt.Sprintf("Max CPUs (%d) lower than boot CPUs (%d)", c.CPUs.MaxVCPUs, c.CPUs.BootVCPUs))
	}
	seen := map[string]bool{}
	for _, id := range c.ids() {
		if strings.HasPrefix(id, "__") {
			return invalid(400, "Identifier "+id+" is not valid")
		}
		if seen[id] {
			return invalid(409, "Identifier "+id+" is not unique")
		}
		seen[id] = true
	}
	for _, disk := range c.Disks {
		if disk.NumQueues > c.CPUs.BootVCPUs && c.CPUs.BootVCPUs > 0 {
			return invalid(400, fmt.Sprintf("Queue count (%d) must not exceed boot vCPUs (%d)", disk.NumQueues, c.CPUs.BootVCPUs))
		}
	}
	if len(c.FS) > 0 && !c.Memory.Shared {
		return invalid(400, "Using vhost-user requires using shared memory or huge pages")
	}
	if c.Vsock != nil && (c.Vsock.CID <= 2 || c.Vsock.CID == 0xffffffff) {
		return invalid(400, fmt.Sprintf("%d is a special VSOCK CID", c.Vsock.CID))
	}
	return 0, nil
}

func (c *VMConfig) ids() []string {
	var ids []string
	add := func(id *string) {
		if id != nil {
			ids = append(ids, *id)
		}
	}
	for _, disk := range c.Disks {
		add(disk.ID)
	}
	for _, net := range c.Nets {
		add(net.ID)
	}
	for _, list := range [][]*Device{c.FS, c.Pmem, c.Devices} {
		for _, device := range list {
			add(device.ID)
		}
	}
	if c.Vsock != nil {
		add(c.Vsock.ID)
	}
	return ids
}
