package controllers

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// TestProxiesThatDoNotKnowAuthorizations: nobody sends to a proxy that would let pass what a policy refuses.
func TestProxiesThatDoNotKnowAuthorizations(t *testing.T) {
	published := map[wire.Ref]*wire.Resource{}
	for _, r := range []wire.Resource{
		wire.New("shop/who", wire.ScopeNamespace("shop"), wire.Origin{}, &wire.Authorization{Namespace: "shop", Name: "who"}),
		wire.New("bank/web:80", wire.ScopeMesh, wire.Origin{}, &wire.Destination{Namespace: "bank", Policy: &wire.Policy{}}),
	} {
		published[r.Ref] = &r
	}
	w := NewWorld()
	w.proxies = map[string][]wire.Proxy{
		"shop": {{Pod: "new"}, {Pod: "old"}, {Pod: "silent"}},
		"bank": {{Pod: "old"}},
	}
	w.releases = releases{
		needed: neededFor(published),
		older:  map[distribute.Pod]int{{Namespace: "shop", Name: "old"}: 0, {Namespace: "bank", Name: "old"}: 0},
	}
	want := map[string][]wire.Proxy{"shop": {{Pod: "new"}, {Pod: "silent"}}, "bank": {{Pod: "old"}}}
	if diff := cmp.Diff(want, w.usable(), cmp.Comparer(sameProxy)); diff != "" {
		t.Errorf("usable proxies (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"shop"}, w.releases.unfit()); diff != "" {
		t.Errorf("unfit namespaces (-want +got):\n%s", diff)
	}
}
