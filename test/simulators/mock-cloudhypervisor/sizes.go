package main

// What a running guest is given and lets go of: processors and virtio-mem memory.

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

const (
	virtioMemBlock = 2 << 20
	mebibyte       = 1 << 20
)

// cpu is a thread with the name that the real program gives it; it ends with the processor.
type cpu struct {
	stop      chan struct{}
	isLeaving bool
}

func startCPU(number int) *cpu {
	started := &cpu{stop: make(chan struct{})}
	ready := make(chan struct{})
	go started.run(number, ready)
	<-ready
	return started
}

func (c *cpu) run(number int, ready chan<- struct{}) {
	// Never unlocked, so that the thread ends with this function.
	runtime.LockOSThread()
	if syscall.Gettid() == os.Getpid() {
		// Go never ends the first thread of the process: it would keep its name. Held meanwhile, so that the other one is not it.
		isOther := make(chan struct{})
		go c.run(number, isOther)
		<-isOther
		runtime.UnlockOSThread()
		close(ready)
		return
	}
	name := append([]byte(fmt.Sprintf("vcpu%d", number)), 0)
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0)
	close(ready)
	<-c.stop
}

// setCPUs starts or ends processors without asking the guest.
func (vm *VM) setCPUs(count int) {
	for len(vm.cpus) < count {
		vm.cpus = append(vm.cpus, startCPU(len(vm.cpus)))
	}
	for len(vm.cpus) > count {
		close(vm.cpus[len(vm.cpus)-1].stop)
		vm.cpus = vm.cpus[:len(vm.cpus)-1]
	}
}

func (m *Memory) isVirtioMem() bool { return m.HotplugMethod == "VirtioMem" && m.HotplugSize != nil }

// findMemory is what a guest does first with its virtio-mem device: it says so, and takes what was asked for before.
func (v *VMM) findMemory(guest *Guest) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if v.vm == nil || v.vm.guest != guest || !v.config.Memory.isVirtioMem() {
		return
	}
	guest.say("NKUDO-MEM ready")
	if requested := v.config.Memory.HotpluggedSize; requested != nil {
		guest.ask(guestRequest{kind: "memory", number: int(*requested / mebibyte)})
	}
}

// tooMany is the whole body: this answer has no chain.
var tooMany = &failure{status: 429, causes: []string{"Too Many Requests"}, isBare: true}

// resizeCPUs refuses another number while the guest has not let go of those that it was asked for.
func (v *VMM) resizeCPUs(wanted *uint32) *failure {
	if wanted == nil {
		return nil
	}
	present := len(v.vm.cpus)
	count := int(*wanted)
	isPending := present > 0 && v.vm.cpus[present-1].isLeaving
	switch {
	case count == present:
		return nil
	case count == 0:
		return refuse(500, "Error from CPU manager", "Requested zero vCPUs")
	case isPending:
		return tooMany
	case count > int(v.config.CPUs.MaxVCPUs):
		return refuse(500, "Error from CPU manager", "Requested vCPUs exceed maximum")
	}
	for number := count; number < present; number++ {
		v.vm.cpus[number].isLeaving = true
	}
	// From the last one on, so that those that are left are the first ones.
	for number := present - 1; number >= count; number-- {
		v.vm.guest.ask(guestRequest{kind: "ejectCPU", number: number})
	}
	if count > present {
		v.vm.setCPUs(count)
	}
	for number := present; number < count; number++ {
		v.vm.guest.ask(guestRequest{kind: "plugCPU", number: number})
	}
	return nil
}

func (v *VMM) ejectCPUByGuest(guest *Guest, number int) {
	v.fromGuest(guest, func() {
		if number != len(v.vm.cpus)-1 || !v.vm.cpus[number].isLeaving {
			return
		}
		v.vm.setCPUs(number)
		guest.say(fmt.Sprintf("NKUDO-CPU ejected %d", number))
	})
}

func (v *VMM) resizeVirtioMem(wanted uint64) *failure {
	memory := &v.config.Memory
	if wanted < v.vm.bootMemory {
		return refuse(500, "Memory manager error", fmt.Sprintf("Invalid resize request: desired_size = %d below boot size = %d", wanted, v.vm.bootMemory))
	}
	size := wanted - v.vm.bootMemory
	requested := uint64(0)
	if memory.HotpluggedSize != nil {
		requested = *memory.HotpluggedSize
	}
	invalid := func(words string) *failure {
		return refuse(500, "Memory manager error", "Failed to virtio-mem resize", "Resize invalid argument",
			"Failed to update virtio configuration: ResizeError("+words+"\n\nStack backtrace:\n   0: <unknown>)")
	}
	switch {
	case size == requested:
		return invalid(fmt.Sprintf("new size 0x%x and requested_size are identical", size))
	case size > *memory.HotplugSize:
		return invalid(fmt.Sprintf("new size 0x%x is bigger than region_size 0x%x", size, *memory.HotplugSize))
	case size%virtioMemBlock != 0:
		return invalid(fmt.Sprintf("new size 0x%x is not aligned on block_size 0x%x", size, virtioMemBlock))
	}
	memory.HotpluggedSize = nil
	if size > 0 {
		memory.HotpluggedSize = &size
	}
	v.vm.guest.ask(guestRequest{kind: "memory", number: int(size / mebibyte)})
	return nil
}

func (v *VMM) takeMemoryByGuest(guest *Guest, size int) {
	v.fromGuest(guest, func() {
		v.vm.pluggedMemory = uint64(size) * mebibyte
		guest.say(fmt.Sprintf("NKUDO-MEM MiB %d", size))
	})
}
