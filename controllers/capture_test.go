package controllers

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

func TestNewLeaderCountsProxiesThatAreNotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld()
		w.Hub = distribute.NewHub(distribute.HubOptions{Layers: []distribute.Layer{distribute.LayerCompiled}})
		w.started = time.Now()
		w.ready = map[string][]wire.Proxy{"a": {{Pod: "one"}, {Pod: "two"}}, "b": nil}
		w.readyBeside = map[string][]string{"a": {"three"}}
		type counts struct {
			Opened bool
			N, M   int
		}
		look := func(namespace string) counts {
			opened := w.open()
			n, m := w.Holds(namespace, nil)
			return counts{opened, n, m}
		}
		if diff := cmp.Diff(counts{M: 3}, look("a")); diff != "" {
			t.Errorf("a namespace whose proxies are away (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(counts{}, look("b")); diff != "" {
			t.Errorf("a namespace without proxies (-want +got):\n%s", diff)
		}
		<-time.After(w.ConnectGrace)
		if diff := cmp.Diff(counts{Opened: true}, look("a")); diff != "" {
			t.Errorf("after the grace time (-want +got):\n%s", diff)
		}
	})
}
