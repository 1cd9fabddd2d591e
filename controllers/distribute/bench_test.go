package distribute

import (
	"fmt"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// BenchmarkPatch publishes one change and delivers it to the two proxies that it concerns, out of 500.
// The cost is that of the change, whatever else is published.
func BenchmarkPatch(b *testing.B) {
	for _, size := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("resources=%d", size), func(b *testing.B) {
			hub := NewHub(HubOptions{Layers: []Layer{LayerCompiled}})
			resources := make([]wire.Resource, size)
			for i := range resources {
				resources[i] = wire.New(fmt.Sprintf("b/s-%d:80", i), wire.ScopeMesh, wire.Origin{}, &wire.Backend{Service: "s"})
			}
			hub.Replace(LayerCompiled, resources)
			var concerned []*client
			for i := range 500 {
				identity := Identity{Kind: ClientProxy, Namespace: fmt.Sprintf("ns-%d", i/2), Pod: fmt.Sprintf("p-%d", i)}
				c := hub.join(identity, &wire.Hello{})
				d, err := hub.first(b.Context(), c)
				if err != nil {
					b.Fatal(err)
				}
				if err := hub.acknowledge(c, &wire.Ack{Seq: d.seq}); err != nil {
					b.Fatal(err)
				}
				if i < 2 {
					concerned = append(concerned, c)
				}
			}
			change := []wire.Resource{
				wire.New("ns-0/s:80", wire.ScopeNamespace("ns-0"), wire.Origin{}, &wire.Endpoints{Endpoints: []wire.Endpoint{{Zone: "a"}}}),
				wire.New("ns-0/s:80", wire.ScopeNamespace("ns-0"), wire.Origin{}, &wire.Endpoints{Endpoints: []wire.Endpoint{{Zone: "b"}}}),
			}
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				hub.Patch(LayerCompiled, change[n%2:n%2+1], nil)
				for _, c := range concerned {
					d := hub.since(c)
					if _, err := d.encode(); err != nil {
						b.Fatal(err)
					}
					if err := hub.acknowledge(c, &wire.Ack{Seq: d.seq}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
