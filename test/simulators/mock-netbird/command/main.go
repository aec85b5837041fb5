// Command netbird behaves like the NetBird v0.77.1 command line towards the program that calls it: flags, output,
// exit codes and the states of its daemon. There is no daemon: its state is a file in MOCK_NETBIRD_STATE, and the
// server is mock-netbird's management program. This file owns flags and subcommands.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	version              = "0.77.1"
	defaultManagementURL = "https://api.netbird.io:443"
	// How long the real command tries a management server that can not be reached, in all.
	unreachableAfter = 30 * time.Second
	// Nothing hangs longer, so that a test that fails to kill the command leaks nothing for good.
	hangMax = 10 * time.Minute
)

// options are the flags that n-kudo and people use; all others of the real command are refused.
type options struct {
	command       string
	managementURL string
	setupKey      string
	setupKeyFile  string
	hostname      string
	check         string
	isJSON        bool
}

func main() {
	chosen, err := parse(os.Args[1:])
	if err != nil {
		fail(err.Error())
	}
	directory := stateDirectory()
	recordRun(directory, os.Args)
	faults := loadFaults(directory, chosen.command)
	// Before the daemon's lock is taken: the real daemon answers others while one command hangs.
	faults.before()
	daemon := openDaemon(directory)
	defer daemon.close()
	switch chosen.command {
	case "version":
		fmt.Println(version)
	case "up":
		up(daemon, faults, chosen)
	case "down":
		requireDaemon(faults)
		down(daemon)
	case "status":
		requireDaemon(faults)
		status(daemon, faults, chosen)
	case "deregister", "logout":
		if faults.has("unknown-command") {
			fail(fmt.Sprintf("unknown command %q for \"netbird\"", chosen.command))
		}
		requireDaemon(faults)
		deregister(daemon)
	default:
		fail(fmt.Sprintf("unknown command %q for \"netbird\"", chosen.command))
	}
}

func parse(arguments []string) (options, error) {
	chosen := options{}
	values := map[string]*string{
		"--management-url": &chosen.managementURL, "-m": &chosen.managementURL,
		"--setup-key": &chosen.setupKey, "-k": &chosen.setupKey,
		"--setup-key-file": &chosen.setupKeyFile,
		"--hostname":       &chosen.hostname, "-n": &chosen.hostname,
		"--check":       &chosen.check,
		"--daemon-addr": new(string), "--log-level": new(string), "-l": new(string), "--config": new(string), "-c": new(string),
		"--interface-name": new(string), "--profile": new(string),
	}
	switches := map[string]*bool{
		"--json": &chosen.isJSON, "--disable-dns": new(bool), "--no-browser": new(bool), "--disable-auto-connect": new(bool),
		"--detail": new(bool), "-d": new(bool),
	}
	for i := 0; i < len(arguments); i++ {
		name, value, hasValue := strings.Cut(arguments[i], "=")
		switch {
		case !strings.HasPrefix(name, "-"):
			if chosen.command != "" {
				return chosen, fmt.Errorf("unknown argument %q", name)
			}
			chosen.command = name
		case switches[name] != nil:
			*switches[name] = !hasValue || value == "true"
		case values[name] != nil:
			if !hasValue {
				i++
				if i >= len(arguments) {
					return chosen, fmt.Errorf("flag needs an argument: %s", name)
				}
				value = arguments[i]
			}
			*values[name] = value
		default:
			return chosen, fmt.Errorf("unknown flag: %s", name)
		}
	}
	return chosen, nil
}

func fail(message string) {
	fmt.Fprintln(os.Stderr, "Error: "+message)
	os.Exit(1)
}

func requireDaemon(faults *faultSet) {
	if !faults.has("no-daemon") {
		return
	}
	fail("failed to connect to daemon error: context deadline exceeded\n" +
		"If the daemon is not running please run: \nnetbird service install \nnetbird service start\n")
}

func readSetupKey(chosen options) string {
	if chosen.setupKey != "" || chosen.setupKeyFile == "" {
		return chosen.setupKey
	}
	text, err := os.ReadFile(chosen.setupKeyFile)
	if err != nil {
		fail(fmt.Sprintf("get setup key: failed to read setup key file: %v", err))
	}
	return strings.TrimSpace(string(text))
}

func hang() {
	time.Sleep(hangMax)
	os.Exit(1)
}
