package engine

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// percentile makes an Options.Random of which each number stands for so many percent of what it draws.
func percentile(percents ...uint64) func() uint64 {
	next := 0
	return func() uint64 {
		p := percents[next%len(percents)]
		next++
		return (1<<64-1)/100*p + 100
	}
}

func faulty(f *wire.Fault) *wire.Policy { return &wire.Policy{Fault: f} }

func TestFaults(t *testing.T) {
	abort := &wire.FaultAbort{Status: 418, Percent: 30}
	delay := &wire.FaultDelay{Duration: wire.Duration(time.Millisecond), Percent: 10}
	tests := map[string]struct {
		fault *wire.Fault
		// random are the draws, in percent.
		random     []uint64
		header     http.Header
		wantStatus int
		wantReason reason.Reason
		// wantFaults are the metrics.
		wantFaults map[string]float64
	}{
		"the first percent are aborted": {
			fault: &wire.Fault{Abort: abort}, random: []uint64{29},
			wantStatus: 418, wantReason: reason.FaultInjected, wantFaults: map[string]float64{"kind=abort": 1},
		},
		"the others are not": {fault: &wire.Fault{Abort: abort}, random: []uint64{30}, wantStatus: 200},
		"a delay passes": {
			fault: &wire.Fault{Delay: delay}, random: []uint64{9}, wantStatus: 200, wantFaults: map[string]float64{"kind=delay": 1},
		},
		"both are drawn apart": {
			fault: &wire.Fault{Delay: delay, Abort: abort}, random: []uint64{9, 9},
			wantStatus: 418, wantReason: reason.FaultInjected, wantFaults: map[string]float64{"kind=abort": 1, "kind=delay": 1},
		},
		"one of both": {
			fault: &wire.Fault{Delay: delay, Abort: abort}, random: []uint64{20, 20},
			wantStatus: 418, wantReason: reason.FaultInjected, wantFaults: map[string]float64{"kind=abort": 1},
		},
		"an answer without a body": {
			fault: &wire.Fault{Abort: &wire.FaultAbort{Status: 204, Percent: 100}}, random: []uint64{99},
			wantStatus: 204, wantReason: reason.FaultInjected, wantFaults: map[string]float64{"kind=abort": 1},
		},
		"nothing of none": {fault: &wire.Fault{Abort: &wire.FaultAbort{Status: 418}}, random: []uint64{0}, wantStatus: 200},
		"with all of the headers": {
			fault: &wire.Fault{Abort: abort, Headers: []wire.NamedMatch{
				{Name: "X-Chaos", Type: wire.MatchExact, Value: "yes"}, {Name: "X-User", Type: wire.MatchRegex, Value: "test-.*"},
			}},
			header: http.Header{"X-Chaos": {"yes"}, "X-User": {"test-1"}}, random: []uint64{0},
			wantStatus: 418, wantReason: reason.FaultInjected, wantFaults: map[string]float64{"kind=abort": 1},
		},
		"without one of the headers": {
			fault: &wire.Fault{Abort: abort, Headers: []wire.NamedMatch{
				{Name: "X-Chaos", Type: wire.MatchExact, Value: "yes"}, {Name: "X-User", Type: wire.MatchRegex, Value: "test-.*"},
			}},
			header: http.Header{"X-Chaos": {"yes"}, "X-User": {"ann"}}, random: []uint64{0}, wantStatus: 200,
		},
	}
	for name, tc := range tests {
		for place, resources := range map[string]func(p *wire.Policy) []wire.Resource{
			"Service": func(p *wire.Policy) []wire.Resource {
				return []wire.Resource{resource(key("cart"), &wire.Destination{
					Namespace: namespace, Service: "cart", Port: 80, Protocol: wire.ProtocolHTTP, Policy: p,
				})}
			},
			"rule": func(p *wire.Policy) []wire.Resource {
				return []wire.Resource{route("r", "cart", func(r *wire.Route) {
					r.Backends, r.Policy = to("cart"), p
					// What the client sends decides, not what becomes of it.
					r.Filters = []wire.Filter{{RequestHeaders: &wire.HeaderModifier{Remove: []string{"X-Chaos"}}}}
				})}
			},
		} {
			t.Run(name+"/"+place, func(t *testing.T) {
				draw := percentile(tc.random...)
				skip := 0
				if place == "rule" {
					// The filters draw first.
					skip = 1
				}
				p := newProxy(t, func(o *Options) {
					o.Random = func() uint64 {
						if skip > 0 {
							skip--
							return 0
						}
						return draw()
					}
				})
				p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
				p.apply(resources(faulty(tc.fault))...)
				req := request(t, http.MethodGet, p.listen(key("cart")), "/", nil)
				req.Header = tc.header
				got := do(t, client(t), req)
				if got.status != tc.wantStatus || got.reason() != string(tc.wantReason) {
					t.Errorf("answer = %v, want %d %s", got, tc.wantStatus, tc.wantReason)
				}
				if diff := cmp.Diff(tc.wantFaults, metrics(t, p.engine, "weft_faults_injected_total")); diff != "" && len(tc.wantFaults) > 0 {
					t.Errorf("faults (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestFaultsOfGRPC(t *testing.T) {
	p := newProxy(t)
	address, _ := startGRPC(t, &grpcBackend{name: "cart"})
	p.apply(service("cart", wire.ProtocolH2C, address)...)
	c := grpcClient(t, p.listen(key("cart")))
	for given, want := range map[string]codes.Code{"DATA_LOSS": codes.DataLoss, "": codes.Unavailable} {
		p.apply(resource(key("cart"), &wire.Destination{
			Namespace: namespace, Service: "cart", Port: 80, Protocol: wire.ProtocolH2C,
			Policy: faulty(&wire.Fault{Abort: &wire.FaultAbort{Status: 503, GRPCStatus: given, Percent: 100}}),
		}))
		if _, err := c.UnaryCall(t.Context(), &testpb.SimpleRequest{}); status.Code(err) != want {
			t.Errorf("call with %q = %v, want %s", given, err, want)
		}
	}
}

func TestDelaysHoldAgainstTheDeadline(t *testing.T) {
	p := newProxy(t)
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	policy := timeouts(10*time.Millisecond, 0)
	policy.Fault = &wire.Fault{Delay: &wire.FaultDelay{Duration: wire.Duration(time.Hour), Percent: 100}}
	p.apply(route("r", "cart", func(r *wire.Route) { r.Backends, r.Policy = to("cart"), policy }))
	got := get(t, p.listen(key("cart")), "/")
	if got.status != http.StatusGatewayTimeout || got.reason() != string(reason.DeadlineExceeded) {
		t.Errorf("answer = %v, want that the deadline has passed", got)
	}
}

// TestDelaysEndWithTheirClient lets Shutdown tell that nothing waits any more.
func TestDelaysEndWithTheirClient(t *testing.T) {
	drawn := make(chan struct{}, 1)
	p := newProxy(t, func(o *Options) {
		o.Random = func() uint64 {
			drawn <- struct{}{}
			return 0
		}
	})
	p.apply(service("cart", wire.ProtocolHTTP, named(t, "cart"))...)
	p.apply(resource(key("cart"), &wire.Destination{
		Namespace: namespace, Service: "cart", Port: 80, Protocol: wire.ProtocolHTTP,
		Policy: faulty(&wire.Fault{Delay: &wire.FaultDelay{Duration: wire.Duration(time.Hour), Percent: 100}}),
	}))
	c, _ := raw(t, p.listen(key("cart")), lines("GET / HTTP/1.1", "Host: cart"))
	<-drawn
	_ = c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.engine.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v, want that the delay has ended", err)
	}
}
