package distribute

import (
	"bytes"
	"context"
	"testing"

	"github.com/go-logr/logr"
	"google.golang.org/grpc/mem"

	"weft.dev/weft/proxy/wire"
)

// FuzzClientMessages feeds lines to the server's side of a stream, as an authenticated client may send
// them. Whatever it says, it must not learn of a resource that it may not see, nor make the hub believe
// that it holds one.
func FuzzClientMessages(f *testing.F) {
	f.Add([]byte(`{"hello":{"held":[{"kind":"Backend","key":"b","version":"1"}],"build":"v1"}}`), false)
	f.Add([]byte(`{"hello":{}}`+"\n"+`{"ack":{"seq":2,"rejected":[{"kind":"Mesh","key":"key","version":"1","reason":"no"}]}}`), false)
	f.Add([]byte(`{"hello":{}}`+"\n"+`{"ack":{"seq":2}}`+"\n"+`{"node":{"full":true,"pods":[{"uid":"1","addresses":["10.0.0.1"],"gap":"1s"}]}}`), true)
	f.Add([]byte(`{"hello":{}}`+"\n"+`{"node":{"pods":[{"uid":"1","ended":true}],"canary":{"time":"2026-01-01T00:00:00Z"}}}`), true)
	f.Add([]byte(`{"hello":null,"ack":null}`), false)

	f.Fuzz(func(t *testing.T, lines []byte, node bool) {
		hub := NewHub(HubOptions{Layers: []Layer{LayerCompiled}})
		secret := everyKind(wire.ScopeNamespace("b"), "b", "secret", 0)
		hub.Replace(LayerCompiled, append(everyKind(wire.ScopeMesh, "a", "key", 0), secret...))
		identity := Identity{Kind: ClientProxy, Namespace: "a", Pod: "p"}
		if node {
			identity = Identity{Kind: ClientNode, Node: "n1", Pod: "p"}
		}
		c := &conversation{
			session:  &session{Server: Server{Hub: hub, Log: logr.Discard()}, metrics: NewMetrics(nil)},
			identity: identity, acked: make(chan struct{}, 1),
		}
		var joined *client
		for line := range bytes.Lines(lines) {
			var message wire.ClientMessage
			if (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(line)}, &message) != nil {
				return
			}
			if joined == nil {
				if message.Hello == nil {
					return
				}
				joined = hub.join(identity, message.Hello)
				defer hub.leave(joined)
				checkDelta(t, hub, joined)
				continue
			}
			if c.take(joined, &message) != nil {
				return
			}
			select {
			case <-c.acked:
			default:
			}
		}
		for _, r := range secret {
			if n, _ := hub.Holds("a", []wire.Held{{Ref: r.Ref, Version: r.Version}}); n != 0 {
				t.Errorf("a client of a is counted as holding %s", r.Ref)
			}
		}
	})
}

func checkDelta(t *testing.T, hub *Hub, c *client) {
	d, err := hub.first(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range d.upserted {
		if !allowed(c.identity, *p.resource) {
			t.Errorf("%s was sent %s of scope %s", c.identity, p.resource.Ref, p.resource.Scope)
		}
	}
	encoded, err := codec{}.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var message wire.ServerMessage
	if err := (codec{}).Unmarshal(encoded, &message); err != nil {
		t.Fatalf("what would be sent does not decode: %v", err)
	}
	if message.Delta.Seq != d.seq || len(message.Delta.Upserted) != len(d.upserted) || len(message.Delta.Removed) != len(d.removed) {
		t.Errorf("a delta of %d upserted and %d removed decodes as %+v", len(d.upserted), len(d.removed), message.Delta)
	}
}
