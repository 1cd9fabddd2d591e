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
		`weft_authorization_decisions_total{weft_authorization_policy="shop/a",weft_authorization_rule="2",weft_authorization_verdict="denied",weft_destination_namespace="shop",weft_destination_port="80",weft_destination_service="web"`: "2",
		`weft_authorization_decisions_total{weft_authorization_policy="",weft_authorization_rule="",weft_authorization_verdict="allowed",weft_destination_namespace="shop",weft_destination_port="80",weft_destination_service="web"`:       "1",
	}
	if diff := cmp.Diff(want, scrape(t, m, "weft_authorization")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.ForgetDecisions(func(d Decision) bool { return d.Policy == "shop/a" })
	delete(want, `weft_authorization_decisions_total{weft_authorization_policy="shop/a",weft_authorization_rule="2",weft_authorization_verdict="denied",weft_destination_namespace="shop",weft_destination_port="80",weft_destination_service="web"`)
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
	const rest = `weft_authorization_decisions_total{weft_authorization_policy="_other",weft_authorization_rule="",weft_authorization_verdict="denied",weft_destination_namespace="",weft_destination_port="",weft_destination_service="_other"`
	if len(got) != 11 || got[rest] != "90" {
		t.Errorf("%d series, and %s others", len(got), got[rest])
	}
	m.ForgetDecisions(func(Decision) bool { return true })
	m.Decided(Decision{Destination: "shop/late:80", Verdict: "allowed"})
	if got := scrape(t, m, "weft_authorization"); len(got) != 2 {
		t.Errorf("there is no room after others were forgotten: %v", got)
	}
}
