package main

import (
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The HTTP/1.1 subset of the real program's server (micro_http), with its oddities: no reason
// phrases, no chunked bodies, an error that drops what was read, and a connection that it never closes.

const (
	connectionsMax = 10
	lineBytesMax   = 1024
	bodyBytesMax   = 4 * 1024 * 1024
)

type response struct {
	status int
	body   []byte
	// isRaw marks answers of the HTTP layer itself.
	isRaw bool
	// afterwards runs when the answer was sent.
	afterwards func()
}

func (r *response) bytes() []byte {
	server := "Cloud Hypervisor API"
	if r.isRaw {
		server = "Firecracker API"
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d \r\nServer: %s\r\nConnection: keep-alive\r\n", r.status, server)
	if r.status != 204 && r.status != 100 {
		fmt.Fprintf(&out, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(r.body))
	}
	out.WriteString("\r\n")
	out.Write(r.body)
	return out.Bytes()
}

func protocolError(message string) *response {
	body := fmt.Sprintf("{ \"error\": \"%s\nAll previous unanswered requests will be dropped.\" }", message)
	return &response{status: 400, body: []byte(body), isRaw: true}
}

func serve(listener *net.UnixListener, vmm *VMM) {
	var mutex sync.Mutex
	open := 0
	isFull := func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		return open >= connectionsMax
	}
	for {
		connection, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		if isFull() {
			// The real server sees hang-ups that came first before it accepts.
			time.Sleep(2 * time.Millisecond)
		}
		if isFull() {
			body := `{ "error": "Too many open connections" }`
			fmt.Fprintf(connection, "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			_ = connection.Close()
			continue
		}
		mutex.Lock()
		open++
		mutex.Unlock()
		go func() {
			serveConnection(connection, vmm)
			mutex.Lock()
			open--
			mutex.Unlock()
		}()
	}
}

type request struct {
	method string
	path   string
	body   []byte
	// hasBody is false for a missing body and for Content-Length: 0.
	hasBody bool
}

type connectionReader struct {
	connection *net.UnixConn
	buffer     []byte
	// hasOverflown is set when an error came from a line longer than the server's buffer.
	hasOverflown bool
}

// dropAfterError forgets what was read; of an over-long line only the buffer that it filled, so that
// the rest of the line gives further errors, as in the real server.
func (r *connectionReader) dropAfterError() {
	if r.hasOverflown {
		r.buffer = r.buffer[lineBytesMax:]
		r.hasOverflown = false
		return
	}
	r.buffer = nil
}

func serveConnection(connection *net.UnixConn, vmm *VMM) {
	defer connection.Close()
	reader := &connectionReader{connection: connection}
	for {
		parsed, failure, err := reader.next()
		if err != nil {
			return
		}
		answer := failure
		if answer == nil {
			answer = vmm.handle(parsed)
		} else {
			reader.dropAfterError()
		}
		_, err = connection.Write(answer.bytes())
		if answer.afterwards != nil {
			answer.afterwards()
		}
		if err != nil {
			return
		}
	}
}

func (r *connectionReader) fill() error {
	chunk := make([]byte, 64*1024)
	count, err := r.connection.Read(chunk)
	if err != nil {
		return err
	}
	r.buffer = append(r.buffer, chunk[:count]...)
	return nil
}

// line returns the next line without CR LF; isTooLong when a line overflows the server's buffer.
func (r *connectionReader) line() (text string, isTooLong bool, err error) {
	for {
		if end := bytes.Index(r.buffer, []byte("\r\n")); end >= 0 && end <= lineBytesMax-2 {
			text = string(r.buffer[:end])
			r.buffer = r.buffer[end+2:]
			return text, false, nil
		}
		if len(r.buffer) >= lineBytesMax {
			r.hasOverflown = true
			return string(r.buffer[:lineBytesMax]), true, nil
		}
		if err := r.fill(); err != nil {
			return "", false, err
		}
	}
}

func (r *connectionReader) next() (*request, *response, error) {
	line, isTooLong, err := r.line()
	if err != nil {
		return nil, nil, err
	}
	if isTooLong {
		return nil, protocolError("Invalid request."), nil
	}
	parsed, failure := parseRequestLine(line)
	if failure != nil {
		return nil, failure, nil
	}
	length := 0
	expectsContinue := false
	for {
		line, isTooLong, err = r.line()
		if err != nil {
			return nil, nil, err
		}
		if isTooLong {
			return nil, protocolError("Invalid header. Reason: Invalid content length. Header: " + line), nil
		}
		if line == "" {
			break
		}
		name, value, hasColon := strings.Cut(line, ":")
		if !hasColon {
			return nil, protocolError("Invalid header. Reason: Header is incorrectly formatted. Key: " + line), nil
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "content-length":
			number, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return nil, protocolError("Invalid header. Reason: Invalid value. Key:Content-Length; Value: " + value), nil
			}
			length = int(number)
		case "transfer-encoding":
			if value != "identity" {
				return nil, protocolError("Invalid request."), nil
			}
		case "expect":
			expectsContinue = value == "100-continue"
		case "accept-encoding":
			if strings.Contains(value, "identity;q=0") || strings.Contains(value, "*;q=0") {
				return nil, protocolError("Invalid header. Reason: Invalid value. Key:Accept-Encoding; Value:" + value), nil
			}
		}
	}
	if length > bodyBytesMax {
		return nil, protocolError(fmt.Sprintf("Request payload with size %d is larger than the limit of %d allowed by server.", length, bodyBytesMax)), nil
	}
	if length == 0 {
		return parsed, nil, nil
	}
	if expectsContinue {
		if _, err := r.connection.Write((&response{status: 100, isRaw: true}).bytes()); err != nil {
			return nil, nil, err
		}
	}
	for len(r.buffer) < length {
		if err := r.fill(); err != nil {
			return nil, nil, err
		}
	}
	parsed.body = append([]byte(nil), r.buffer[:length]...)
	parsed.hasBody = true
	r.buffer = r.buffer[length:]
	return parsed, nil, nil
}

func parseRequestLine(line string) (*request, *response) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || parts[1] == "" {
		return nil, protocolError("Invalid request.")
	}
	switch parts[0] {
	case "GET", "PUT", "PATCH", "DELETE":
	default:
		return nil, protocolError("Invalid HTTP Method: Unsupported HTTP method.")
	}
	if parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return nil, protocolError("Invalid HTTP Version: Unsupported HTTP version.")
	}
	path := parts[1]
	if rest := strings.TrimPrefix(path, "http://"); rest != path {
		if slash := strings.Index(rest, "/"); slash >= 0 {
			path = rest[slash:]
		}
	}
	return &request{method: parts[0], path: path}, nil
}
