// Command pg_isready asks a Postgres whether it takes connections, as Postgres' own program of that name does: exit code 0
// when it does (also when it would refuse this user), 1 while it starts or stops, 2 without an answer. npm's Postgres
// comes without it. Protocol: https://www.postgresql.org/docs/18/protocol-flow.html, "Start-up".
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"io"
	"net"
	"os"
	"time"
)

const (
	limit           = 3 * time.Second
	protocolVersion = 3 << 16
	// SQLSTATE of a server that starts, stops or recovers.
	cannotConnectNow = "57P03"
)

func main() {
	host := flag.String("h", "127.0.0.1", "host")
	port := flag.String("p", "5432", "port")
	user := flag.String("U", "postgres", "user")
	database := flag.String("d", "postgres", "database")
	flag.Parse()
	os.Exit(ask(net.JoinHostPort(*host, *port), *user, *database))
}

func ask(address, user, database string) int {
	connection, err := net.DialTimeout("tcp", address, limit)
	if err != nil {
		return 2
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(limit))
	parameters := "user\x00" + user + "\x00database\x00" + database + "\x00\x00"
	message := binary.BigEndian.AppendUint32(nil, uint32(8+len(parameters)))
	message = binary.BigEndian.AppendUint32(message, protocolVersion)
	if _, err := connection.Write(append(message, parameters...)); err != nil {
		return 2
	}
	var header [5]byte
	if _, err := io.ReadFull(connection, header[:]); err != nil {
		return 2
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size < 4 || size > 1<<16 {
		return 2
	}
	// Read to its end, or the server logs a connection that was reset.
	fields := make([]byte, size-4)
	if _, err := io.ReadFull(connection, fields); err != nil {
		return 2
	}
	if header[0] == 'E' && bytes.Contains(fields, []byte("C"+cannotConnectNow+"\x00")) {
		return 1
	}
	return 0
}
