package main

// The state machine behind the API: configuration, VM object, devices, and what the guest causes.

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// VMM is the state behind the API: a configuration, and a VM object once a boot got far enough. Its
// lock is held for the length of one call, since the real program serves calls strictly one by one.
type VMM struct {
	mutex   sync.Mutex
	options *Options
	logger  *Logger
	events  *EventMonitor
	faults  *Faults

	config *VMConfig
	serial *Serial
	vm     *VM
}

// VM exists from a boot on. Its state is Created only after a boot that failed at the kernel.
type VM struct {
	state      string
	guest      *Guest
	devices    []*pciDevice
	diskFiles  map[string]*os.File
	counters   map[string]map[string]uint64
	autoIDs    int
	pendingNMI bool
	vsock      *net.UnixListener
	// cpus are those that the guest has.
	cpus []*cpu
	// bootMemory can't be given back; pluggedMemory is what the guest has taken of the rest.
	bootMemory    uint64
	pluggedMemory uint64
}

type pciDevice struct {
	id   string
	slot int
	kind string
}

func (d *pciDevice) bdf() string { return fmt.Sprintf("0000:00:%02x.0", d.slot) }

// failure is a refused call: its status and the causes below the call's own message.
type failure struct {
	status int
	causes []string
	// isBare: the causes are the whole body.
	isBare bool
	// isPanic: the VMM thread is gone and the process ends with code 1 after the answer.
	isPanic bool
}

func refuse(status int, causes ...string) *failure { return &failure{status: status, causes: causes} }

var (
	notCreated     = refuse(404, "VM is not created")
	notRunning     = refuse(500, "VM is not running")
	alreadyCreated = refuse(500, "VM is already created")
)

func newVMM(options *Options, logger *Logger, events *EventMonitor, faults *Faults) *VMM {
	events.logger = logger
	return &VMM{options: options, logger: logger, events: events, faults: faults}
}

func (v *VMM) emit(event string) { v.events.emit("vm", event, nil) }

// ---- configuration ----

func (v *VMM) create(config *VMConfig) *failure {
	if v.config != nil {
		return alreadyCreated
	}
	v.config = config
	return v.openConsoles()
}

// openConsoles opens what the guest will write to; the configuration stays when that fails.
func (v *VMM) openConsoles() *failure {
	if v.config.Serial.isMissingPath() || (v.config.Console.Mode == "File" && v.config.Console.File == nil) {
		return v.panicked()
	}
	if v.config.Console.Mode == "Socket" {
		return refuse(500, "Error creating console devices", "No socket option support for console device")
	}
	serial, causes := openSerial(&v.config.Serial)
	if causes != nil {
		return refuse(500, causes...)
	}
	v.serial = serial
	return nil
}

// panicked is what a client sees of a panic of the real VMM thread.
func (v *VMM) panicked() *failure {
	return &failure{status: 500, causes: []string{"receiving on a closed channel"}, isPanic: true}
}

func (v *VMM) closeSerial() {
	if v.serial != nil {
		v.serial.close()
		v.serial = nil
	}
}

func (v *VMM) delete() *failure {
	if v.config == nil {
		return nil
	}
	if v.vm != nil {
		v.dropVM()
		v.emit("shutdown")
	}
	v.closeSerial()
	v.config = nil
	v.emit("deleted")
	return nil
}

// ---- boot, reboot, shutdown ----

func (v *VMM) boot() *failure {
	if v.vm != nil {
		return alreadyCreated
	}
	v.logger.info("vmm/src/lib.rs:2369", "Booting VM")
	v.emit("booting")
	if v.config == nil {
		return refuse(404, "VM config is missing")
	}
	if v.serial != nil && v.serial.listener == nil {
		v.closeSerial()
	}
	if v.serial == nil {
		if refused := v.openConsoles(); refused != nil {
			return refused
		}
	}
	if status, causes := v.config.validate(); status != 0 {
		return refuse(status, causes...)
	}
	if refused := v.start(); refused != nil {
		return refused
	}
	v.emit("booted")
	return nil
}

const pageBytes = 4096

// start makes the VM object from the configuration and runs its guest.
func (v *VMM) start() *failure {
	const memoryError = "Memory manager error"
	if v.config.Memory.Size == 0 {
		return refuse(500, memoryError, "No memory zones found")
	}
	if v.config.Memory.Size%pageBytes != 0 {
		return refuse(500, memoryError, "Memory size is misaligned with default page size or its hugepage size")
	}
	vm := &VM{state: "Created", diskFiles: map[string]*os.File{}, counters: map[string]map[string]uint64{}}
	if refused := v.plugDevices(vm); refused != nil {
		vm.closeBackends()
		return refused
	}
	if initramfs := v.config.Payload.Initramfs; initramfs != nil {
		file, err := os.Open(*initramfs)
		if err != nil {
			vm.closeBackends()
			return refuse(500, "Cannot open initramfs file", osMessage(err))
		}
		_ = file.Close()
	}
	// From here on a failure leaves the VM object behind: a second boot says so.
	v.vm = vm
	if causes := v.loadPayload(); causes != nil {
		vm.closeBackends()
		return refuse(500, causes...)
	}
	for _, disk := range v.config.Disks {
		if causes := lockDisk(disk, vm.diskFiles[*disk.ID]); causes != nil {
			vm.closeBackends()
			return refuse(500, append([]string{"Error locking disk images: Another instance likely holds a lock"}, causes...)...)
		}
	}
	vm.bootMemory = v.config.Memory.Size
	vm.setCPUs(int(v.config.CPUs.BootVCPUs))
	vm.guest = newGuest(v, v.serial, v.config)
	vm.state = "Running"
	go vm.guest.run()
	if vm.vsock != nil {
		go serveVsock(v, vm.guest, vm.vsock)
	}
	return nil
}

func (v *VMM) loadPayload() []string {
	if v.config.Payload.Firmware != nil {
		return loadFirmware(*v.config.Payload.Firmware)
	}
	return loadKernel(*v.config.Payload.Kernel)
}

// plugDevices opens the devices in the order that gives them their ids and slots. A list whose device
// can't be made is lost from the configuration, as in the real program: a second boot does without.
func (v *VMM) plugDevices(vm *VM) *failure {
	if v.config.Console.Mode != "Off" {
		vm.plug("__console", "console")
	}
	for _, disk := range v.config.Disks {
		file, causes := openDisk(disk)
		if causes != nil {
			v.config.Disks = nil
			return refuse(500, causes...)
		}
		vm.plugDisk(disk, file)
	}
	for _, net := range v.config.Nets {
		if causes := checkTap(net); causes != nil {
			v.config.Nets = nil
			return refuse(500, causes...)
		}
		vm.plugNet(net)
	}
	vm.plug("__rng", "rng")
	if v.config.Vsock != nil {
		if _, refused := vm.plugVsock(v.config.Vsock); refused != nil {
			v.config.Vsock = nil
			return refused
		}
	}
	if v.config.Memory.isVirtioMem() {
		var id *string
		vm.plug(vm.name(&id, "mem"), "mem")
	}
	return nil
}

func (v *VMM) reboot() *failure {
	v.emit("rebooting")
	if v.vm == nil {
		return notCreated
	}
	v.dropVM()
	v.closeSerial()
	if refused := v.openConsoles(); refused != nil {
		return refused
	}
	if refused := v.start(); refused != nil {
		v.vm = nil
		return refused
	}
	v.emit("rebooted")
	return nil
}

func (v *VMM) shutdown() *failure {
	if v.vm == nil {
		return notRunning
	}
	v.dropVM()
	v.closeSerial()
	v.emit("shutdown")
	return nil
}

func (v *VMM) dropVM() {
	if v.vm.guest != nil {
		close(v.vm.guest.stop)
	}
	v.vm.closeBackends()
	v.vm = nil
}

// ---- pause, resume, buttons ----

func (v *VMM) state() string {
	if v.vm == nil {
		return "Created"
	}
	return v.vm.state
}

func badTransition(what, component, state string) *failure {
	return refuse(500, "Cannot "+what+" VM", "Failed to "+what+" migratable component", fmt.Sprintf("Invalid transition: InvalidStateTransition(%s, %s)", state, component))
}

func (v *VMM) pause() *failure {
	if v.vm == nil {
		return notRunning
	}
	v.emit("pausing")
	if v.vm.state == "Paused" {
		return badTransition("pause", "Paused", v.vm.state)
	}
	v.vm.state = "Paused"
	if v.vm.guest != nil {
		v.vm.guest.setPaused(true)
	}
	v.emit("paused")
	return nil
}

func (v *VMM) resume() *failure {
	if v.vm == nil {
		return notRunning
	}
	v.emit("resuming")
	if v.vm.state == "Running" {
		return badTransition("resume", "Running", v.vm.state)
	}
	v.vm.state = "Running"
	if v.vm.guest != nil {
		v.vm.guest.setPaused(false)
	}
	v.emit("resumed")
	if v.vm.pendingNMI {
		v.vm.pendingNMI = false
		v.deliverNMI()
	}
	return nil
}

func (v *VMM) powerButton() *failure {
	if v.vm == nil {
		return notRunning
	}
	if v.vm.guest != nil {
		select {
		case v.vm.guest.button <- struct{}{}:
		default: // A press that the guest has not seen yet stays one press.
		}
	}
	return nil
}

func (v *VMM) nmi() *failure {
	if v.vm == nil {
		return notRunning
	}
	if v.vm.state == "Paused" {
		v.vm.pendingNMI = true
		return nil
	}
	v.deliverNMI()
	return nil
}

// deliverNMI: the test guest has no handler for it, which is a triple fault.
func (v *VMM) deliverNMI() {
	guest := v.vm.guest
	if guest != nil {
		go v.fromGuest(guest, v.resetByGuest)
	}
}

// ---- what the guest does ----

// fromGuest runs an action of the guest under the VMM's lock, after the end of a pause, unless the
// guest was stopped meanwhile; then it says false.
func (v *VMM) fromGuest(guest *Guest, action func()) bool {
	for {
		v.mutex.Lock()
		if v.vm == nil || v.vm.guest != guest {
			v.mutex.Unlock()
			return false
		}
		if v.vm.state == "Running" {
			defer v.mutex.Unlock()
			action()
			return true
		}
		v.mutex.Unlock()
		time.Sleep(time.Millisecond)
	}
}

func (v *VMM) resetByGuest() {
	v.logger.info("vmm/src/lib.rs:2144", "VM reset event")
	if refused := v.reboot(); refused != nil {
		fatal(append([]string{"Error running VMM"}, refused.causes...)...)
	}
}

func (v *VMM) powerOffByGuest() {
	v.logger.info("vmm/src/lib.rs:2151", "VM guest exit event")
	if v.options.noShutdown {
		v.shutdown()
		return
	}
	v.exit()
}

func (v *VMM) failVCPU() {
	v.logger.write("vcpu0", "ERROR", "vmm/src/cpu.rs:1487", strings.Join([]string{
		"VCPU generated error: VcpuRun(Failed to run vcpu", "", "Caused by:",
		"    Unexpected exit reason on vcpu run: InternalError", "", "Stack backtrace:", "   0: <unknown>)",
	}, "\n"))
	v.logger.info("vmm/src/lib.rs:2135", "VM exit event")
	v.exit()
}

func (v *VMM) ejectByGuest(guest *Guest, slot int) {
	v.fromGuest(guest, func() {
		for index, device := range v.vm.devices {
			if device.slot != slot {
				continue
			}
			v.vm.devices = append(v.vm.devices[:index], v.vm.devices[index+1:]...)
			if file := v.vm.diskFiles[device.id]; file != nil {
				_ = file.Close()
				delete(v.vm.diskFiles, device.id)
			}
			delete(v.vm.counters, device.id)
			guest.say(fmt.Sprintf("NKUDO-EJECT slot %d", slot))
			v.events.emit("vm", "device-removed", map[string]string{"id": device.id, "bdf": device.bdf()})
			return
		}
	})
}

func (v *VMM) activate(id string) {
	v.events.emit("virtio-device", "activated", map[string]string{"id": id})
}

const (
	sectorBytes      = 512
	latencyMicros    = 100
	unusedLatency    = 18446744073709551615
	unusedLatencyAvg = 1844674407370955
)

// count adds one sector read or written to a disk's counters.
func (v *VMM) count(id string, isRead bool) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.vm == nil || v.vm.counters[id] == nil {
		return
	}
	name := "write"
	if isRead {
		name = "read"
	}
	counters := v.vm.counters[id]
	counters[name+"_ops"]++
	counters[name+"_bytes"] += sectorBytes
	for _, kind := range []string{"min", "max", "avg"} {
		counters[name+"_latency_"+kind] = latencyMicros
	}
}

// ---- the end ----

func (v *VMM) exitBySignal() {
	v.mutex.Lock()
	v.logger.info("vmm/src/lib.rs:2135", "VM exit event")
	v.exit()
}

// exit ends the process in order, code 0. The caller holds the lock, so that nothing follows.
func (v *VMM) exit() {
	v.finish()
	os.Exit(0)
}

func (v *VMM) finish() {
	v.delete()
	v.events.emit("vmm", "shutdown", nil)
	if v.options.apiSocketPath != "" {
		_ = os.Remove(v.options.apiSocketPath)
	}
	v.logger.write("main", "INFO", "cloud-hypervisor/src/main.rs:1011", "Cloud Hypervisor exited successfully")
}

// ---- devices ----

func (vm *VM) plug(id, kind string) *pciDevice {
	taken := map[int]bool{}
	for _, device := range vm.devices {
		taken[device.slot] = true
	}
	slot := 1
	for taken[slot] {
		slot++
	}
	device := &pciDevice{id: id, slot: slot, kind: kind}
	vm.devices = append(vm.devices, device)
	return device
}

func (vm *VM) find(id string) *pciDevice {
	for _, device := range vm.devices {
		if device.id == id {
			return device
		}
	}
	return nil
}

func (v *VMM) slotOf(id string) int {
	if device := v.vm.find(id); device != nil {
		return device.slot
	}
	return 0
}

// name gives a device without an id the next one of the counter that all kinds share.
func (vm *VM) name(id **string, prefix string) string {
	for *id == nil {
		candidate := fmt.Sprintf("%s%d", prefix, vm.autoIDs)
		vm.autoIDs++
		if vm.find(candidate) == nil {
			*id = &candidate
		}
	}
	return **id
}

func (vm *VM) plugDisk(disk *Disk, file *os.File) *pciDevice {
	id := vm.name(&disk.ID, "_disk")
	vm.diskFiles[id] = file
	counters := map[string]uint64{}
	for _, name := range []string{"read", "write"} {
		counters[name+"_ops"] = 0
		counters[name+"_bytes"] = 0
		counters[name+"_latency_min"] = unusedLatency
		counters[name+"_latency_max"] = unusedLatency
		counters[name+"_latency_avg"] = unusedLatencyAvg
	}
	vm.counters[id] = counters
	return vm.plug(id, "disk")
}

func (vm *VM) plugNet(card *Net) *pciDevice {
	id := vm.name(&card.ID, "_net")
	if card.MAC == nil {
		mac := "2e:6e:6b:75:64:6f"
		card.MAC = &mac
	}
	vm.counters[id] = map[string]uint64{"rx_bytes": 0, "rx_frames": 0, "tx_bytes": 0, "tx_frames": 0}
	return vm.plug(id, "net")
}

func (vm *VM) plugVsock(vsock *Vsock) (*pciDevice, *failure) {
	id := vm.name(&vsock.ID, "_vsock")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: vsock.Socket, Net: "unix"})
	if err != nil {
		return nil, deviceManagerFailure("Cannot create virtio-vsock backend", "Error binding to the host-side Unix socket", osMessage(err))
	}
	vm.vsock = listener
	return vm.plug(id, "vsock"), nil
}

// closeBackends frees what the devices hold on the host.
func (vm *VM) closeBackends() {
	vm.setCPUs(0)
	if vm.vsock != nil {
		_ = vm.vsock.Close()
		vm.vsock = nil
	}
	for id, file := range vm.diskFiles {
		_ = file.Close()
		delete(vm.diskFiles, id)
	}
}

func deviceManagerFailure(causes ...string) *failure {
	return refuse(500, append([]string{"Error from device manager"}, causes...)...)
}

func unknownDevice(id string) *failure {
	return refuse(404, "Error from device manager", "Failed to find device corresponding to the given identifier: "+id)
}

// add changes a copy of the configuration first, so that a refused device leaves nothing behind. plug
// makes the device in a running VM; it may be nil for a kind that the simulator never makes.
func (v *VMM) add(edit func(*VMConfig), plug func(*VM) (*pciDevice, *failure)) ([]byte, *failure) {
	if v.config == nil {
		return nil, notCreated
	}
	edited := *v.config
	edited.Disks = append([]*Disk(nil), v.config.Disks...)
	edited.Nets = append([]*Net(nil), v.config.Nets...)
	edit(&edited)
	if status, causes := edited.validate(); status != 0 {
		return nil, refuse(status, causes...)
	}
	if v.vm == nil {
		v.config = &edited
		return nil, nil
	}
	device, refused := plug(v.vm)
	if refused != nil {
		return nil, refused
	}
	v.config = &edited
	if v.vm.guest != nil {
		v.vm.guest.ask(guestRequest{kind: "plug", number: device.slot})
	}
	return mustJSON(struct {
		ID  string `json:"id"`
		BDF string `json:"bdf"`
	}{device.id, device.bdf()}), nil
}

func (v *VMM) addDisk(disk *Disk) ([]byte, *failure) {
	return v.add(
		func(config *VMConfig) { config.Disks = append(config.Disks, disk) },
		func(vm *VM) (*pciDevice, *failure) {
			vm.name(&disk.ID, "_disk") // Used up even when the device is refused.
			file, causes := openDisk(disk)
			if causes != nil {
				return nil, refuse(500, causes...)
			}
			if causes := lockDisk(disk, file); causes != nil {
				_ = file.Close()
				return nil, deviceManagerFailure(causes...)
			}
			return vm.plugDisk(disk, file), nil
		})
}

func (v *VMM) addNet(net *Net) ([]byte, *failure) {
	return v.add(
		func(config *VMConfig) { config.Nets = append(config.Nets, net) },
		func(vm *VM) (*pciDevice, *failure) {
			if causes := checkTap(net); causes != nil {
				return nil, refuse(500, causes...)
			}
			return vm.plugNet(net), nil
		})
}

func (v *VMM) addVsock(vsock *Vsock) ([]byte, *failure) {
	if v.config != nil && v.config.Vsock != nil {
		return nil, refuse(500, "Too many virtio-vsock devices")
	}
	return v.add(
		func(config *VMConfig) { config.Vsock = vsock },
		func(vm *VM) (*pciDevice, *failure) { return vm.plugVsock(vsock) })
}

func (v *VMM) removeDevice(id string) *failure {
	if v.config == nil {
		return notCreated
	}
	if v.vm == nil {
		if !v.config.forget(id) {
			return refuse(404, fmt.Sprintf("No device with id %q to remove", id))
		}
		return nil
	}
	device := v.vm.find(id)
	switch {
	case id == "__serial" || id == "__ioapic":
		return deviceManagerFailure("Could not find the node in the device tree")
	case device == nil:
		return unknownDevice(id)
	case device.kind == "rng" || device.kind == "console" || device.kind == "mem":
		return deviceManagerFailure("Not allowed to remove this type of device from the VM: " + device.kind)
	}
	v.config.forget(id)
	if v.vm.guest != nil {
		v.vm.guest.ask(guestRequest{kind: "eject", number: device.slot})
	}
	return nil
}

func (c *VMConfig) forget(id string) bool {
	is := func(other *string) bool { return other != nil && *other == id }
	for index, disk := range c.Disks {
		if is(disk.ID) {
			c.Disks = append(append([]*Disk(nil), c.Disks[:index]...), c.Disks[index+1:]...)
			return true
		}
	}
	for index, net := range c.Nets {
		if is(net.ID) {
			c.Nets = append(append([]*Net(nil), c.Nets[:index]...), c.Nets[index+1:]...)
			return true
		}
	}
	if c.Vsock != nil && is(c.Vsock.ID) {
		c.Vsock = nil
		return true
	}
	return false
}

func (v *VMM) resizeDisk(id string, size int64) *failure {
	if v.config == nil {
		return notCreated
	}
	if v.vm == nil {
		return refuse(500, "Failed resizing a disk image")
	}
	file := v.vm.diskFiles[id]
	if file == nil {
		return unknownDevice(id)
	}
	if err := file.Truncate(size); err != nil {
		return refuse(500, "Failed resizing a disk image", osMessage(err))
	}
	return nil
}

type resizeRequest struct {
	VCPUs   *uint32 `json:"desired_vcpus"`
	RAM     *uint64 `json:"desired_ram"`
	Balloon *uint64 `json:"desired_balloon"`
}

func (v *VMM) resize(wanted *resizeRequest) *failure {
	if v.config == nil {
		return notCreated
	}
	if v.vm == nil {
		v.applyResize(wanted)
		return nil
	}
	v.emit("resizing")
	if refused := v.resizeCPUs(wanted.VCPUs); refused != nil {
		return refused
	}
	if v.config.Memory.isVirtioMem() && wanted.RAM != nil {
		if refused := v.resizeVirtioMem(*wanted.RAM); refused != nil {
			return refused
		}
		v.emit("resized")
		return nil
	}
	memory := &v.config.Memory
	limit := memory.Size
	if memory.HotplugSize != nil {
		limit += *memory.HotplugSize
	}
	switch {
	case wanted.RAM != nil && *wanted.RAM > limit:
		return refuse(500, "Memory manager error", "The requested hotplug memory addition is not a valid size")
	case wanted.Balloon != nil && v.config.Balloon == nil:
		return deviceManagerFailure("Missing virtio-balloon, can't proceed as expected")
	}
	v.applyResize(wanted)
	v.emit("resized")
	return nil
}

func (v *VMM) applyResize(wanted *resizeRequest) {
	if wanted.VCPUs != nil {
		v.config.CPUs.BootVCPUs = *wanted.VCPUs
	}
	if wanted.RAM != nil {
		v.config.Memory.Size = *wanted.RAM
	}
}

// ---- snapshot, restore, migration: only their refusals are simulated ----

func (v *VMM) snapshot() *failure {
	if v.vm == nil {
		return notRunning
	}
	v.emit("snapshotting")
	if v.vm.state != "Paused" {
		return refuse(500, "Cannot snapshot VM", "Failed to snapshot migratable component", "Trying to snapshot while VM is running")
	}
	// As on a host whose KVM has no nested state, which is what a client must be ready for.
	return refuse(500, "Cannot snapshot VM", "Failed to snapshot migratable component", "Could not get vCPU state GetNestedState(Invalid argument (os error 22))")
}

const snapshotContext = "Failed to send migratable component snapshot"

func (v *VMM) restore(source string) *failure {
	if v.config != nil {
		return alreadyCreated
	}
	path := source
	if parsed, err := url.Parse(source); err == nil && parsed.Scheme == "file" {
		path = parsed.Path
	}
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return refuse(500, "Cannot restore VM", snapshotContext, fmt.Sprintf("Destination is not a directory: %q", path))
	}
	return refuse(500, "Cannot restore VM", snapshotContext, "Snapshots are not simulated")
}

func (v *VMM) sendMigration() *failure {
	if v.vm == nil {
		return refuse(500, snapshotContext, "VM is not running")
	}
	v.emit("migration-started")
	v.emit("migration-failed")
	return nil
}

func (v *VMM) receiveMigration(receiver string) *failure {
	const context = "Failed to receive migratable component snapshot"
	if v.vm != nil {
		return refuse(500, context, "Can't receive a migration when a VM is already created")
	}
	if !strings.HasPrefix(receiver, "unix:") && !strings.HasPrefix(receiver, "tcp:") {
		return refuse(500, context, "Invalid receive migration configuration", "Expected receiver_url to either use `tcp` or `unix` prefix")
	}
	return refuse(500, context, "Migration is not simulated")
}

// ---- looking ----

func (v *VMM) info() ([]byte, *failure) {
	if v.config == nil {
		return nil, notCreated
	}
	view := struct {
		Config           *VMConfig                         `json:"config"`
		State            string                            `json:"state"`
		MemoryActualSize uint64                            `json:"memory_actual_size"`
		DeviceTree       map[string]map[string]interface{} `json:"device_tree,omitempty"`
	}{v.config, v.state(), v.config.Memory.Size, nil}
	if v.vm != nil {
		view.MemoryActualSize += v.vm.pluggedMemory
		view.DeviceTree = v.deviceTree()
	}
	return mustJSON(view), nil
}

func (v *VMM) deviceTree() map[string]map[string]interface{} {
	node := func(id string, children ...string) map[string]interface{} {
		if children == nil {
			children = []string{}
		}
		return map[string]interface{}{"id": id, "resources": []string{}, "children": children}
	}
	tree := map[string]map[string]interface{}{"__serial": node("__serial"), "__ioapic": node("__ioapic")}
	if v.config.Pvpanic {
		tree["__pvpanic"] = node("__pvpanic")
	}
	for _, device := range v.vm.devices {
		parent := "_virtio-pci-" + device.id
		tree[device.id] = node(device.id)
		tree[device.id]["parent"] = parent
		tree[parent] = node(parent, device.id)
		tree[parent]["pci_bdf"] = device.bdf()
	}
	return tree
}

func mustJSON(value interface{}) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

// bootFromCommandLine is what `--kernel …` asks for.
func bootFromCommandLine(v *VMM, options *Options) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	refused := v.create(options.config)
	if refused == nil {
		refused = v.boot()
	}
	if refused != nil {
		fatal(append([]string{"Error booting VM", "The VM could not boot"}, refused.causes...)...)
	}
}
