package main

// The host's side of the guest's vsock: a unix socket on which a client names a port of the guest.

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
)

// firstVsockPort is where the real program begins to number the host's ends.
const firstVsockPort = 1 << 30

// serveVsock ends with the listener, which is closed with the VM.
func serveVsock(vmm *VMM, guest *Guest, listener *net.UnixListener) {
	var connections atomicCounter
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			reader := bufio.NewReaderSize(client, 64)
			line, err := reader.ReadString('\n')
			port, numberError := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "CONNECT ")))
			if err != nil || numberError != nil || !strings.HasPrefix(line, "CONNECT ") {
				return
			}
			number := connections.next()
			// A guest without a driver says nothing for ever.
			select {
			case <-guest.stop:
				return
			case <-guest.hasVsock:
			}
			isAccepted := false
			vmm.fromGuest(guest, func() {
				isAccepted = port == guest.vsockPort
				word := "refused"
				if isAccepted {
					word = "accepted"
				}
				guest.say(fmt.Sprintf("NKUDO-VSOCK %s %d", word, port))
			})
			if !isAccepted {
				return
			}
			_, _ = fmt.Fprintf(client, "OK %d\n", firstVsockPort+number)
			// What the client sends goes nowhere, until one of the two is gone.
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				buffer := make([]byte, 4096)
				for {
					if _, err := reader.Read(buffer); err != nil {
						return
					}
				}
			}()
			select {
			case <-guest.stop:
			case <-gone:
			}
		}()
	}
}

// atomicCounter numbers from 0.
type atomicCounter struct{ value uint64 }

func (c *atomicCounter) next() uint64 { return atomic.AddUint64(&c.value, 1) - 1 }
