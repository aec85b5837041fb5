package main

// The log file and the event monitor.

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Logger writes lines in the real program's default format, each ended by CR LF.
type Logger struct {
	mutex     sync.Mutex
	out       io.Writer
	verbosity int
}

func openLog(options *Options) (*Logger, error) {
	logger := &Logger{out: os.Stderr, verbosity: options.verbosity}
	if options.logFile == "" {
		return logger, nil
	}
	file, err := os.OpenFile(options.logFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err != nil {
		return nil, err
	}
	logger.out = file
	return logger, nil
}

func (l *Logger) write(thread, level, location, message string) {
	if level == "INFO" && l.verbosity < 1 {
		return
	}
	l.mutex.Lock()
	defer l.mutex.Unlock()
	seconds := time.Since(processStart).Seconds()
	fmt.Fprintf(l.out, "cloud-hypervisor: %10.6fs: <%s> %s:%s -- %s\r\n", seconds, thread, level, location, message)
}

func (l *Logger) info(location, message string) { l.write("vmm", "INFO", location, message) }

// EventMonitor writes pretty-printed JSON records, each followed by a blank line.
type EventMonitor struct {
	out    io.Writer
	logger *Logger
}

func openEventMonitor(options *Options) (*EventMonitor, []string) {
	if options.eventMonitor == "" {
		return &EventMonitor{}, nil
	}
	kind, value, _ := strings.Cut(options.eventMonitor, "=")
	switch kind {
	case "path":
		file, err := os.OpenFile(value, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			return nil, []string{"Error doing event monitor I/O", osMessage(err)}
		}
		return &EventMonitor{out: file}, nil
	case "fd":
		number, err := strconv.Atoi(value)
		if err != nil {
			return nil, []string{"Error parsing --event-monitor", "Invalid value: " + value}
		}
		return &EventMonitor{out: os.NewFile(uintptr(number), "event-monitor")}, nil
	default:
		return nil, []string{"Error parsing --event-monitor", "Unknown option: " + kind}
	}
}

func (m *EventMonitor) emit(source, event string, properties map[string]string) {
	if m.logger != nil {
		m.logger.info("event_monitor/src/lib.rs:113", "Event: source = "+source+" event = "+event+" ")
	}
	if m.out == nil {
		return
	}
	since := time.Since(processStart)
	record := struct {
		Timestamp struct {
			Secs  int64 `json:"secs"`
			Nanos int64 `json:"nanos"`
		} `json:"timestamp"`
		Source     string            `json:"source"`
		Event      string            `json:"event"`
		Properties map[string]string `json:"properties"`
	}{Source: source, Event: event, Properties: properties}
	record.Timestamp.Secs = int64(since / time.Second)
	record.Timestamp.Nanos = int64(since % time.Second)
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		panic(err)
	}
	_, _ = m.out.Write(append(text, '\n', '\n'))
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
