// Command mock-cloudhypervisor behaves like cloud-hypervisor v54 towards its client: command line,
// API socket, REST API, event monitor, log and exit codes, with a simulated guest instead of a
// virtual machine. This file owns the process: arguments, sockets, signals and exit codes.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

const (
	// The suffix is the one thing that tells the simulator from the real one: hosts report it.
	buildVersion = "v53.0-246-gae44c2971-simulated"
	version      = "54.0.0"
	// sun_path holds 108 bytes with the terminating zero.
	socketPathMax = 107
)

var processStart = time.Now()

func main() {
	options, exitCode, done := parseArguments(os.Args[1:])
	if done {
		os.Exit(exitCode)
	}
	syscall.Umask(0o077)

	logger, err := openLog(options)
	if err != nil {
		fatal("Error creating log file", osMessage(err))
	}
	events, chain := openEventMonitor(options)
	if chain != nil {
		fatal(chain...)
	}
	faults := loadFaults(options.apiSocketPath)
	vmm := newVMM(options, logger, events, faults)
	events.emit("vmm", "starting", nil)
	faults.at("start", "before")

	var listener *net.UnixListener
	if options.apiSocket != "" {
		listener = claimSocket(options.apiSocketPath)
	}
	catchSignals(vmm)
	if options.hasBootConfig {
		bootFromCommandLine(vmm, options)
	}
	if listener != nil {
		faults.at("listening", "after")
		go serve(listener, vmm)
	}
	select {}
}

// fatal prints the chain of errors as the real program does and ends with code 1.
func fatal(chain ...string) {
	fmt.Fprintln(os.Stderr, "Error: Cloud Hypervisor exited with the following chain of errors:")
	for i, message := range chain {
		fmt.Fprintf(os.Stderr, "  %d: %s\n", i, message)
	}
	os.Exit(1)
}

// claimSocket takes the lock file, replaces a stale socket or regular file, and listens.
func claimSocket(path string) *net.UnixListener {
	const context = "Failed to start the VMM thread"
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		fatal(context, "Error creation API server's socket", osMessage(err))
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		fatal(context, fmt.Sprintf("API socket %q is already in use by another running instance", path))
	}
	// The descriptor stays open, and the lock held, until the process ends.
	keptOpen = append(keptOpen, lock)
	if len(path) > socketPathMax {
		fatal(context, "Error creation API server's socket", "path must be shorter than SUN_LEN")
	}
	if info, err := os.Lstat(path); err == nil && !info.IsDir() {
		_ = os.Remove(path)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		fatal(context, "Error creation API server's socket", osMessage(err))
	}
	listener.SetUnlinkOnClose(false)
	return listener
}

// keptOpen stops the garbage collector from closing files whose locks must last.
var keptOpen []*os.File

func catchSignals(vmm *VMM) {
	orderly := make(chan os.Signal, 1)
	signal.Notify(orderly, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-orderly
		vmm.exitBySignal()
	}()
	// Go ignores or reports these by itself; the real program has no handler for them.
	deadly := make(chan os.Signal, 1)
	signal.Notify(deadly, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		if number, ok := (<-deadly).(syscall.Signal); ok {
			dieBySignal(number)
		}
	}()
}

// dieBySignal restores the signal's default action and raises it, so that the parent sees it.
func dieBySignal(number syscall.Signal) {
	var defaultAction [32]byte
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&defaultAction[0])), 0, 8, 0, 0)
	_ = syscall.Kill(os.Getpid(), number)
	time.Sleep(time.Second)
	os.Exit(128 + int(number))
}

// osMessage renders an operating system error as Rust's standard library does.
func osMessage(err error) string {
	var number syscall.Errno
	if !errors.As(err, &number) {
		if errors.Is(err, fs.ErrNotExist) {
			number = syscall.ENOENT
		} else {
			return err.Error()
		}
	}
	text := number.Error()
	return fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(text[:1]), text[1:], int(number))
}
