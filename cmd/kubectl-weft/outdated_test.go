package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPodsToRestart(t *testing.T) {
	shared := func(namespace, build string) proxyStatus {
		return proxyStatus{Namespace: namespace, Pod: "proxy", Build: build}
	}
	beside := func(namespace, pod, build string) proxyStatus {
		return proxyStatus{Namespace: namespace, Pod: pod, Build: build, Sidecar: true}
	}
	got := outdated([]proxyStatus{
		shared("shop", "v2"), shared("shop", ""), beside("shop", "old", "v1"), beside("shop", "new", "v2"), beside("shop", "unknown", ""),
		// While the shared ones are being replaced nobody can tell which version is to stay.
		shared("bank", "v1"), shared("bank", "v2"), beside("bank", "old", "v1"),
		beside("alone", "old", "v1"),
	})
	want := []string{"shop/old: restart it, or what it belongs to, for its proxy to be of version v2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
