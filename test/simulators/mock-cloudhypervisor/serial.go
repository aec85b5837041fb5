package main

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// Serial is where the guest's COM1 goes. It is opened by vm.create and opened again at each boot and
// reboot, which truncates a file (the same inode) and cuts the clients of a socket.
type Serial struct {
	mutex    sync.Mutex
	file     *os.File
	listener *net.UnixListener
	client   net.Conn
	// replay is what the first client of a socket has missed.
	replay []byte
}

const replayBytesMax = 1 << 20

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
		serial := &Serial{listener: listener}
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
		_, _ = client.Write(s.replay)
		s.replay = nil
		s.mutex.Unlock()
	}
}

func (s *Serial) write(text string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case s.file != nil:
		_, _ = s.file.WriteString(text)
	case s.client != nil:
		_, _ = s.client.Write([]byte(text))
	case s.listener != nil && len(s.replay)+len(text) <= replayBytesMax:
		s.replay = append(s.replay, text...)
	}
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
