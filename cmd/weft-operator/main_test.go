package main

import (
	"slices"
	"strings"
	"testing"

	"weft.dev/weft/proxy/engine"
)

func TestFlagsAreJudgedAtTheStart(t *testing.T) {
	for name, tc := range map[string]struct {
		flags flags
		want  string
	}{
		"no address of the pod":       {flags{}, "--pod-addresses is empty"},
		"an address that is none":     {flags{podAddresses: "10.0.0.1,here"}, "--pod-addresses: "},
		"an engine that no proxy has": {flags{podAddresses: "10.0.0.1", proxyHTTPEngine: "nginx"}, `--proxy-http-engine "nginx" is none`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(&tc.flags); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("error %v, want %s", err, tc.want)
			}
		})
	}
}

// The operator cannot import the proxy, so that it has names of its own for what the proxy takes.
func TestEnginesAreThoseOfTheProxy(t *testing.T) {
	for _, name := range engines[1:] {
		var e engine.HTTPEngine
		if err := e.UnmarshalText([]byte(name)); err != nil {
			t.Errorf("the proxy does not take %s: %v", name, err)
		}
	}
	for _, e := range []engine.HTTPEngine{engine.HTTPStd, engine.HTTPWeft} {
		if !slices.Contains(engines, string(e)) {
			t.Errorf("the operator does not take %s", e)
		}
	}
}
