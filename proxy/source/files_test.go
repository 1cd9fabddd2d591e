package source

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

func TestEachSetBringsTheDifferenceAsOneDelta(t *testing.T) {
	var got []wire.Delta
	bad := backend("bad", 666)
	files := &Files{Apply: func(d wire.Delta) []wire.Rejection {
		got = append(got, d)
		for _, r := range d.Upserted {
			if r.Version == bad.Version {
				return []wire.Rejection{{Ref: r.Ref, Version: r.Version, Reason: "no"}}
			}
		}
		return nil
	}}
	one, two := backend("one", 1), backend("two", 1)
	steps := []struct {
		resources    []wire.Resource
		want         wire.Delta
		wantRejected int
	}{
		{resources: []wire.Resource{one, two}, want: wire.Delta{Seq: 1, Upserted: []wire.Resource{one, two}}},
		{resources: []wire.Resource{one, two}, want: wire.Delta{Seq: 2}},
		{
			resources: []wire.Resource{backend("one", 2)},
			want:      wire.Delta{Seq: 3, Upserted: []wire.Resource{backend("one", 2)}, Removed: []wire.Ref{two.Ref}},
		},
		{
			resources: []wire.Resource{backend("one", 2), bad}, wantRejected: 1,
			want: wire.Delta{Seq: 4, Upserted: []wire.Resource{bad}},
		},
		// What was rejected is tried again.
		{
			resources: []wire.Resource{backend("one", 2), bad}, wantRejected: 1,
			want: wire.Delta{Seq: 5, Upserted: []wire.Resource{bad}},
		},
		{resources: nil, want: wire.Delta{Seq: 6, Removed: []wire.Ref{one.Ref}}},
	}
	for i, s := range steps {
		rejected := files.Set(s.resources)
		if diff := cmp.Diff(s.want, got[i]); diff != "" || len(rejected) != s.wantRejected {
			t.Errorf("step %d: %d rejected, want %d; delta (-want +got):\n%s", i, len(rejected), s.wantRejected, diff)
		}
	}
}

func TestResourcesAreReadFromFiles(t *testing.T) {
	dir := fstest.MapFS{
		"b.yaml": {Data: []byte(`
kind: Backend
key: b/two:80
scope: mesh
backend: {namespace: b, service: two, port: 80, protocol: HTTP}
---
# nothing
---
- kind: Endpoints
  key: b/two:80
  scope: namespace/b
  endpoints: {endpoints: [{address: "10.0.0.1:8080", zone: z1}]}
`)},
		"a.json":    {Data: []byte(`[{"kind":"Mesh","key":"mesh","scope":"mesh","version":"ignored","mesh":{"trustDomain":"cluster.local","trustBundle":"","maxConnectionAge":"1m0s"}}]`)},
		"README.md": {Data: []byte("kind: nonsense")},
		"sub/c.yml": {Data: []byte("kind: nonsense")},
	}
	got, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []wire.Ref{{Kind: wire.KindMesh, Key: "mesh"}, {Kind: wire.KindBackend, Key: "b/two:80"}, {Kind: wire.KindEndpoints, Key: "b/two:80"}}
	var refs []wire.Ref
	for _, r := range got {
		refs = append(refs, r.Ref)
	}
	if diff := cmp.Diff(want, refs); diff != "" {
		t.Fatalf("resources (-want +got):\n%s", diff)
	}
	backend := &wire.Backend{Namespace: "b", Service: "two", Port: 80, Protocol: wire.ProtocolHTTP}
	if diff := cmp.Diff(wire.New("b/two:80", wire.ScopeMesh, wire.Origin{}, backend), got[1]); diff != "" {
		t.Errorf("backend (-want +got):\n%s", diff)
	}
	if got[0].Version == "ignored" {
		t.Error("the version of the file was believed, want that of the content")
	}
}

func TestFilesThatCannotBeReadChangeNothing(t *testing.T) {
	tests := map[string]struct{ data, wantErr string }{
		"no YAML":       {data: "{", wantErr: "x.yaml"},
		"unknown field": {data: "{kind: Backend, key: k, backend: {prot: 80}}", wantErr: `unknown field "prot"`},
		"unknown kind":  {data: "{kind: Novelty, key: k}", wantErr: `unknown kind "Novelty"`},
		"no content":    {data: "{kind: Backend, key: k}", wantErr: "has no content"},
		"no resource":   {data: "hello", wantErr: "x.yaml"},
		"twice":         {data: "[{kind: Backend, key: k, backend: {}}, {kind: Backend, key: k, backend: {}}]", wantErr: "Backend/k is in x.yaml and in x.yaml"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(tc.data), 0o600); err != nil {
				t.Fatal(err)
			}
			files := &Files{Apply: func(wire.Delta) []wire.Rejection {
				t.Error("something was applied")
				return nil
			}}
			if _, err := files.Load(dir); err == nil || !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("error %v, want %q", err, tc.wantErr)
			}
		})
	}
}
