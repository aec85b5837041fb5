package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Guest acts like the project's own test guest (test/guest): it prints the same lines and does what
// the first word of its command line says. It sleeps unless something happens.
type Guest struct {
	vmm     *VMM
	serial  *Serial
	words   []string
	cmdline string
	disk    string
	slot    int

	stop   chan struct{}
	pause  chan bool
	button chan struct{}
	asked  chan guestRequest

	// hasVsock is closed once the guest drives its vsock device; then vsockPort is what it listens on.
	hasVsock  chan struct{}
	vsockPort int
}

// guestRequest is something that the VMM asks of its guest.
type guestRequest struct {
	// kind: plug and eject a device in a slot, plugCPU and ejectCPU, memory (number in MiB).
	kind   string
	number int
}

const (
	guestDefaultDelay  = 200 * time.Millisecond
	guestTick          = time.Second
	guestPollDelay     = 8 * time.Millisecond
	guestFirstLineTime = 2 * time.Millisecond
	guestFloodLines    = 1000
	guestVsockPort     = 1024
)

func newGuest(vmm *VMM, serial *Serial, config *VMConfig) *Guest {
	cmdline := ""
	if config.Payload.Cmdline != nil {
		cmdline = *config.Payload.Cmdline
	}
	guest := &Guest{
		vmm: vmm, serial: serial, cmdline: cmdline, words: strings.Fields(cmdline),
		stop: make(chan struct{}), pause: make(chan bool, 64), button: make(chan struct{}, 1), asked: make(chan guestRequest, 1024),
		hasVsock: make(chan struct{}),
	}
	if len(config.Disks) > 0 && config.Disks[0].ID != nil {
		guest.disk = *config.Disks[0].ID
		guest.slot = vmm.slotOf(guest.disk)
	}
	return guest
}

func (g *Guest) word() string {
	if len(g.words) == 0 {
		return "tick"
	}
	return g.words[0]
}

func (g *Guest) actionDelay() time.Duration {
	if len(g.words) > 1 {
		if milliseconds, err := strconv.Atoi(g.words[1]); err == nil {
			return time.Duration(milliseconds) * time.Millisecond
		}
	}
	return guestDefaultDelay
}

// second is the number in the second word.
func (g *Guest) second(otherwise int) int {
	if len(g.words) > 1 {
		if number, err := strconv.Atoi(g.words[1]); err == nil {
			return number
		}
	}
	return otherwise
}

func (g *Guest) say(line string) { g.serial.write(line + "\r\n") }

// run is the guest's only thread. Whatever it does to the VM it does through vmm.fromGuest, which
// takes the VMM's lock unless the guest was stopped meanwhile.
func (g *Guest) run() {
	if !g.sleep(guestFirstLineTime) {
		return
	}
	g.say("NKUDO-GUEST-READY")
	g.say("NKUDO-CMDLINE " + g.cmdline)
	g.say("NKUDO-ACPI ready")
	if g.word() != "clinging" {
		g.vmm.findMemory(g)
	}
	g.vmm.faults.at("guest.ready", "after")
	switch g.word() {
	case "poweroff":
		if g.sleep(g.actionDelay()) {
			g.say("NKUDO-POWEROFF")
			g.powerOff()
		}
	case "reboot":
		if g.sleep(g.actionDelay()) {
			g.say("NKUDO-REBOOT")
			g.vmm.fromGuest(g, g.vmm.resetByGuest)
		}
	case "triple":
		if g.sleep(g.actionDelay()) {
			g.say("NKUDO-TRIPLE-FAULT")
			g.vmm.fromGuest(g, g.vmm.resetByGuest)
		}
	case "crash":
		if g.sleep(g.actionDelay()) {
			g.say("NKUDO-CRASH")
			g.vmm.fromGuest(g, g.vmm.failVCPU)
		}
	case "panic":
		if g.sleep(g.actionDelay()) {
			g.vmm.fromGuest(g, g.panic)
			// It halts, and answers nothing any more.
			<-g.stop
		}
	case "flood":
		for line := 1; line <= g.second(guestFloodLines); line++ {
			g.say(fmt.Sprintf("NKUDO-FLOOD ......................................... %08d", line))
		}
		g.say("NKUDO-FLOOD-END")
		g.idle()
	case "vsock":
		if !g.vmm.fromGuest(g, g.listenOnVsock) {
			return
		}
		if g.vsockPort == 0 {
			g.say("NKUDO-VSOCK missing")
			g.tick()
			return
		}
		g.idle()
	case "idle", "clinging", "echo":
		g.idle()
	default:
		g.tick()
	}
}

func (g *Guest) idle() {
	g.say("NKUDO-IDLE")
	g.sleep(time.Duration(1<<62 - 1))
}

func (g *Guest) tick() {
	if g.disk != "" {
		g.vmm.activate(g.disk)
		g.say(fmt.Sprintf("NKUDO-BLK ready slot %d", g.slot))
		g.vmm.count(g.disk, true)
		g.say("NKUDO-BLK read 0")
	}
	for tick := 1; g.sleep(guestTick); tick++ {
		g.say(fmt.Sprintf("NKUDO-TICK %d", tick))
		if g.disk != "" {
			g.vmm.count(g.disk, false)
		}
	}
}

func (g *Guest) panic() {
	if !g.vmm.config.Pvpanic {
		g.say("NKUDO-PANIC unheard")
		return
	}
	g.say("NKUDO-PANIC")
	g.vmm.logger.write("vcpu0", "INFO", "devices/src/pvpanic.rs:151", "pvpanic got guest event panic")
	g.vmm.events.emit("guest", "panic", map[string]string{"event": "panic"})
}

// listenOnVsock is the guest's driver: from here on connections are answered.
func (g *Guest) listenOnVsock() {
	vsock := g.vmm.config.Vsock
	if vsock == nil {
		return
	}
	g.vsockPort = g.second(guestVsockPort)
	g.say(fmt.Sprintf("NKUDO-VSOCK ready cid %d port %d", vsock.CID, g.vsockPort))
	close(g.hasVsock)
}

func (g *Guest) powerOff() {
	g.vmm.logger.write("vcpu0", "INFO", "devices/src/acpi.rs:81", "ACPI Shutdown signalled")
	g.vmm.fromGuest(g, g.vmm.powerOffByGuest)
}

// sleep lets guest time pass, answering the power button and hot-unplug; false when the guest is over.
func (g *Guest) sleep(duration time.Duration) bool {
	deadline := time.Now().Add(duration)
	timer := time.NewTimer(duration)
	defer timer.Stop()
	for {
		select {
		case <-g.stop:
			return false
		case <-timer.C:
			return true
		case isPaused := <-g.pause:
			// Guest time stands still until the end of the pause.
			left := time.Until(deadline)
			for isPaused {
				select {
				case <-g.stop:
					return false
				case isPaused = <-g.pause:
				}
			}
			deadline = time.Now().Add(left)
			timer.Reset(left)
		case typed := <-g.inputFor("echo"):
			g.serial.write(string(typed))
		case wanted := <-g.asked:
			time.Sleep(guestPollDelay)
			g.answer(wanted)
		case <-g.button:
			time.Sleep(guestPollDelay)
			g.say("NKUDO-POWER-BUTTON")
			if g.word() != "nobutton" {
				g.powerOff()
				return false
			}
		}
	}
}

// answer does what the VMM asked for; a clinging guest only greets what comes.
func (g *Guest) answer(wanted guestRequest) {
	clings := g.word() == "clinging"
	switch wanted.kind {
	case "plug":
		g.say(fmt.Sprintf("NKUDO-PLUG slot %d", wanted.number))
	case "plugCPU":
		g.say(fmt.Sprintf("NKUDO-CPU plugged %d", wanted.number))
	case "eject":
		if !clings {
			g.vmm.ejectByGuest(g, wanted.number)
		}
	case "ejectCPU":
		if !clings {
			g.vmm.ejectCPUByGuest(g, wanted.number)
		}
	case "memory":
		if !clings {
			g.vmm.takeMemoryByGuest(g, wanted.number)
		}
	}
}

// ask never waits either; the guest has room for more requests than there are things to ask for.
func (g *Guest) ask(wanted guestRequest) {
	select {
	case g.asked <- wanted:
	default:
	}
}

// inputFor gives what was typed to a guest that reads it, and nothing to others.
func (g *Guest) inputFor(word string) <-chan []byte {
	if g.word() != word {
		return nil
	}
	return g.serial.input
}

// setPaused never waits: the guest may itself be waiting for the VMM's lock.
func (g *Guest) setPaused(paused bool) {
	select {
	case g.pause <- paused:
	default:
	}
}
