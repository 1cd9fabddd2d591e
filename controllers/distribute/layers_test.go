package distribute

import (
	"testing"

	"weft.dev/weft/proxy/wire"
)

func TestProxiesDoNotWaitForWhatNodesNeed(t *testing.T) {
	h := NewHub(HubOptions{Layers: []Layer{LayerCompiled, LayerProxies}, NodeLayers: []Layer{LayerCapture}})
	open := func(kind ClientKind) bool {
		select {
		case <-h.complete[kind]:
			return true
		default:
			return false
		}
	}
	steps := []struct {
		layer                Layer
		wantProxy, wantNodes bool
	}{
		{LayerCompiled, false, false},
		{LayerProxies, true, false},
		{LayerCapture, true, true},
		{LayerCapture, true, true},
	}
	for _, s := range steps {
		h.Replace(s.layer, []wire.Resource{})
		if open(ClientProxy) != s.wantProxy || open(ClientNode) != s.wantNodes {
			t.Errorf("after %s: proxies served %t, nodes served %t; want %t, %t",
				s.layer, open(ClientProxy), open(ClientNode), s.wantProxy, s.wantNodes)
		}
	}
}
