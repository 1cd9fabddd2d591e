package engine

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// sides starts a Service in the client's own namespace and one over the hop. Each has an address and the proxy that
// decides, in a namespace.
func sides(t *testing.T, protocol wire.Protocol, backend string, edit ...func(*Options)) map[string]side {
	t.Helper()
	p := newProxy(t, edit...)
	p.apply(service("web", protocol, backend)...)
	h := newHop(t, 1, protocol, edit...)
	stocked(h.peers[0], protocol, backend)
	return map[string]side{
		"own namespace": {p, namespace, p.listen(key("web"))},
		"over the hop":  {h.peers[0], stock, h.listen(stockKey)},
	}
}

type side struct {
	decider            *proxy
	namespace, address string
}

// allow makes callers with a ServiceAccount of the client's namespace be all that are allowed.
func (s side) allow(account string) {
	s.decider.t.Helper()
	s.decider.apply(authorization(wire.Authorization{
		Namespace: s.namespace, Name: "a", Action: wire.AuthorizationAllow, Rules: []wire.AuthorizationRule{only(namespace, account)},
	}))
}

// events are a backend that sends what it is told, and tells when a client has gone.
func events(t *testing.T) (address string, send chan string, gone chan struct{}) {
	t.Helper()
	send, gone = make(chan string), make(chan struct{}, 10)
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			select {
			case event := <-send:
				_, _ = io.WriteString(w, event+"\n")
			case <-r.Context().Done():
				gone <- struct{}{}
				return
			}
		}
	}), send, gone
}

// TestStreamsEndWithTheirPermission: a stream of events goes on over every change that leaves it allowed, and ends as
// broken off with the one that does not.
func TestStreamsEndWithTheirPermission(t *testing.T) {
	backend, send, gone := events(t)
	for name, s := range sides(t, wire.ProtocolHTTP, backend) {
		for protocol, c := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2": client(t, h2c)} {
			t.Run(name+", "+protocol, func(t *testing.T) {
				s.allow("client")
				before := s.decider.metric(decisions, "weft_authorization_verdict", "denied")
				res, err := c.Do(request(t, http.MethodGet, s.address, "/", nil))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = res.Body.Close() }()
				stream := bufio.NewReader(res.Body)
				for _, event := range []string{"one", "two"} {
					send <- event
					if got, err := stream.ReadString('\n'); got != event+"\n" || err != nil {
						t.Fatalf("got %q, %v, want %s", got, err, event)
					}
					s.decider.apply(authorization(wire.Authorization{
						Namespace: s.namespace, Name: "b", Action: wire.AuthorizationDeny, Rules: []wire.AuthorizationRule{only(namespace, event)},
					}))
				}
				s.allow("other")
				if rest, err := io.ReadAll(stream); len(rest) > 0 || err == nil {
					t.Errorf("after it was denied came %q, %v, want that it breaks off", rest, err)
				}
				<-gone
				if got := s.decider.metric(decisions, "weft_authorization_verdict", "denied"); got != before+1 {
					t.Errorf("%v are counted as denied, want one more than %v", got, before)
				}
			})
		}
	}
}

// TestGRPCStreamsEndWithTheirPermission: the client is told why.
func TestGRPCStreamsEndWithTheirPermission(t *testing.T) {
	backend, _ := startGRPC(t, &grpcBackend{})
	for name, s := range sides(t, wire.ProtocolH2C, backend) {
		t.Run(name, func(t *testing.T) {
			s.allow("client")
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			stream, err := grpcClient(t, s.address).FullDuplexCall(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := stream.Send(&testpb.StreamingOutputCallRequest{}); err != nil {
					t.Fatal(err)
				}
				if _, err := stream.Recv(); err != nil {
					t.Fatal(err)
				}
				s.allow("client")
			}
			s.allow("other")
			_, err = stream.Recv()
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("the stream ended with %v", err)
			}
			if got := stream.Trailer().Get(strings.ToLower(reason.Header)); len(got) != 1 || got[0] != string(reason.AuthorizationDenied) {
				t.Errorf("reason %q", got)
			}
		})
	}
}

// TestRequestsUnderWayHaveTime: a request that an application works on is not lost to a change of policies. When its
// time is over it ends.
func TestRequestsUnderWayHaveTime(t *testing.T) {
	arrived, proceed := make(chan struct{}), make(chan struct{})
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "body" {
			t.Errorf("read: %q, %v", body, err)
		}
		if r.URL.Path == "/download" {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		select {
		case <-proceed:
			_, _ = io.WriteString(w, "whole")
		case <-r.Context().Done():
		}
	})
	for in, s := range map[string]map[string]side{
		"time to end": sides(t, wire.ProtocolHTTP, backend),
		"no time":     sides(t, wire.ProtocolHTTP, backend, func(o *Options) { o.DenialGrace = time.Millisecond }),
	} {
		for name, s := range s {
			for _, path := range []string{"/", "/download"} {
				t.Run(strings.Join([]string{in, name, path}, ", "), func(t *testing.T) {
					s.allow("client")
					type result struct {
						res  *http.Response
						body string
						err  error
					}
					answer, begun := make(chan result, 1), make(chan struct{})
					req := request(t, http.MethodPost, s.address, path, strings.NewReader("body"))
					req.Header.Set("Weft-Debug", "authorization")
					c := client(t)
					go func() {
						res, err := c.Do(req)
						if err != nil {
							answer <- result{err: err}
							return
						}
						defer func() { _ = res.Body.Close() }()
						head := make([]byte, len("begun"))
						n, _ := io.ReadFull(res.Body, head)
						close(begun)
						rest, err := io.ReadAll(res.Body)
						answer <- result{res, string(head[:n]) + string(rest), err}
					}()
					<-arrived
					if path == "/download" {
						<-begun
					}
					s.allow("other")
					if in == "time to end" {
						proceed <- struct{}{}
						got := <-answer
						if got.err != nil || got.res.StatusCode != http.StatusOK || !strings.HasSuffix(got.body, "whole") {
							t.Errorf("%+v, want the whole answer", got)
						}
						return
					}
					got := <-answer
					switch {
					case path == "/download":
						if got.body != "begun" || !errors.Is(got.err, io.ErrUnexpectedEOF) {
							t.Errorf("%+v, want that it breaks off", got)
						}
					case got.err != nil || got.res.StatusCode != http.StatusForbidden:
						t.Errorf("%+v, want 403", got)
					case got.res.Header.Get("Weft-Authorization") != "denied; policy="+s.namespace+"/a":
						t.Errorf("decided by %q", got.res.Header.Get("Weft-Authorization"))
					}
				})
			}
		}
	}
}

// TestPermissionThatComesBack: what is allowed again before its time is over goes on.
func TestPermissionThatComesBack(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	s := side{p, namespace, ""}
	s.allow("client")
	c := p.underWay(caller{backend: key("web"), request: &phttp.Request{}})
	for _, step := range []struct {
		account string
		late    bool
	}{{"client", false}, {"other", true}, {"another", true}, {"client", false}} {
		s.allow(step.account)
		p.engine.reconsider(c)
		if got := isLate(c); got != step.late {
			t.Errorf("allowed is %s, and it is to end: %v", step.account, got)
		}
	}
	if got := p.metric(decisions, "weft_authorization_verdict", "denied"); got != 1 {
		t.Errorf("%v are counted as denied, want 1", got)
	}
}

// TestStreamsOutliveTheirToken: a token is for the beginning of a request. Keys that are taken away end what they have
// begun.
func TestStreamsOutliveTheirToken(t *testing.T) {
	p := newProxy(t)
	p.apply(service("web", wire.ProtocolHTTP, named(t, "web"))...)
	signer, begun := jwttest.New("one", jose.ES256), time.Now().Add(-time.Hour)
	policy := believing(namespace, signer)
	p.apply(authorization(policy))
	token := signer.Sign(map[string]any{"iss": issuer, "aud": "shop", "scope": "read", "exp": begun.Add(time.Minute).Unix()}, nil)
	c := p.underWay(caller{backend: key("web"), since: begun, request: &phttp.Request{
		Method: http.MethodGet, Path: "/", Header: phttp.Header{{Name: "Authorization", Value: "Bearer " + token}},
	}})
	policy.Rules = append(policy.Rules, only("some", "other"))
	p.apply(authorization(policy))
	p.engine.reconsider(c)
	if isLate(c) {
		t.Error("it is to end with its token")
	}
	policy.Tokens.Issuers[0].Keys = jwttest.Set(jwttest.New("two", jose.ES256))
	p.apply(authorization(policy))
	p.engine.reconsider(c)
	if !isLate(c) {
		t.Error("it goes on without its key")
	}
}

// underWay keeps a call of the client for the test.
func (p *proxy) underWay(call caller) *connection {
	call.peer.Namespace, call.peer.ServiceAccount = namespace, "client"
	c := &connection{}
	p.engine.stand(p.engine.config.Load(), c, call, endless{p.t})
	p.t.Cleanup(func() { p.engine.leave(c) })
	return c
}

func isLate(c *connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late != nil
}

// endless has all the time in the world.
type endless struct{ t *testing.T }

func (endless) grace() time.Duration    { return time.Hour }
func (e endless) revoke(authz.Decision) { e.t.Error("it is ended") }
