package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// Serial is where the guest's COM1 goes. It is opened by vm.create and opened again at each boot and
// reboot, which truncates a file (the same inode) and cuts the clients of a socket. The guest never
// waits for a reader: what one does not take in time is kept, the newest serialBacklogMax bytes of it,
// and goes out with the next output or to the next client.
type Serial struct {
	mutex    sync.Mutex
	file     *os.File
	listener *net.UnixListener
	client   net.Conn
	backlog  []byte
	// input is what clients typed and the guest has not read.
	input chan []byte
}

const (
	serialBacklogMax = 1 << 20
	serialInputMax   = 64
	// serialWriteTime stands for a write that does not block.
	serialWriteTime = 2 * time.Millisecond
)

// isMissingPath tells the setting on which the real VMM thread panics.
func (c *Console) isMissingPath() bool {
	return (c.Mode == "File" && c.File == nil) || (c.Mode == "Socket" && c.Socket == nil)
}

// openSerial returns the causes of a failure, outermost first.
func openSerial(config *Console) (*Serial, []string) {
	failed := func(err error) (*Serial, []string) {
		return nil, []string{"Error creating console devices", "Error creating console device", osMessage(err)}
	}
	switch config.Mode {
	case "File":
		file, err := os.OpenFile(*config.File, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o666)
		if err != nil {
			return failed(err)
		}
		return &Serial{file: file}, nil
	case "Socket":
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: *config.Socket, Net: "unix"})
		if err != nil {
			return failed(err)
		}
		serial := &Serial{listener: listener, input: make(chan []byte, serialInputMax)}
		go serial.accept()
		return serial, nil
	case "Pty":
		master, name, err := openPty()
		if err != nil {
			return failed(err)
		}
		config.File = &name
		return &Serial{file: master}, nil
	case "Tty":
		return &Serial{file: os.Stdout}, nil
	}
	return &Serial{}, nil
}

func (s *Serial) accept() {
	for {
		client, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mutex.Lock()
		if s.client != nil {
			_ = s.client.Close()
		}
		s.client = client
		s.flush()
		s.mutex.Unlock()
		go s.read(client)
	}
}

// read takes input until the guest does not read it any more; then the client has to wait.
func (s *Serial) read(client net.Conn) {
	for {
		bytes := make([]byte, 4096)
		count, err := client.Read(bytes)
		if count > 0 {
			s.input <- bytes[:count]
		}
		if err != nil {
			s.mutex.Lock()
			if s.client == client {
				_ = client.Close()
				s.client = nil
			}
			s.mutex.Unlock()
			return
		}
	}
}

func (s *Serial) write(text string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.file != nil {
		_, _ = s.file.WriteString(text)
		return
	}
	if s.listener == nil {
		return
	}
	s.backlog = append(s.backlog, text...)
	s.flush()
	if over := len(s.backlog) - serialBacklogMax; over > 0 {
		s.backlog = append([]byte(nil), s.backlog[over:]...)
	}
}

// flush gives the client as much as it takes at once. The caller holds the lock.
func (s *Serial) flush() {
	if s.client == nil || len(s.backlog) == 0 {
		return
	}
	_ = s.client.SetWriteDeadline(time.Now().Add(serialWriteTime))
	count, _ := s.client.Write(s.backlog)
	s.backlog = append([]byte(nil), s.backlog[count:]...)
}

func (s *Serial) close() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.file != nil && s.file != os.Stdout {
		_ = s.file.Close()
	}
	if s.listener != nil {
		_ = s.listener.Close()
	}
	if s.client != nil {
		_ = s.client.Close()
	}
	s.file = nil
	s.listener = nil
	s.client = nil
}

func openPty() (*os.File, string, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, "", err
	}
	var number, unlock uint32
	for _, call := range []struct {
		request  uintptr
		argument unsafe.Pointer
	}{{syscall.TIOCSPTLCK, unsafe.Pointer(&unlock)}, {syscall.TIOCGPTN, unsafe.Pointer(&number)}} {
		if _, _, failure := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), call.request, uintptr(call.argument)); failure != 0 {
			return nil, "", failure
		}
	}
	return master, fmt.Sprintf("/dev/pts/%d", number), nil
}
