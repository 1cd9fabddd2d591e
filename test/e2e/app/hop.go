package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/test/e2e/traffic"
)

// serveHop takes TCP connections of the hop as a proxy does, with the certificate in a folder, and answers
// their lines itself, with the identity that the caller has shown. Whether it may be trusted is not asked:
// the tests ask which it is.
func serveHop(l net.Listener, folder string) error {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
	if err != nil {
		return fmt.Errorf("hop: %w", err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{upstream.ALPNTCP},
	}
	for {
		raw, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		go serveHopConn(tls.Server(raw, config))
	}
}

// serveHopConn ends a connection that is none of the hop.
func serveHopConn(conn *tls.Conn) {
	defer func() { _ = conn.Close() }()
	if conn.Handshake() != nil {
		return
	}
	caller, err := identity.ConnectionID(conn.ConnectionState())
	if err != nil {
		return
	}
	if _, err := upstream.ReadPreface(conn); err != nil || upstream.WriteAccept(conn) != nil {
		return
	}
	echo := self(conn.LocalAddr(), conn.RemoteAddr().String())
	echo.Caller = caller.String()
	answerLines(conn, echo)
}

// answerLines answers each line with how it was seen, until the other side ends.
func answerLines(conn net.Conn, echo traffic.Echo) {
	out := json.NewEncoder(conn)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		echo.Body = lines.Text()
		if out.Encode(echo) != nil {
			return
		}
	}
}
