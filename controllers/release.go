package controllers

import (
	"maps"
	"slices"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// releases is what is known of proxies of earlier releases.
type releases struct {
	// older are those that are connected, with their revisions; needed is the revision of a proxy that enforces the
	// authorizations of its namespace.
	older  map[distribute.Pod]int
	needed map[string]int
}

// lookAtReleases finds out which proxies are of an earlier release. Statuses depend on it.
func (w *World) lookAtReleases() {
	older := w.Hub.Older()
	changed := !maps.Equal(older, w.releases.older)
	w.releases.older = older
	unfit := w.releases.unfit()
	w.mu.Lock()
	w.unfit = unfit
	w.mu.Unlock()
	if changed {
		w.Status.ReleasesChanged()
	}
}

// Unfit returns the namespaces with proxies of an earlier release that do not enforce what is asked of them, sorted.
func (w *World) Unfit() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.unfit
}

// neededFor returns what the authorizations among resources need of the proxies of their namespaces.
func neededFor(resources map[wire.Ref]*wire.Resource) map[string]int {
	needed := map[string]int{}
	for ref, r := range resources {
		if ref.Kind == wire.KindAuthorization {
			needed[r.Authorization.Namespace] = max(needed[r.Authorization.Namespace], r.Needs())
		}
	}
	return needed
}

// fit tells that a proxy enforces all authorizations of its namespace. To one that does not, nobody must send: it would
// let requests pass that a policy refuses. One that is not connected has said nothing yet.
func (r *releases) fit(namespace string, p wire.Proxy) bool {
	revision, older := r.older[distribute.Pod{Namespace: namespace, Name: p.Pod}]
	return !older || revision >= r.needed[namespace]
}

// unfit returns the namespaces with proxies that do not enforce what is asked of them, sorted.
func (r *releases) unfit() []string {
	var out []string
	for pod, revision := range r.older {
		if revision < r.needed[pod.Namespace] {
			out = append(out, pod.Namespace)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
