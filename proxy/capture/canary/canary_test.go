// The tests of this package need root: the canary makes network namespaces. They have no names and
// end with the test process.
package canary

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the tests of proxy/capture/canary make network namespaces and need root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	type facts struct{ captured, guarded, strict bool }
	tests := map[string]struct {
		service  netip.AddrPort
		sabotage func(*Canary)
		want     facts
		reason   string
	}{
		"everything works":               {want: facts{true, true, true}},
		"a Service of the cluster":       {service: netip.MustParseAddrPort("10.96.0.1:443"), want: facts{true, true, true}},
		"an IPv6 Service of the cluster": {service: netip.MustParseAddrPort("[fd00:96::1]:443"), want: facts{true, true, true}},
		"no guard": {
			sabotage: func(c *Canary) { c.guard = func(*kernel.Netns, []netip.Addr) error { return nil } },
			want:     facts{true, false, true},
			reason:   `frames with a forged source left: ["forged" "disguised" "tagged" "claimed"]`,
		},
		"a guard that knows another address": {
			sabotage: func(c *Canary) {
				c.guard = func(n *kernel.Netns, own []netip.Addr) error { return n.Guard(append(own, c.families[0].forged)) }
			},
			want:   facts{true, false, true},
			reason: `frames with a forged source left: ["forged"`,
		},
		"no capture": {
			sabotage: change(func(tables *rules.Tables) { tables.IPv4.Proxies, tables.IPv6.Proxies = nil, nil }),
			want:     facts{false, true, true},
			reason:   "capture over IPv4",
		},
		"another number": {
			sabotage: change(func(tables *rules.Tables) {
				for destination := range tables.IPv6.Ports {
					tables.IPv6.Ports[destination] = number + 1
				}
			}),
			want:   facts{false, true, true},
			reason: "capture over IPv6: the connection arrived with number",
		},
		"no strict filter": {
			sabotage: inbound(func(in *rules.Inbound) { in.Counted, in.Strict = append(in.Counted, in.Strict...), nil }),
			want:     facts{true, true, false},
			reason:   "strict over IPv4: a foreign caller was let in",
		},
		"a filter that refuses everybody": {
			sabotage: inbound(func(in *rules.Inbound) { in.Admitted = nil }),
			want:     facts{true, true, false},
			reason:   "strict over IPv4: an admitted caller",
		},
		"a filter that leaves alone what is open": {
			sabotage: inbound(func(in *rules.Inbound) { in.Closed, in.Strict = len(in.Strict) > 0, nil }),
			want:     facts{true, true, false},
			reason:   "strict over IPv4: the connection that a foreign caller had opened before was not reset",
		},
		"nobody is counted": {
			sabotage: inbound(func(in *rules.Inbound) { in.Counted = nil }),
			want:     facts{true, true, false},
			reason:   "permissive over IPv4: a foreign caller was not counted",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := New(tc.service)
			if tc.sabotage != nil {
				tc.sabotage(c)
			}
			report := c.Run(t.Context())
			got := facts{report.Captured, report.Guarded, report.StrictEnforced}
			if got != tc.want {
				t.Errorf("proven %+v, want %+v; reason %q", got, tc.want, report.Reason)
			}
			if (tc.reason == "") != (report.Reason == "") || !strings.Contains(report.Reason, tc.reason) {
				t.Errorf("reason %q, want %q in it", report.Reason, tc.reason)
			}
			if report.Time.IsZero() {
				t.Error("the report has no time")
			}
		})
	}
}

// change alters tables before they are put in force.
func change(alter func(*rules.Tables)) func(*Canary) {
	return func(c *Canary) {
		c.apply = func(n *kernel.Netns, tables rules.Tables) error {
			alter(&tables)
			return n.Apply(tables)
		}
	}
}

// inbound alters what is for callers.
func inbound(alter func(*rules.Inbound)) func(*Canary) {
	return change(func(tables *rules.Tables) {
		for _, in := range []*rules.Inbound{tables.IPv4.Inbound, tables.IPv6.Inbound} {
			if in != nil {
				alter(in)
			}
		}
	})
}
