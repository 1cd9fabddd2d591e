package distribute

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func TestOutdated(t *testing.T) {
	h := NewHub(HubOptions{Layers: []Layer{LayerCompiled}})
	join := func(kind ClientKind, namespace, pod string, revision int) {
		h.join(Identity{Kind: kind, Namespace: namespace, Pod: pod, Node: pod}, &wire.Hello{Revision: revision})
	}
	join(ClientProxy, "shop", "old", 0)
	join(ClientProxy, "shop", "new", wire.Revision)
	join(ClientProxy, "bank", "newer", wire.Revision+1)
	join(ClientNode, "weft-system", "agent", 0)
	plain := wire.New("plain", wire.ScopeMesh, wire.Origin{}, &wire.Destination{Service: "web"})
	policy := wire.New("policy", wire.ScopeMesh, wire.Origin{}, &wire.Destination{Service: "web", Policy: &wire.Policy{}})
	h.Replace(LayerCompiled, []wire.Resource{plain, policy})
	of := func(r wire.Resource) wire.Held { return wire.Held{Ref: r.Ref, Version: r.Version} }
	for name, tc := range map[string]struct {
		namespace string
		held      []wire.Held
		want      int
	}{
		"everybody does what there is to do":     {"shop", []wire.Held{of(plain)}, 0},
		"one does not":                           {"shop", []wire.Held{of(plain), of(policy)}, 1},
		"there are none of an earlier release":   {"bank", []wire.Held{of(policy)}, 0},
		"there are none":                         {"till", []wire.Held{of(policy)}, 0},
		"what is not published asks for nothing": {"shop", []wire.Held{{Ref: wire.Ref{Kind: wire.KindRoute, Key: "gone"}}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := h.Outdated(tc.namespace, tc.held); got != tc.want {
				t.Errorf("%d proxies, want %d", got, tc.want)
			}
		})
	}
	if diff := cmp.Diff(map[Pod]int{{"shop", "old"}: 0}, h.Older()); diff != "" {
		t.Errorf("older proxies (-want +got):\n%s", diff)
	}
}
