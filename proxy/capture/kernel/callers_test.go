package kernel_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
)

// Callers past the mesh are counted, each at each port, whether they are let in or not.
func TestCallersAreCounted(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		listener := l.listen(t, fmt.Sprintf(":%d", published))
		begin := time.Now()
		collect := func(n *kernel.Netns, want ...kernel.Caller) {
			t.Helper()
			got, err := n.Callers()
			must(t, err)
			for i := range got {
				if got[i].Last.Before(begin.Add(-time.Minute)) || got[i].Last.After(time.Now().Add(time.Minute)) {
					t.Errorf("last seen at %v", got[i].Last)
				}
				got[i].Last = time.Time{}
			}
			if !slices.Equal(got, want) {
				t.Errorf("callers %+v, want %+v", got, want)
			}
		}
		collect(l.server)
		l.applyToServer(t, l.guarded(false))
		l.open(t, l.addressing.client, listener)
		collect(l.server)
		for range 3 {
			l.open(t, l.foreign, listener)
		}
		collect(l.server, kernel.Caller{Port: published, Source: l.foreign, Connections: 3})
		collect(l.server)
		l.open(t, l.foreign, listener)
		l.applyToServer(t, l.guarded(true))
		l.wantRefused(t, l.foreign, published)
		l.wantRefused(t, l.foreign, published)
		collect(l.server, kernel.Caller{Port: published, Source: l.foreign, Connections: 1, Refused: 2})

		// Whoever will get in is none that calls past the mesh.
		l.applyToServer(t, l.guarded(false, single(l.foreign)))
		l.open(t, l.foreign, listener)
		collect(l.server)

		// Neither another shape of the tables nor another agent loses any.
		l.applyToServer(t, l.guarded(false))
		l.open(t, l.foreign, listener)
		l.applyToServer(t, rules.Pod{})
		collect(l.server, kernel.Caller{Port: published, Source: l.foreign, Connections: 1})
		l.applyToServer(t, l.guarded(false))
		l.open(t, l.foreign, listener)
		again := reopen(t, l.server)
		collect(again, kernel.Caller{Port: published, Source: l.foreign, Connections: 1})
		must(t, again.Apply(rules.Build(l.guarded(false), "", nil)))
		l.open(t, l.foreign, listener)
		l.open(t, l.foreign, listener)
		collect(again, kernel.Caller{Port: published, Source: l.foreign, Connections: 2})
	})
}

// The room for callers is bounded; those that have none are counted together.
func TestCallersWithoutRoom(t *testing.T) {
	eachFamily(t, func(t *testing.T, l *lab) {
		const many = 300
		l.listen(t, fmt.Sprintf(":%d", published))
		sources := l.moreAddresses(t, many)
		for _, strict := range []bool{false, true} {
			l.applyToServer(t, l.guarded(strict))
			for _, source := range sources {
				conn, err := l.dial(source, netip.AddrPortFrom(l.proxy, published))
				if err == nil {
					_ = conn.Close()
				}
				if (err != nil) != strict {
					t.Fatalf("%v: error %v, strict %v", source, err, strict)
				}
			}
			callers, err := l.server.Callers()
			must(t, err)
			var own, rest uint64
			for _, c := range callers {
				if c.Source.IsValid() {
					own += c.Connections + c.Refused
				} else {
					rest += c.Connections + c.Refused
				}
			}
			if own != 256 || rest != many-256 {
				t.Errorf("strict %v: %d counted with an address and %d without, want 256 and %d", strict, own, rest, many-256)
			}
		}
	})
}
