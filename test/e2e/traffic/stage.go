package traffic

import (
	"fmt"
	"net/http/httptrace"
	"sync"
)

// stage is how far an HTTP request has come. A request that ends without an answer says so, since a name that
// is not resolved and an answer that does not come look the same otherwise.
type stage struct {
	mu               sync.Mutex
	text, connection string
}

func (s *stage) set(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = text
}

// on says what is being done on the connection that the request has.
func (s *stage) on(doing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = doing + " on " + s.connection
}

func (s *stage) connected(info httptrace.GotConnInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	age := "new"
	if info.Reused {
		age = "kept"
	}
	s.connection = fmt.Sprintf("a %s connection from %s to %s", age, info.Conn.LocalAddr(), info.Conn.RemoteAddr())
	s.text = "sending on " + s.connection
}

// wrap adds the stage to an error.
func (s *stage) wrap(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, s.text)
}

func (s *stage) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		DNSStart:             func(info httptrace.DNSStartInfo) { s.set("resolving " + info.Host) },
		ConnectStart:         func(_, address string) { s.set("connecting to " + address) },
		GotConn:              s.connected,
		WroteRequest:         func(httptrace.WroteRequestInfo) { s.on("waiting") },
		GotFirstResponseByte: func() { s.on("receiving") },
	}
}
