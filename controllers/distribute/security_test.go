package distribute_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// expiring gives the first stream a proof that soon ends.
type expiring struct {
	tokens
	once sync.Once
}

func (e *expiring) Authenticate(ctx context.Context, token string) (distribute.Identity, error) {
	id, err := e.tokens.Authenticate(ctx, token)
	e.once.Do(func() { id.Expires = time.Now().Add(100 * time.Millisecond) })
	return id, err
}

// asking tells what it is asked.
type asking struct {
	tokens
	asked chan<- string
}

func (a asking) Authenticate(ctx context.Context, token string) (distribute.Identity, error) {
	a.asked <- token
	return a.tokens.Authenticate(ctx, token)
}

// unsure is an Authenticator that cannot ask.
type unsure struct{}

func (unsure) Authenticate(context.Context, string) (distribute.Identity, error) {
	return distribute.Identity{}, errors.New("connection refused")
}

func TestStreamsWithoutProofReceiveNothing(t *testing.T) {
	tests := map[string]struct {
		authorization []string
		authenticator distribute.Authenticator
		wantCode      codes.Code
	}{
		"no token":               {wantCode: codes.Unauthenticated},
		"empty token":            {authorization: []string{"Bearer "}, wantCode: codes.Unauthenticated},
		"unknown token":          {authorization: []string{"Bearer nonsense"}, wantCode: codes.Unauthenticated},
		"other scheme":           {authorization: []string{"Basic proxy/a/p1"}, wantCode: codes.Unauthenticated},
		"no scheme":              {authorization: []string{"proxy/a/p1"}, wantCode: codes.Unauthenticated},
		"two tokens":             {authorization: []string{"Bearer proxy/a/p1", "Bearer proxy/b/p1"}, wantCode: codes.Unauthenticated},
		"neither proxy nor node": {authorization: []string{"Bearer gateway/a/p1"}, wantCode: codes.Unauthenticated},
		"proxy of no namespace":  {authorization: []string{"Bearer proxy//p1"}, wantCode: codes.Unauthenticated},
		"agent of no node":       {authorization: []string{"Bearer node//p1"}, wantCode: codes.Unauthenticated},
		"no answer from the API": {authorization: []string{"Bearer proxy/a/p1"}, authenticator: unsure{}, wantCode: codes.Unavailable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			hub := newHub(distribute.LayerCompiled)
			hub.Replace(distribute.LayerCompiled, backends(wire.ScopeMesh, 3))
			m := newMesh(t, hub, func(s *distribute.Server) {
				if tc.authenticator != nil {
					s.Authenticator = tc.authenticator
				}
			})
			c := m.raw(tc.authorization...)
			c.send(hello())
			code, messages := c.end()
			if code != tc.wantCode || messages != 0 {
				t.Errorf("the stream ended with %s after %d messages, want %s after none", code, messages, tc.wantCode)
			}
			if clients := hub.Clients(); len(clients) != 0 {
				t.Errorf("the hub knows %+v, want nobody", clients)
			}
		})
	}
}

func TestPlainTextIsRefused(t *testing.T) {
	m := newMesh(t, newHub(), nil)
	c := m.rawOver(insecure.NewCredentials(), "Bearer proxy/a/p1")
	c.send(hello())
	if code, messages := c.end(); code != codes.Unavailable || messages != 0 {
		t.Errorf("the stream ended with %s after %d messages, want %s after none", code, messages, codes.Unavailable)
	}
}

func TestServeNeedsTLS(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &distribute.Server{Hub: newHub(), Authenticator: tokens{}}
	if err := server.Serve(t.Context(), listener, nil); err == nil {
		t.Error("Serve without TLS returned no error")
	}
}

func TestProtocolViolationsEndTheStream(t *testing.T) {
	report := &wire.ClientMessage{Node: &wire.NodeReport{Full: true}}
	var pods []wire.PodReport
	for i := range 10_000 {
		pods = append(pods, wire.PodReport{UID: strings.Repeat("x", i%100) + string(rune('a'+i/100))})
	}
	tests := map[string]struct {
		token    string
		messages []any
		wantCode codes.Code
	}{
		"no Hello":                   {messages: []any{ack(1)}, wantCode: codes.InvalidArgument},
		"empty message":              {messages: []any{&wire.ClientMessage{}}, wantCode: codes.InvalidArgument},
		"Hello and more":             {messages: []any{&wire.ClientMessage{Hello: &wire.Hello{}, Ack: &wire.Ack{}}}, wantCode: codes.InvalidArgument},
		"two Hellos":                 {messages: []any{hello(), hello()}, wantCode: codes.InvalidArgument},
		"empty message after Hello":  {messages: []any{hello(), &wire.ClientMessage{}}, wantCode: codes.InvalidArgument},
		"acknowledgement of nothing": {messages: []any{hello(), ack(99)}, wantCode: codes.InvalidArgument},
		"node report of a proxy":     {messages: []any{hello(), report}, wantCode: codes.InvalidArgument},
		"too many pods": {
			token:    "node/n1/agent",
			messages: []any{hello(), &wire.ClientMessage{Node: &wire.NodeReport{Full: true, Pods: pods}}},
			wantCode: codes.InvalidArgument,
		},
		"no JSON":  {messages: []any{[]byte("\x00\x01")}, wantCode: codes.Internal},
		"too deep": {messages: []any{bytes.Repeat([]byte(`{"hello":`), 100_000)}, wantCode: codes.Internal},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, newHub(), nil)
			token := tc.token
			if token == "" {
				token = "proxy/a/p1"
			}
			c := m.raw("Bearer " + token)
			c.send(tc.messages...)
			if code, _ := c.end(); code != tc.wantCode {
				t.Errorf("the stream ended with %s, want %s", code, tc.wantCode)
			}
			m.await("the client to leave", func() bool { return len(m.hub.Clients()) == 0 })
		})
	}
}

func TestWrongAcknowledgementEndsTheStream(t *testing.T) {
	tests := map[string]func(seq uint64) []any{
		"second":          func(seq uint64) []any { return []any{ack(seq), ack(seq)} },
		"of the future":   func(seq uint64) []any { return []any{ack(seq + 1)} },
		"of nothing sent": func(uint64) []any { return []any{ack(0)} },
	}
	for name, answers := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t, newHub(), nil)
			c := m.raw("Bearer proxy/a/p1")
			c.send(hello())
			c.send(answers(c.delta().Seq)...)
			if code, _ := c.end(); code != codes.InvalidArgument {
				t.Errorf("the stream ended with %s, want %s", code, codes.InvalidArgument)
			}
		})
	}
}

func TestRejectionOfWhatAClientMayNotSeeIsIgnored(t *testing.T) {
	seen := &observer{}
	hub := distribute.NewHub(distribute.HubOptions{Layers: []distribute.Layer{distribute.LayerCompiled}, Observer: seen})
	foreign := backend(wire.ScopeNamespace("b"), "b/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{foreign})
	m := newMesh(t, hub, nil)
	c := m.raw("Bearer proxy/a/p1")
	c.send(hello())
	c.send(&wire.ClientMessage{Ack: &wire.Ack{Seq: c.delta().Seq, Rejected: []wire.Rejection{
		{Ref: foreign.Ref, Version: foreign.Version, Reason: "mischief"},
	}}})
	m.awaitHeld("a")
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if len(seen.rejected)+len(hub.Rejections()) != 0 {
		t.Errorf("rejections are %+v, want none", hub.Rejections())
	}
}

func TestFailingListenerEndsServeAndItsStreams(t *testing.T) {
	hub := newHub()
	m := newMesh(t, hub, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.address = listener.Addr().String()
	m.mu.Unlock()
	done := make(chan error, 1)
	security := m.ca.server(t, serverName)
	go func() {
		done <- (&distribute.Server{Hub: hub, Authenticator: tokens{}}).Serve(t.Context(), listener, security)
	}()
	c := m.raw("Bearer proxy/a/p1")
	c.send(hello())
	c.send(ack(c.delta().Seq))
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v, want that the listener is closed", err)
	}
	if code, _ := c.end(); code != codes.Unavailable {
		t.Errorf("the stream ended with %s, want %s", code, codes.Unavailable)
	}
}

func TestNewerStreamOfAPodTakesOver(t *testing.T) {
	m := newMesh(t, newHub(), nil)
	older := m.raw("Bearer proxy/a/p1")
	older.send(hello())
	older.send(ack(older.delta().Seq))
	newer := m.raw("Bearer proxy/a/p1")
	newer.send(hello())
	newer.send(ack(newer.delta().Seq))
	if code, _ := older.end(); code != codes.Aborted {
		t.Errorf("the older stream ended with %s, want %s", code, codes.Aborted)
	}
	m.await("one client", func() bool { n, of := m.hub.Holds("a", nil); return n == 1 && of == 1 })
}

func TestClientThatDoesNotAcknowledgeIsGivenUp(t *testing.T) {
	tests := map[string]struct {
		resources []wire.Resource
		read      bool
	}{
		"reads and says nothing": {resources: backends(wire.ScopeMesh, 1), read: true},
		// More than the transport buffers, so that sending blocks.
		"does not even read": {resources: []wire.Resource{backend(wire.ScopeMesh, strings.Repeat("x", 8<<20), 1)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			hub := newHub(distribute.LayerCompiled)
			hub.Replace(distribute.LayerCompiled, tc.resources)
			m := newMesh(t, hub, func(s *distribute.Server) { s.AckTimeout = 200 * time.Millisecond })
			c := m.raw("Bearer proxy/a/p1")
			c.send(hello())
			joined := false
			m.await("the client to come and go", func() bool {
				joined = joined || len(hub.Clients()) == 1
				return joined && len(hub.Clients()) == 0
			})
			if !tc.read {
				return
			}
			if code, _ := c.end(); code != codes.DeadlineExceeded {
				t.Errorf("the stream ended with %s, want %s", code, codes.DeadlineExceeded)
			}
		})
	}
}

func TestEndOfServeEndsStreams(t *testing.T) {
	m := newMesh(t, newHub(), nil)
	c := m.raw("Bearer proxy/a/p1")
	c.send(hello())
	c.send(ack(c.delta().Seq))
	m.stop()
	if code, _ := c.end(); code != codes.Unavailable {
		t.Errorf("the stream ended with %s, want %s", code, codes.Unavailable)
	}
	if clients := m.hub.Clients(); len(clients) != 0 {
		t.Errorf("the hub knows %+v after the server's end, want nobody", clients)
	}
}
