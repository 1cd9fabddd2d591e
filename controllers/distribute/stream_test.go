package distribute_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func newHub(layers ...distribute.Layer) *distribute.Hub {
	return distribute.NewHub(distribute.HubOptions{Layers: layers})
}

func TestPublicationReachesClientAndIsAcknowledged(t *testing.T) {
	hub := newHub(distribute.LayerCompiled)
	m := newMesh(t, hub, nil)
	r := backend(wire.ScopeMesh, "b/one:80", 1)
	hub.Replace(distribute.LayerCompiled, []wire.Resource{r})

	p := m.connect("proxy/a/p1")

	m.await("the acknowledgement", func() bool {
		n, of := hub.Holds("a", heldOf(r))
		return n == 1 && of == 1
	})
	want := map[wire.Ref]string{r.Ref: r.Version}
	if diff := cmp.Diff(want, p.held()); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}
