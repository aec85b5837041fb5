package main

// Misbehaviour on request; README.md describes it.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Fault is one misbehaviour that a test asks for. README.md describes the fields.
type Fault struct {
	At     string   `json:"at"`
	When   string   `json:"when"`
	Nth    int      `json:"nth"`
	Once   bool     `json:"once"`
	Do     string   `json:"do"`
	Ms     int      `json:"ms"`
	Status int      `json:"status"`
	Body   []string `json:"body"`
	Code   int      `json:"code"`
}

// Faults reads its file at every point, so that a test can change it while the process runs.
type Faults struct {
	mutex     sync.Mutex
	inline    string
	paths     []string
	directory string
	passes    map[string]int
}

const faultFileName = "mock-ch-faults.json"

func loadFaults(apiSocketPath string) *Faults {
	faults := &Faults{passes: map[string]int{}, directory: "."}
	if apiSocketPath != "" {
		faults.directory = filepath.Dir(apiSocketPath)
	}
	faults.paths = []string{filepath.Join(faults.directory, faultFileName)}
	setting := os.Getenv("MOCK_CH_FAULTS")
	if strings.HasPrefix(strings.TrimSpace(setting), "[") {
		faults.inline = setting
	} else if setting != "" {
		faults.paths = append(faults.paths, setting)
	}
	return faults
}

func (f *Faults) list() []Fault {
	texts := []string{f.inline}
	for _, path := range f.paths {
		if content, err := os.ReadFile(path); err == nil {
			texts = append(texts, string(content))
		}
	}
	var all []Fault
	for _, text := range texts {
		if text == "" {
			continue
		}
		var some []Fault
		if err := json.Unmarshal([]byte(text), &some); err != nil {
			fmt.Fprintf(os.Stderr, "mock-cloudhypervisor: faults are not readable: %v\n", err)
			os.Exit(70)
		}
		all = append(all, some...)
	}
	return all
}

// at performs what is asked for at a point; the answer is not nil when a call must fail with it.
func (f *Faults) at(point, when string) *response {
	f.mutex.Lock()
	key := point + " " + when
	f.passes[key]++
	pass := f.passes[key]
	faults := f.list()
	f.mutex.Unlock()
	for index, fault := range faults {
		isHere := fault.At == point && (fault.When == when || (fault.When == "" && (when == "before" || point == "listening" || strings.HasPrefix(point, "guest."))))
		if !isHere || (fault.Nth != 0 && fault.Nth != pass) || (fault.Once && !f.takeOnce(index)) {
			continue
		}
		switch fault.Do {
		case "delay":
			time.Sleep(time.Duration(fault.Ms) * time.Millisecond)
		case "hang":
			select {}
		case "die":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		case "exit":
			os.Exit(fault.Code)
		case "fail":
			status := fault.Status
			if status == 0 {
				status = 500
			}
			body := fault.Body
			if body == nil {
				body = []string{"Error from API", "injected fault"}
			}
			return errorResponse(status, body...)
		}
	}
	return nil
}

// takeOnce marks the fault as used beside the API socket, so that it outlives the process.
func (f *Faults) takeOnce(index int) bool {
	file, err := os.OpenFile(filepath.Join(f.directory, fmt.Sprintf(".mock-ch-fault-%d", index)), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false
	}
	_ = file.Close()
	return true
}
