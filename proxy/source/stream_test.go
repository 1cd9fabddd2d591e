package source

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

func TestDeltasAreAppliedAndRememberedAcrossStreams(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.start()
	one, two, three := backend("one", 1), backend("two", 1), backend("three", 1)

	s := o.accept()
	if diff := cmp.Diff(map[wire.Ref]string{}, s.hello()); diff != "" {
		t.Errorf("first Hello (-want +got):\n%s", diff)
	}
	if s.token != "Bearer token-1" {
		t.Errorf("authorization is %q, want the token of the file", s.token)
	}
	s.send(wire.Delta{Seq: 1, Upserted: []wire.Resource{one, two}})
	if !p.nextConnection() || !p.Connected() {
		t.Error("not connected after the first delta")
	}
	newer := backend("one", 2)
	s.send(wire.Delta{Seq: 5, Upserted: []wire.Resource{newer, three}, Removed: []wire.Ref{two.Ref}})

	p.useToken("token-2")
	s.end(status.Error(codes.Unavailable, "fail-over"))
	if p.nextConnection() {
		t.Error("connected after the stream's end")
	}
	s = o.accept()
	want := versions(newer, three)
	if diff := cmp.Diff(want, s.hello()); diff != "" {
		t.Errorf("second Hello (-want +got):\n%s", diff)
	}
	if s.token != "Bearer token-2" {
		t.Errorf("authorization is %q, want the rotated token", s.token)
	}
	if p.Connected() {
		t.Error("connected before the first delta of the new stream")
	}
	// Another operator counts anew.
	s.send(wire.Delta{Seq: 1})
	if !p.nextConnection() {
		t.Error("not connected after the first delta of the new stream")
	}
	if diff := cmp.Diff(want, p.held()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func TestUnusableResourcesAreRejectedAndKeepTheirPreviousVersion(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	before, after := backend("one", 1), backend("one", 2)
	p.unusable[after.Version] = "port 2 is taken"
	p.start()
	s := o.accept()
	s.hello()
	s.send(wire.Delta{Seq: 1, Upserted: []wire.Resource{before}})

	unknown := wire.Resource{Ref: wire.Ref{Kind: "Novelty", Key: "x"}, Version: "1"}
	empty := wire.Resource{Ref: wire.Ref{Kind: wire.KindRoute, Key: "x"}, Version: "1"}
	nameless := wire.New("", wire.ScopeMesh, wire.Origin{}, &wire.Backend{})
	good := backend("two", 1)
	ack := s.send(wire.Delta{Seq: 2, Upserted: []wire.Resource{unknown, empty, nameless, after, good}})

	want := []wire.Rejection{
		{Ref: unknown.Ref, Version: "1", Reason: `unknown kind "Novelty"`},
		{Ref: empty.Ref, Version: "1", Reason: "Route/x has no content"},
		{Ref: nameless.Ref, Version: nameless.Version, Reason: `resource of kind "Backend" has no key`},
		{Ref: after.Ref, Version: after.Version, Reason: "port 2 is taken"},
	}
	if diff := cmp.Diff(want, ack.Rejected); diff != "" {
		t.Errorf("rejections (-want +got):\n%s", diff)
	}
	s.end(errors.New("fail-over"))
	if diff := cmp.Diff(versions(before, good), o.accept().hello()); diff != "" {
		t.Errorf("Hello of the next stream (-want +got):\n%s", diff)
	}
}

func TestOperatorThatCannotBeVerifiedGetsNeitherStreamNorToken(t *testing.T) {
	ca, stranger := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	tests := map[string]struct {
		server *identitytest.CA
		name   string
	}{
		"another root": {server: stranger, name: serverName},
		"another name": {server: ca, name: "weft-config.other.svc"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := newOperator(t, tc.server, tc.name)
			p := newPeer(t, o, ca)
			dials := make(chan struct{}, 1000)
			p.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				dials <- struct{}{}
				return (&net.Dialer{}).DialContext(ctx, network, address)
			}
			p.start()
			for range 4 {
				select {
				case <-dials:
				case s := <-o.streams:
					t.Fatalf("a stream was opened with %q", s.token)
				case <-time.After(patience):
					t.Fatal("the client does not try again")
				}
			}
			if p.Connected() || len(p.received()) > 0 {
				t.Error("connected to an operator that is not ours")
			}
		})
	}
}

func TestRotatedRootsAreReadForEachAttempt(t *testing.T) {
	ca, stranger := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, stranger)
	dialled := make(chan struct{}, 1000)
	p.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled <- struct{}{}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	p.start()
	<-dialled
	<-dialled
	p.trust(ca)
	s := o.accept()
	s.hello()
	s.send(wire.Delta{Seq: 1})
	if !p.nextConnection() {
		t.Error("not connected")
	}
}

// During an exchange of the root the operator goes over to the next one while mounted files still lag behind.
func TestRootsThatWereAcknowledgedAreTrustedBeforeTheFileHasThem(t *testing.T) {
	before, after := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	o, next := newOperator(t, before, serverName), newOperator(t, after, serverName)
	p := newPeer(t, o, before)
	p.Addresses = []string{o.address, next.address}
	p.start()
	s := o.accept()
	s.hello()
	s.send(wire.Delta{Seq: 1, Upserted: []wire.Resource{wire.New("mesh", wire.ScopeMesh, wire.Origin{}, before.Mesh(after))}})
	s.end(errors.New("the next leader takes over"))
	s = next.accept()
	s.hello()
	s.send(wire.Delta{Seq: 2, Upserted: []wire.Resource{wire.New("mesh", wire.ScopeMesh, wire.Origin{}, after.Mesh())}})
	for _, want := range []bool{true, false, true} {
		if p.nextConnection() != want {
			t.Fatalf("connected %v, want %v", !want, want)
		}
	}
}

func TestAddressesAreTriedInTurn(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.Addresses = []string{"gone:15010", "standby:15010", "leader:15010"}
	var dialled []string
	p.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled = append(dialled, address)
		if address != "leader:15010" {
			return nil, errors.New("connection refused")
		}
		return (&net.Dialer{}).DialContext(ctx, network, o.address)
	}
	p.start()
	s := o.accept()
	s.hello()
	s.send(wire.Delta{Seq: 1})
	p.nextConnection()
	p.stop()
	if diff := cmp.Diff(p.Addresses, dialled); diff != "" {
		t.Errorf("dialled (-want +got):\n%s", diff)
	}
}

func TestMessageWithoutDeltaEndsTheStream(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.start()
	s := o.accept()
	s.hello()
	if err := s.SendMsg(&wire.ServerMessage{}); err != nil {
		t.Fatal(err)
	}
	o.accept().hello()
	if len(p.received()) != 0 {
		t.Errorf("applied %+v, want nothing", p.received())
	}
}

func TestAttemptsComeFastFirstAndNeverCease(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	synctest.Test(t, func(t *testing.T) {
		var attempts []time.Time
		p := newPeer(t, &operator{address: "weft-config:15010"}, ca)
		p.MinBackoff, p.MaxBackoff = 0, 0
		p.Dial = func(context.Context, string, string) (net.Conn, error) {
			attempts = append(attempts, time.Now())
			return nil, errors.New("connection refused")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run returned %v, want the end of its context", err)
		}
		for i := range len(attempts) - 1 {
			gap := attempts[i+1].Sub(attempts[i])
			most := min(50*time.Millisecond<<min(i, 10), 5*time.Second)
			if gap < most/2 || gap > most {
				t.Errorf("attempt %d came after %v, want %v to %v", i+1, gap, most/2, most)
			}
		}
		if len(attempts) < 24 {
			t.Errorf("%d attempts in two minutes, want one every 5 s at least", len(attempts))
		}
	})
}

func TestEndOfALongStreamIsFollowedByAFastAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := identitytest.NewCA(t, "cluster.local")
		listener := newPipeListener()
		o := serveOperator(t, ca, serverName, listener)
		p := newPeer(t, o, ca)
		p.MinBackoff, p.MaxBackoff = 0, 0
		var attempts []time.Time
		p.Dial = func(context.Context, string, string) (net.Conn, error) {
			attempts = append(attempts, time.Now())
			if len(attempts) < 15 {
				return nil, errors.New("connection refused")
			}
			return listener.dial()
		}
		p.start()
		s := o.accept()
		s.hello()
		s.send(wire.Delta{Seq: 1})
		<-time.After(6 * time.Second)
		ended := time.Now()
		s.end(errors.New("fail-over"))
		o.accept().hello()
		if gap := attempts[15].Sub(ended); gap > 50*time.Millisecond {
			t.Errorf("the next attempt came after %v, want at most 50 ms", gap)
		}
		p.stop()
	})
}

func TestMissingFilesAreWaitedFor(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	for _, missing := range []string{"ca.pem", "token"} {
		t.Run(missing, func(t *testing.T) {
			o := newOperator(t, ca, serverName)
			p := newPeer(t, o, ca)
			dir := filepath.Dir(p.CAFile)
			p.CAFile, p.TokenFile = filepath.Join(dir, "later", "ca.pem"), filepath.Join(dir, "token")
			if missing == "token" {
				p.CAFile, p.TokenFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "later", "token")
			}
			problems := make(chan struct{}, 1000)
			p.Log = notifyingLog(problems)
			p.start()
			<-problems
			rename(t, filepath.Join(dir, missing), filepath.Join(dir, "later"))
			s := o.accept()
			s.hello()
			s.send(wire.Delta{Seq: 1})
			p.nextConnection()
		})
	}
}

func TestReportsAreMergedAndSentAgainOnEachStream(t *testing.T) {
	pod := func(uid string) wire.PodReport { return wire.PodReport{UID: uid, Name: "pod-" + uid} }
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.Report(wire.NodeReport{Pods: []wire.PodReport{pod("0")}})
	p.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("1"), pod("2")}})
	p.Report(wire.NodeReport{Pods: []wire.PodReport{pod("3"), {UID: "1", Ended: true}}})
	p.start()

	s := o.accept()
	s.hello()
	expect := func(want wire.NodeReport) {
		t.Helper()
		message := s.next()
		if diff := cmp.Diff(&wire.ClientMessage{Node: &want}, message, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("message (-want +got):\n%s", diff)
		}
	}
	expect(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("2"), pod("3")}})
	p.Report(wire.NodeReport{Pods: []wire.PodReport{{UID: "2", Ended: true}}})
	expect(wire.NodeReport{Pods: []wire.PodReport{{UID: "2", Ended: true}}})
	canary := &wire.CanaryReport{Captured: true}
	p.Report(wire.NodeReport{Canary: canary})
	expect(wire.NodeReport{Canary: canary})

	caller := func(uid, source string, connections uint64) wire.PlainCaller {
		return wire.PlainCaller{UID: uid, Port: 80, Source: netip.MustParseAddr(source), Connections: connections}
	}
	p.Report(wire.NodeReport{Plain: []wire.PlainCaller{caller("3", "10.0.0.2", 1), caller("3", "10.0.0.1", 1)}})
	expect(wire.NodeReport{Plain: []wire.PlainCaller{caller("3", "10.0.0.1", 1), caller("3", "10.0.0.2", 1)}})
	p.Report(wire.NodeReport{Plain: []wire.PlainCaller{caller("3", "10.0.0.2", 2)}})
	expect(wire.NodeReport{Plain: []wire.PlainCaller{caller("3", "10.0.0.2", 2)}})
	s.end(errors.New("fail-over"))
	s = o.accept()
	s.hello()
	expect(wire.NodeReport{
		Full: true, Pods: []wire.PodReport{pod("3")}, Canary: canary,
		Plain: []wire.PlainCaller{caller("3", "10.0.0.1", 1), caller("3", "10.0.0.2", 2)},
	})

	// The agent may also list all its pods again, as after a restart of the container runtime.
	p.Report(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("4")}})
	expect(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("4")}})

	p.Report(wire.NodeReport{Pods: []wire.PodReport{pod("5")}, Plain: []wire.PlainCaller{caller("4", "10.0.0.2", 1), caller("5", "10.0.0.2", 1)}})
	expect(wire.NodeReport{Pods: []wire.PodReport{pod("5")}, Plain: []wire.PlainCaller{caller("4", "10.0.0.2", 1), caller("5", "10.0.0.2", 1)}})
	p.Report(wire.NodeReport{Pods: []wire.PodReport{{UID: "5", Ended: true}}})
	expect(wire.NodeReport{Pods: []wire.PodReport{{UID: "5", Ended: true}}})
	s.end(errors.New("fail-over"))
	s = o.accept()
	s.hello()
	expect(wire.NodeReport{Full: true, Pods: []wire.PodReport{pod("4")}, Plain: []wire.PlainCaller{caller("4", "10.0.0.2", 1)}, Canary: canary})
}

func TestAgentThatKnowsNotAllPodsDoesNotClaimTo(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.Report(wire.NodeReport{Pods: []wire.PodReport{{UID: "1"}}})
	p.start()
	s := o.accept()
	s.hello()
	want := &wire.ClientMessage{Node: &wire.NodeReport{Pods: []wire.PodReport{{UID: "1"}}}}
	if diff := cmp.Diff(want, s.next()); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
}

func TestLargeDeltaArrives(t *testing.T) {
	ca := identitytest.NewCA(t, "cluster.local")
	o := newOperator(t, ca, serverName)
	p := newPeer(t, o, ca)
	p.start()
	s := o.accept()
	s.hello()
	var all []wire.Resource
	for i := range 30_000 {
		all = append(all, backend(fmt.Sprintf("service-%d", i), 1))
	}
	s.send(wire.Delta{Seq: 1, Upserted: all})
	p.nextConnection()
	if got := len(p.held()); got != len(all) {
		t.Errorf("%d resources are held, want %d", got, len(all))
	}
}
