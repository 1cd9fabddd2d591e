package main

import (
	"strings"
	"testing"

	"weft.dev/weft/test/bench/cost"
)

func TestResults(t *testing.T) {
	ways := map[way]crossing{direct: {p50: 100, p99: 200}, within: {cpu: 50, p50: 150, p99: 300}, between: {cpu: 80, p50: 180, p99: 400}}
	all := results{
		{pods: 10, ways: ways, resident: 40, proportional: 30},
		{pods: 10, sidecars: true, ways: ways, one: cost.Memory{Resident: 15 * mb}},
		{pods: 50, sidecars: true, ways: ways, one: cost.Memory{Resident: 21 * mb}},
	}
	if text := all.table(); strings.Count(text, "\n") != 2+len(all) {
		t.Errorf("not a line for each:\n%s", text)
	}
	found := map[string]float64{}
	for _, f := range all.figures() {
		found[f.Name] = *f.Value
	}
	for name, want := range map[string]float64{
		"namespace, 10 pods: between namespaces, added p99":          200,
		"sidecar, 10 pods: within a namespace, CPU of all proxies":   50,
		"namespace, 10 pods: proxies of a namespace at rest, RSS":    40,
		"namespace, 10 pods: within a namespace, added p50":          50,
		"sidecar, 50 pods: between namespaces, CPU of all proxies":   80,
		"namespace, 10 pods: proxies of a namespace at rest, PSS":    30,
		"sidecar, 50 pods: proxies of a namespace at rest, CPU":      0,
		"sidecar, 10 pods: between namespaces, CPU of all proxies":   80,
		"namespace, 10 pods: between namespaces, CPU of all proxies": 80,
	} {
		if got, ok := found[name]; !ok || got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	if goal := all.goals()[0]; *goal.Value != 21 || *goal.Met {
		t.Errorf("the largest proxy: %s", goal)
	}
	if goal := all[:2].goals()[0]; !*goal.Met {
		t.Errorf("within the goal: %s", goal)
	}
	if goal := all[:1].goals()[0]; *goal.Met {
		t.Errorf("nothing was measured: %s", goal)
	}
}
