package telemetry

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDecisionsAreCounted(t *testing.T) {
	m := New(0)
	m.Decided(Decision{Destination: "shop/web:80", Verdict: "denied", Policy: "shop/a", Rule: 2})
	m.Decided(Decision{Destination: "shop/web:80", Verdict: "denied", Policy: "shop/a", Rule: 2})
	m.Decided(Decision{Destination: "shop/web:80", Verdict: "allowed", Rule: -1})
	want := map[string]string{
		`weft_authorization_decisions_total{mesh_dst_namespace="shop",mesh_dst_port="80",mesh_dst_service="web",policy="shop/a",rule="2",verdict="denied"`: "2",
		`weft_authorization_decisions_total{mesh_dst_namespace="shop",mesh_dst_port="80",mesh_dst_service="web",policy="",rule="",verdict="allowed"`:       "1",
	}
	if diff := cmp.Diff(want, scrape(t, m, "weft_authorization")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.ForgetDecisions(func(d Decision) bool { return d.Policy == "shop/a" })
	delete(want, `weft_authorization_decisions_total{mesh_dst_namespace="shop",mesh_dst_port="80",mesh_dst_service="web",policy="shop/a",rule="2",verdict="denied"`)
	if diff := cmp.Diff(want, scrape(t, m, "weft_authorization")); diff != "" {
		t.Errorf("after the policy has gone (-want +got):\n%s", diff)
	}
}

// TestDecisionsAreBounded: what the limit does not admit is counted together, by verdict.
func TestDecisionsAreBounded(t *testing.T) {
	m := New(10)
	for i := range 100 {
		m.Decided(Decision{Destination: fmt.Sprintf("shop/s%d:80", i), Verdict: "denied", Policy: "shop/a"})
	}
	got := scrape(t, m, "weft_authorization")
	const rest = `weft_authorization_decisions_total{mesh_dst_namespace="",mesh_dst_port="",mesh_dst_service="_other",policy="_other",rule="",verdict="denied"`
	if len(got) != 11 || got[rest] != "90" {
		t.Errorf("%d series, and %s others", len(got), got[rest])
	}
	m.ForgetDecisions(func(Decision) bool { return true })
	m.Decided(Decision{Destination: "shop/late:80", Verdict: "allowed"})
	if got := scrape(t, m, "weft_authorization"); len(got) != 2 {
		t.Errorf("there is no room after others were forgotten: %v", got)
	}
}
