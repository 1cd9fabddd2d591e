package distribute

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"weft.dev/weft/proxy/wire"
)

func TestReplacedClientIsNotServedWhenTheHubBecomesReady(t *testing.T) {
	h := NewHub(HubOptions{NodeLayers: []Layer{LayerCapture}})
	identity := Identity{Kind: ClientNode, Node: "n1", Pod: "agent"}
	older, newer := h.join(identity, &wire.Hello{}), h.join(identity, &wire.Hello{})
	h.Replace(LayerCapture, []wire.Resource{wire.New("a", wire.ScopeNodes, wire.Origin{}, &wire.Capture{})})
	if d, err := h.first(t.Context(), older); !errors.Is(err, errReplaced) {
		t.Errorf("the older stream gets %+v and error %v, want that it was replaced", d, err)
	}
	if d, err := h.first(t.Context(), newer); err != nil || len(d.upserted) != 1 {
		t.Errorf("the newer stream gets %+v and error %v, want the capture", d, err)
	}
}

func TestClientThatNeverSaysHelloIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conversation{
			session:  &session{Server: Server{Hub: NewHub(HubOptions{})}},
			identity: Identity{Kind: ClientProxy, Namespace: "a"}, joined: make(chan *client),
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*helloTimeout)
		defer cancel()
		if err := c.send(ctx, func(error) {}); !errors.Is(err, errNoHello) {
			t.Errorf("error %v, want that there was no Hello", err)
		}
	})
}
