package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// The REST API: routes, what each takes, and the words of its refusals.

const apiRoot = "/api/v1/"

type route struct {
	method string
	// event is the name that the real program logs for a call.
	event string
	// what is the message between "Error from API" and the causes.
	what string
	// body is the schema of the body; nil where none is taken.
	body *schema
	call func(v *VMM, body []byte) ([]byte, *failure)
}

func plain(call func(v *VMM) *failure) func(*VMM, []byte) ([]byte, *failure) {
	return func(v *VMM, _ []byte) ([]byte, *failure) { return nil, call(v) }
}

// decode reads a body that the schema has accepted.
func decode(body []byte, into interface{}) {
	if err := json.Unmarshal(body, into); err != nil {
		fmt.Fprintf(os.Stderr, "mock-cloudhypervisor: body accepted but not readable: %v\n", err)
		os.Exit(70)
	}
}

func refused(what *failure) func(*VMM, []byte) ([]byte, *failure) {
	return func(v *VMM, _ []byte) ([]byte, *failure) {
		if v.config == nil {
			return nil, notCreated
		}
		return nil, what
	}
}

var idSchema = structSchema("VmRemoveDeviceData", "id", map[string]*schema{"id": stringSchema})

var routes = map[string]*route{
	"vmm.ping": {method: "GET", event: "VmmPing", call: func(*VMM, []byte) ([]byte, *failure) {
		return mustJSON(struct {
			BuildVersion string   `json:"build_version"`
			Version      string   `json:"version"`
			PID          int      `json:"pid"`
			Features     []string `json:"features"`
		}{buildVersion, version, os.Getpid(), []string{"io_uring", "kvm"}}), nil
	}},
	"vmm.shutdown": {method: "PUT", event: "VmmShutdown"},
	"vm.info":      {method: "GET", event: "VmInfo", what: "The VM info is not available", call: func(v *VMM, _ []byte) ([]byte, *failure) { return v.info() }},
	"vm.counters": {method: "GET", event: "VmCounters", what: "The VM info is not available", call: func(v *VMM, _ []byte) ([]byte, *failure) {
		if v.vm == nil {
			return nil, notRunning
		}
		return mustJSON(v.vm.counters), nil
	}},
	"vm.create": {method: "PUT", event: "VmCreate", what: "The VM could not be created", body: configSchema, call: func(v *VMM, body []byte) ([]byte, *failure) {
		config := defaultConfig()
		decode(body, config)
		return nil, v.create(config)
	}},
	"vm.boot":         {method: "PUT", event: "VmBoot", what: "The VM could not boot", call: plain((*VMM).boot)},
	"vm.pause":        {method: "PUT", event: "VmPause", what: "The VM could not be paused", call: plain((*VMM).pause)},
	"vm.resume":       {method: "PUT", event: "VmResume", what: "The VM could not resume", call: plain((*VMM).resume)},
	"vm.power-button": {method: "PUT", event: "VmPowerButton", what: "Error triggering power button", call: plain((*VMM).powerButton)},
	"vm.nmi":          {method: "PUT", event: "VmNmi", what: "Error triggering NMI", call: plain((*VMM).nmi)},
	"vm.reboot":       {method: "PUT", event: "VmReboot", what: "The VM could not reboot", call: plain((*VMM).reboot)},
	"vm.shutdown":     {method: "PUT", event: "VmShutdown", what: "The VM could not shutdown", call: plain((*VMM).shutdown)},
	"vm.delete":       {method: "PUT", event: "VmDelete", what: "The VM could not be deleted", call: plain((*VMM).delete)},
	"vm.snapshot": {method: "PUT", event: "VmSnapshot", what: "The VM could not be snapshotted",
		body: structSchema("VmSnapshotConfig", "destination_url", map[string]*schema{"destination_url": stringSchema}), call: plain((*VMM).snapshot)},
	"vm.restore": {method: "PUT", event: "VmRestore", what: "The VM could not be restored",
		body: structSchema("RestoreConfig", "source_url", map[string]*schema{"source_url": pathSchema}),
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			var wanted struct {
				SourceURL string `json:"source_url"`
			}
			decode(body, &wanted)
			return nil, v.restore(wanted.SourceURL)
		}},
	"vm.resize": {method: "PUT", event: "VmResize", what: "The VM could not be resized",
		body: structSchema("VmResizeData", "", map[string]*schema{"desired_vcpus": u32Schema, "desired_ram": u64Schema, "desired_balloon": u64Schema}),
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			var wanted resizeRequest
			decode(body, &wanted)
			return nil, v.resize(&wanted)
		}},
	"vm.resize-disk": {method: "PUT", event: "VmResizeDisk", what: "The disk could not be resized",
		body: structSchema("VmResizeDiskData", "id desired_size", map[string]*schema{"id": stringSchema, "desired_size": u64Schema}),
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			var wanted struct {
				ID   string `json:"id"`
				Size int64  `json:"desired_size"`
			}
			decode(body, &wanted)
			return nil, v.resizeDisk(wanted.ID, wanted.Size)
		}},
	"vm.resize-zone": {method: "PUT", event: "VmResizeZone", what: "The memory zone could not be resized",
		body: structSchema("VmResizeZoneData", "id desired_ram", map[string]*schema{"id": stringSchema, "desired_ram": u64Schema}),
		call: refused(refuse(500, "Failed resizing a memory zone"))},
	"vm.add-disk": {method: "PUT", event: "VmAddDisk", what: "The disk could not be added to the VM", body: diskSchema,
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			disk := &Disk{}
			decode(body, disk)
			return v.addDisk(disk)
		}},
	"vm.add-net": {method: "PUT", event: "VmAddNet", what: "The network device could not be added to the VM", body: netSchema,
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			net := &Net{}
			decode(body, net)
			return v.addNet(net)
		}},
	"vm.add-vsock": {method: "PUT", event: "VmAddVsock", what: "The vsock device could not be added to the VM", body: vsockSchema,
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			vsock := &Vsock{}
			decode(body, vsock)
			return v.addVsock(vsock)
		}},
	"vm.add-pmem": {method: "PUT", event: "VmAddPmem", what: "The pmem device could not be added to the VM",
		body: structSchema("PmemConfig", "file", map[string]*schema{"file": pathSchema}),
		call: addUnmade(func(c *VMConfig, d *Device) { c.Pmem = append(c.Pmem, d) }, "Cannot open persistent memory file", "No such file or directory (os error 2)")},
	"vm.add-fs": {method: "PUT", event: "VmAddFs", what: "The fs could not be added to the VM",
		body: structSchema("FsConfig", "tag socket", map[string]*schema{"tag": stringSchema, "socket": pathSchema}),
		call: addUnmade(func(c *VMConfig, d *Device) { c.FS = append(c.FS, d) }, "Devices of this kind are not simulated")},
	"vm.add-device": {method: "PUT", event: "VmAddDevice", what: "The device could not be added to the VM",
		body: structSchema("DeviceConfig", "path", map[string]*schema{"path": pathSchema}),
		call: addUnmade(func(c *VMConfig, d *Device) { c.Devices = append(c.Devices, d) }, "Cannot create a VFIO device",
			"failed to open /dev/vfio/vfio container: No such file or directory (os error 2)", "No such file or directory (os error 2)")},
	"vm.remove-device": {method: "PUT", event: "VmRemoveDevice", what: "The device could not be removed from the VM", body: idSchema,
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			var wanted struct {
				ID string `json:"id"`
			}
			decode(body, &wanted)
			return nil, v.removeDevice(wanted.ID)
		}},
	"vm.send-migration": {method: "PUT", event: "VmSendMigration", what: "Error dispatching the migration worker",
		body: structSchema("VmSendMigrationData", "destination_url", map[string]*schema{"destination_url": stringSchema}), call: plain((*VMM).sendMigration)},
	"vm.receive-migration": {method: "PUT", event: "VmReceiveMigration", what: "Error receiving migration",
		body: structSchema("VmReceiveMigrationData", "receiver_url", map[string]*schema{"receiver_url": stringSchema}),
		call: func(v *VMM, body []byte) ([]byte, *failure) {
			var wanted struct {
				URL string `json:"receiver_url"`
			}
			decode(body, &wanted)
			return nil, v.receiveMigration(wanted.URL)
		}},
}

// addUnmade accepts a device into an unbooted configuration and refuses to make it in a running VM.
func addUnmade(edit func(*VMConfig, *Device), causes ...string) func(*VMM, []byte) ([]byte, *failure) {
	return func(v *VMM, body []byte) ([]byte, *failure) {
		device := &Device{}
		decode(body, device)
		return v.add(func(config *VMConfig) { edit(config, device) }, func(*VM) (*pciDevice, *failure) { return nil, deviceManagerFailure(causes...) })
	}
}

// ownHandlers are the routes that answer a wrong verb with a body.
var ownHandlers = map[string]bool{"vm.info": true, "vm.create": true, "vmm.ping": true, "vmm.shutdown": true}

func (v *VMM) handle(asked *request) *response {
	name := strings.TrimPrefix(asked.path, apiRoot)
	route := routes[name]
	if route == nil || name == asked.path {
		return errorResponse(404, "Not Found")
	}
	if asked.method != "GET" && asked.method != "PUT" && !ownHandlers[name] {
		return &response{status: 400}
	}
	isBodyWrong := asked.method == "PUT" && asked.hasBody != (route.body != nil)
	if asked.method != route.method || isBodyWrong {
		if name == "vm.create" && asked.method == "PUT" {
			return &response{status: 400}
		}
		return errorResponse(400, "Bad Request")
	}
	if route.body != nil {
		if message := checkJSON(asked.body, route.body); message != "" {
			return errorResponse(400, "Failed to deserialize JSON", message)
		}
	}
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if injected := v.faults.at(name, "before"); injected != nil {
		return injected
	}
	v.logger.info("vmm/src/api/mod.rs:1584", "API request event: "+route.event)
	if name == "vmm.shutdown" {
		v.finish()
		v.faults.at(name, "after")
		return &response{status: 200, afterwards: func() { os.Exit(0) }}
	}
	body, failed := route.call(v, asked.body)
	if injected := v.faults.at(name, "after"); injected != nil {
		return injected
	}
	if failed != nil {
		if failed.isBare {
			return errorResponse(failed.status, failed.causes...)
		}
		if failed.isPanic {
			answer := errorResponse(failed.status, append([]string{"Error from API", "API response receive error"}, failed.causes...)...)
			answer.afterwards = func() { os.Exit(1) }
			return answer
		}
		return errorResponse(failed.status, append([]string{"Error from API", route.what}, failed.causes...)...)
	}
	if body == nil {
		return &response{status: 204}
	}
	return &response{status: 200, body: body}
}

func errorResponse(status int, chain ...string) *response {
	return &response{status: status, body: mustJSON(chain)}
}
