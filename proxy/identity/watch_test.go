package identity_test

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/identity/identitytest"
)

// connected returns what a proxy of namespace bank sees of a client with the certificate of an authority.
func connected(t *testing.T, callee *identity.Store, ca *identitytest.CA) tls.ConnectionState {
	t.Helper()
	one, two := net.Pipe()
	server := tls.Server(one, callee.ServerConfig())
	client := tls.Client(two, rawConfig(t, ca.Issue(t, "shop", "cart")))
	done := make(chan error, 1)
	go func() { done <- client.HandshakeContext(t.Context()) }()
	if err := server.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = one.Close()
		_ = two.Close()
	})
	return server.ConnectionState()
}

// A connection ends when the root that its peer was trusted by is dropped, and for no other change: not for
// another root beside it, a new certificate, nor because the peer's certificate has expired meanwhile.
func TestConnectionsEndWithTheirRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
		callee := newStore(t, "bank", before.Mesh(), before.IssueProxy(t, "bank"))
		var mu sync.Mutex
		var said []string
		say := func(text string) func() {
			return func() {
				mu.Lock()
				defer mu.Unlock()
				said = append(said, text)
			}
		}
		heard := func() []string {
			mu.Lock()
			defer mu.Unlock()
			defer func() { said = nil }()
			slices.Sort(said)
			return said
		}
		watch := func(name string, ca *identitytest.CA) (release func()) {
			begin := callee.Watch()
			release, err := begin(connected(t, callee, ca), say("drain "+name), say("cut "+name))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return release
		}
		defer watch("old", before)()
		closed := watch("closed in time", before)
		defer closed()
		watch("gone", before)()
		callee.Update(before.Mesh(after), keyed(before.IssueProxy(t, "bank")))
		defer watch("new", after)()
		callee.Update(before.Mesh(after), keyed(after.IssueProxy(t, "bank")))
		<-time.After(2 * time.Hour) // the certificates last one
		callee.Update(before.Mesh(after), keyed(after.IssueProxy(t, "bank")))
		synctest.Wait()
		if got := heard(); len(got) > 0 {
			t.Fatalf("while the root is trusted: %q", got)
		}

		callee.Update(after.Mesh(), keyed(after.IssueProxy(t, "bank")))
		if got, want := heard(), []string{"drain closed in time", "drain old"}; !slices.Equal(got, want) {
			t.Fatalf("when the root was dropped: %q, want %q", got, want)
		}
		<-time.After(identity.UntrustedGrace - time.Second)
		closed()
		callee.Update(after.Mesh(), keyed(after.IssueProxy(t, "bank")))
		if got := heard(); len(got) > 0 {
			t.Fatalf("during the grace: %q", got)
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if got, want := heard(), []string{"cut old"}; !slices.Equal(got, want) {
			t.Errorf("after the grace: %q, want %q", got, want)
		}
	})
}

func TestARootThatIsDroppedDuringTheHandshake(t *testing.T) {
	before, after := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	callee := newStore(t, "bank", before.Mesh(), before.IssueProxy(t, "bank"))
	watch := callee.Watch()
	state := connected(t, callee, before)
	callee.Update(after.Mesh(), keyed(after.IssueProxy(t, "bank")))
	never := func() { t.Error("a connection that was refused is watched") }
	if _, err := watch(state, never, never); !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("error %v", err)
	}
}
