package main

// The command line: flags of the real program, its exit codes for wrong ones, and as much of the
// VM description as a boot from the command line needs.

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Options is the parsed command line.
type Options struct {
	apiSocket     string
	apiSocketPath string
	eventMonitor  string
	logFile       string
	verbosity     int
	noShutdown    bool
	hasBootConfig bool
	config        *VMConfig
}

// valueFlags take one value. Those that describe devices the simulator lacks are accepted and ignored.
var valueFlags = map[string]bool{
	"api-socket": true, "balloon": true, "cmdline": true, "console": true, "cpus": true,
	"debug-console": true, "device": true, "disk": true, "event-monitor": true, "firmware": true,
	"fs": true, "fw-cfg-config": true, "generic-vhost-user": true, "initramfs": true, "kernel": true,
	"landlock-rules": true, "log-file": true, "log-format": true, "memory": true, "memory-zone": true,
	"net": true, "numa": true, "pci-segment": true, "platform": true, "pmem": true,
	"rate-limit-group": true, "restore": true, "rng": true, "rtc": true, "seccomp": true, "serial": true, "tpm": true,
	"user-device": true, "vdpa": true, "vsock": true,
}

var bareFlags = map[string]bool{"landlock": true, "no-shutdown": true, "pvpanic": true, "watchdog": true}

const shortUsage = "\nUsage: cloud-hypervisor [OPTIONS]\n\nFor more information, try '--help'.\n"

// parseArguments returns done when the process should end with exitCode at once.
func parseArguments(arguments []string) (options *Options, exitCode int, done bool) {
	options = &Options{}
	if len(arguments) == 0 {
		fmt.Fprint(os.Stderr, longUsage())
		return nil, 2, true
	}
	values := map[string][]string{}
	for i := 0; i < len(arguments); i++ {
		argument := arguments[i]
		switch {
		case argument == "--version" || argument == "-V":
			fmt.Printf("cloud-hypervisor %s\nMigration Protocol Versions: 0\n", buildVersion)
			return nil, 0, true
		case argument == "--help" || argument == "-h":
			fmt.Print(longUsage())
			return nil, 0, true
		case len(argument) > 1 && strings.Trim(argument[1:], "v") == "" && argument[0] == '-':
			options.verbosity += len(argument) - 1
			continue
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(argument, "--"), "=")
		if !strings.HasPrefix(argument, "--") || (!valueFlags[name] && !bareFlags[name]) {
			fmt.Fprintf(os.Stderr, "error: unexpected argument '%s' found\n%s", argument, shortUsage)
			return nil, 2, true
		}
		if bareFlags[name] {
			values[name] = append(values[name], "")
			continue
		}
		if !hasValue {
			if i+1 >= len(arguments) || strings.HasPrefix(arguments[i+1], "--") {
				fmt.Fprintf(os.Stderr, "error: a value is required for '--%s <%s>' but none was supplied\n\nFor more information, try '--help'.\n", name, name)
				return nil, 2, true
			}
			i++
			value = arguments[i]
		}
		values[name] = append(values[name], value)
		for (name == "disk" || name == "net") && i+1 < len(arguments) && !strings.HasPrefix(arguments[i+1], "-") {
			i++
			values[name] = append(values[name], arguments[i])
		}
	}
	first := func(name string) string {
		if len(values[name]) == 0 {
			return ""
		}
		return values[name][0]
	}
	switch first("seccomp") {
	case "", "true", "false", "log", "errno":
	default:
		fmt.Fprintf(os.Stderr, "error: invalid value '%s' for '--seccomp <seccomp>'\n  [possible values: true, false, log, errno]\n\nFor more information, try '--help'.\n", first("seccomp"))
		return nil, 2, true
	}
	options.apiSocket = first("api-socket")
	options.apiSocketPath = strings.TrimPrefix(options.apiSocket, "path=")
	options.eventMonitor = first("event-monitor")
	options.logFile = first("log-file")
	options.noShutdown = len(values["no-shutdown"]) > 0
	options.hasBootConfig = first("kernel") != "" || first("firmware") != ""
	if options.hasBootConfig {
		options.config = configFromArguments(values, first)
	}
	return options, 0, false
}

// configFromArguments covers what a VM on the command line needs to boot here.
func configFromArguments(values map[string][]string, first func(string) string) *VMConfig {
	config := defaultConfig()
	config.Payload = &Payload{Kernel: optional(first("kernel")), Firmware: optional(first("firmware")), Cmdline: optional(first("cmdline")), Initramfs: optional(first("initramfs"))}
	cpus := parsePairs(first("cpus"))
	if boot, err := strconv.ParseUint(cpus["boot"], 10, 32); err == nil {
		config.CPUs.BootVCPUs = uint32(boot)
		config.CPUs.MaxVCPUs = uint32(boot)
	}
	if maximum, err := strconv.ParseUint(cpus["max"], 10, 32); err == nil {
		config.CPUs.MaxVCPUs = uint32(maximum)
	}
	if size, ok := parseSize(parsePairs(first("memory"))["size"]); ok {
		config.Memory.Size = size
	}
	for _, text := range values["disk"] {
		pairs := parsePairs(text)
		disk := defaultDisk()
		disk.Path = optional(pairs["path"])
		disk.ReadOnly = pairs["readonly"] == "on" || pairs["readonly"] == "true"
		disk.ID = optional(pairs["id"])
		config.Disks = append(config.Disks, disk)
	}
	setConsole(&config.Serial.Mode, &config.Serial.File, first("serial"))
	setConsole(&config.Console.Mode, &config.Console.File, first("console"))
	return config
}

func setConsole(mode *string, file **string, text string) {
	switch {
	case strings.HasPrefix(text, "file="):
		*mode = "File"
		*file = optional(strings.TrimPrefix(text, "file="))
	case text == "off" || text == "null" || text == "pty" || text == "tty":
		*mode = strings.ToUpper(text[:1]) + text[1:]
	}
}

func parsePairs(text string) map[string]string {
	pairs := map[string]string{}
	for _, part := range strings.Split(text, ",") {
		key, value, _ := strings.Cut(part, "=")
		pairs[key] = value
	}
	return pairs
}

func parseSize(text string) (uint64, bool) {
	shift := 0
	switch {
	case strings.HasSuffix(text, "K"):
		shift = 10
	case strings.HasSuffix(text, "M"):
		shift = 20
	case strings.HasSuffix(text, "G"):
		shift = 30
	}
	number, err := strconv.ParseUint(strings.TrimRight(text, "KMG"), 10, 64)
	return number << shift, err == nil
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func longUsage() string {
	lines := []string{"Launch a cloud-hypervisor VMM.", "", "Usage: cloud-hypervisor [OPTIONS]", "", "Options:"}
	for _, name := range sortedKeys(valueFlags) {
		lines = append(lines, fmt.Sprintf("      --%s <%s>", name, name))
	}
	for _, name := range sortedKeys(bareFlags) {
		lines = append(lines, "      --"+name)
	}
	return strings.Join(append(lines, "  -v...", "  -h, --help", "  -V, --version", ""), "\n")
}
