// Faults on demand from faults.json in the state directory; the README has the table.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const memoryMax = 512 << 20

type fault struct {
	On         string                     `json:"on"`
	Do         string                     `json:"do"`
	Once       bool                       `json:"once"`
	Ms         json.Number                `json:"ms"`
	Bytes      int                        `json:"bytes"`
	Code       int                        `json:"code"`
	Text       string                     `json:"text"`
	State      string                     `json:"state"`
	Fields     map[string]json.RawMessage `json:"fields"`
	IgnoreTerm bool                       `json:"ignoreTerm"`
	Child      bool                       `json:"child"`
}

type faultSet struct{ faults []fault }

// loadFaults keeps the faults of this subcommand; a fault that bites once is marked by a file.
func loadFaults(directory, command string) *faultSet {
	set := &faultSet{}
	text, err := os.ReadFile(filepath.Join(directory, "faults.json"))
	if err != nil {
		return set
	}
	var all []fault
	if err := json.Unmarshal(text, &all); err != nil {
		fail("mock-netbird: faults.json: " + err.Error())
	}
	if command == "logout" {
		command = "deregister"
	}
	for index, candidate := range all {
		if candidate.On != command && candidate.On != "*" {
			continue
		}
		if candidate.Once {
			marker, err := os.OpenFile(filepath.Join(directory, fmt.Sprintf("fault-%d-bit", index)), os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				continue
			}
			_ = marker.Close()
		}
		set.faults = append(set.faults, candidate)
	}
	return set
}

func (s *faultSet) find(do string) *fault {
	for i := range s.faults {
		if s.faults[i].Do == do {
			return &s.faults[i]
		}
	}
	return nil
}

func (s *faultSet) has(do string) bool { return s.find(do) != nil }

func (s *faultSet) text(do string) string {
	if found := s.find(do); found != nil {
		if do == "state" {
			return found.State
		}
		return found.Text
	}
	return ""
}

func (s *faultSet) fields() map[string]json.RawMessage {
	if found := s.find("fields"); found != nil {
		return found.Fields
	}
	return nil
}

func (s *faultSet) duration(do string, otherwise time.Duration) time.Duration {
	if found := s.find(do); found != nil {
		return milliseconds(found.Ms)
	}
	return otherwise
}

// before does what happens ahead of the subcommand itself.
func (s *faultSet) before() {
	for i := range s.faults {
		switch current := s.faults[i]; current.Do {
		case "hang":
			if current.IgnoreTerm {
				signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
			}
			if current.Child {
				// In the same process group: only killing the group ends it.
				_ = exec.Command("sleep", fmt.Sprint(int(hangMax.Seconds()))).Start()
			}
			if current.On != "up" {
				hang()
			}
		case "delay":
			time.Sleep(milliseconds(current.Ms))
		case "memory":
			eatMemory(current.Bytes, milliseconds(current.Ms))
		case "spin":
			for end := time.Now().Add(milliseconds(current.Ms)); time.Now().Before(end); {
			}
		case "fail":
			fmt.Fprintln(os.Stderr, "Error: "+current.Text)
			os.Exit(current.Code)
		case "flood":
			flood(current.Bytes)
		}
	}
}

// eatMemory touches the pages, so that they count, and holds them.
func eatMemory(size int, hold time.Duration) {
	if size > memoryMax {
		size = memoryMax
	}
	held := make([]byte, size)
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	time.Sleep(hold)
	if len(held) > 0 && held[0] != 1 {
		os.Exit(1)
	}
}

// flood writes more to standard output than anybody should keep.
func flood(size int) {
	if size > memoryMax {
		size = memoryMax
	}
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = 'x'
	}
	for written := 0; written < size; written += len(block) {
		if _, err := os.Stdout.Write(block); err != nil {
			return
		}
	}
}
