package controllers

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/proxy/wire"
)

func destination(key string, number uint16) wire.Resource {
	namespace, _, _ := strings.Cut(key, "/")
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, &wire.Destination{Namespace: namespace, Number: number})
}

func backend(key string) wire.Resource {
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, &wire.Backend{})
}

func endpoints(key string) wire.Resource {
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, &wire.Endpoints{})
}

func route(key string, destinations []string, backends ...string) wire.Resource {
	r := &wire.Route{Destinations: destinations}
	for _, b := range backends {
		r.Backends = append(r.Backends, wire.WeightedBackend{Backend: b, Weight: 1})
	}
	return wire.New(key, wire.ScopeMesh, wire.Origin{}, r)
}

func TestRetire(t *testing.T) {
	cases := map[string]struct {
		before, next []wire.Resource
		want         []string
	}{
		"nothing is gone": {
			before: []wire.Resource{destination("a/web:80", 20000), backend("a/web:80")},
			next:   []wire.Resource{destination("a/web:80", 20000), backend("a/web:80")},
		},
		"a destination stays with its backend and endpoints": {
			before: []wire.Resource{destination("a/web:80", 20000), backend("a/web:80"), endpoints("a/web:80")},
			want:   []string{"Backend/a/web:80", "Destination/a/web:80", "Endpoints/a/web:80"},
		},
		"a destination that nobody captured goes at once": {
			before: []wire.Resource{destination("a/web:80", 0), backend("a/web:80")},
		},
		"its routes stay with their backends": {
			before: []wire.Resource{destination("a/web:80", 20000), route("r/0", []string{"a/web:80"}, "a/web-v2:80"), backend("a/web-v2:80")},
			want:   []string{"Backend/a/web-v2:80", "Destination/a/web:80", "Route/r/0"},
		},
		"what is replaced is not kept": {
			before: []wire.Resource{destination("a/web:80", 20000), route("r/0", []string{"a/web:80", "a/api:80"}, "a/api:80"), backend("a/api:80")},
			next:   []wire.Resource{route("r/0", []string{"a/api:80"}, "a/api:80"), backend("a/api:80")},
			want:   []string{"Destination/a/web:80"},
		},
		"a backend that no retired destination uses goes at once": {
			before: []wire.Resource{destination("a/web:80", 20000), backend("b/other:80")},
			want:   []string{"Destination/a/web:80"},
		},
		"a deleted route of a destination that stays goes at once": {
			before: []wire.Resource{destination("a/web:80", 20000), route("r/0", []string{"a/web:80"}, "a/v2:80"), backend("a/v2:80")},
			next:   []wire.Resource{destination("a/web:80", 20000)},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			gone := map[wire.Ref]*wire.Resource{}
			for _, r := range tc.before {
				gone[r.Ref] = &r
			}
			for _, r := range tc.next {
				delete(gone, r.Ref)
			}
			kept := retire(gone)
			var got []string
			for ref := range maps.Keys(kept) {
				got = append(got, ref.String())
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("retired (-want +got):\n%s", diff)
			}
			if again := retire(kept); len(again) != len(kept) {
				t.Errorf("what was retired once (%d) is kept by the next pass, got %d", len(kept), len(again))
			}
		})
	}
}
