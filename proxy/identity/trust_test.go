package identity_test

import (
	"crypto/tls"
	"testing"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/identity/identitytest"
	"weft.dev/weft/proxy/wire"
)

func TestTrustChangeAppliesToNewConnections(t *testing.T) {
	before, after := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	callee := newStore(t, "bank", before.Mesh(), before.IssueProxy(t, "bank"))
	server := callee.ServerConfig()
	client := rawConfig(t, before.Issue(t, "shop", "cart"))
	if _, _, err := handshake(t, client, server); err != nil {
		t.Fatalf("before: %v", err)
	}
	callee.Update(after.Mesh(), keyed(after.IssueProxy(t, "bank")))
	if _, _, err := handshake(t, client, server); err == nil {
		t.Error("a certificate of a root that is no longer trusted was accepted")
	}
}

// An exchange of the root as the operator makes it: at each step both proxies hold what they have
// acknowledged, in either order.
func TestProxiesTalkAtEachStepOfAnExchangeOfTheRoot(t *testing.T) {
	before, after := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	type view struct {
		mesh *wire.Mesh
		ca   *identitytest.CA
	}
	steps := []view{{before.Mesh(), before}, {before.Mesh(after), before}, {before.Mesh(after), after}, {after.Mesh(), after}}
	caller, callee := newStore(t, "shop", nil), newStore(t, "bank", nil)
	update := func(store *identity.Store, certificate *wire.Certificate, mesh *wire.Mesh) {
		t.Helper()
		if rejected := store.Update(mesh, keyed(certificate)); len(rejected) > 0 {
			t.Fatalf("rejected %v", rejected)
		}
	}
	talk := func(step int, who string) {
		t.Helper()
		if _, clientErr, serverErr := handshake(t, clientConfig(t, caller, "cart", "bank"), callee.ServerConfig()); clientErr != nil || serverErr != nil {
			t.Errorf("step %d, %s first: client %v, server %v", step, who, clientErr, serverErr)
		}
	}
	for n, step := range steps {
		moves := map[string]func(){
			"caller": func() { update(caller, step.ca.Issue(t, "shop", "cart"), step.mesh) },
			"callee": func() { update(callee, step.ca.IssueProxy(t, "bank"), step.mesh) },
		}
		for _, first := range []string{"caller", "callee"} {
			if n == 0 {
				moves["caller"]()
				moves["callee"]()
			} else {
				previous := steps[n-1]
				update(caller, previous.ca.Issue(t, "shop", "cart"), previous.mesh)
				update(callee, previous.ca.IssueProxy(t, "bank"), previous.mesh)
				moves[first]()
			}
			talk(n, first)
		}
		moves["caller"]()
		moves["callee"]()
		talk(n, "both")
	}
}

// A client that keeps whatever tickets it is given, and a certificate of the old root, gets in while that
// is trusted and never again once it is dropped.
func TestADroppedRootIsRefusedWithAResumedSessionToo(t *testing.T) {
	before, after := identitytest.NewCA(t, "cluster.local"), identitytest.NewCA(t, "cluster.local")
	callee := newStore(t, "bank", after.Mesh(before), after.IssueProxy(t, "bank"))
	client := rawConfig(t, before.Issue(t, "shop", "cart"))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	server := callee.ServerConfig()
	for range 2 {
		if seen, clientErr, serverErr := handshake(t, client, server); clientErr != nil || serverErr != nil || seen.DidResume {
			t.Fatalf("while the root is trusted: client %v, server %v, resumed %v", clientErr, serverErr, seen.DidResume)
		}
	}
	callee.Update(after.Mesh(), keyed(after.IssueProxy(t, "bank")))
	for range 2 {
		if seen, _, err := handshake(t, client, server); err == nil {
			t.Errorf("the dropped root's certificate was accepted (resumed: %v)", seen.DidResume)
		}
	}

	// The other way round: no client goes on with a server of the old root.
	caller := newStore(t, "shop", after.Mesh(before), after.Issue(t, "shop", "cart"))
	old := newStore(t, "bank", after.Mesh(before), before.IssueProxy(t, "bank"))
	if _, clientErr, serverErr := handshake(t, clientConfig(t, caller, "cart", "bank"), old.ServerConfig()); clientErr != nil || serverErr != nil {
		t.Fatalf("while the root is trusted: client %v, server %v", clientErr, serverErr)
	}
	caller.Update(after.Mesh(), keyed(after.Issue(t, "shop", "cart")))
	if _, err, _ := handshake(t, clientConfig(t, caller, "cart", "bank"), old.ServerConfig()); err == nil {
		t.Error("a server of the dropped root was accepted")
	}
}
