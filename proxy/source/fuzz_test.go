package source

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"

	"weft.dev/weft/proxy/wire"
)

// FuzzServerMessage feeds the client what a server may send. Whatever that is, only resources that are
// valid reach Apply, and what the client says it holds is what was applied.
func FuzzServerMessage(f *testing.F) {
	full, err := json.Marshal(&wire.ServerMessage{Delta: &wire.Delta{
		Seq: 7, Upserted: []wire.Resource{backend("one", 1), certificate("app", "key")}, Removed: []wire.Ref{{Kind: wire.KindRoute, Key: "r"}},
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte(`{"delta":{"seq":1,"upserted":[{"kind":"Backend","key":"x"},{"kind":"Backend","key":"","backend":{}},{"kind":"X","key":"x"}]}}`))
	f.Add([]byte(`{"delta":{"seq":1,"upserted":[{"kind":"Backend","key":"x","backend":{},"route":{}}],"removed":[{"kind":"Backend","key":"x"}]}}`))
	f.Add([]byte(`{"delta":null}`))
	f.Add([]byte(`{"delta":{"upserted":[{"kind":"Endpoints","key":"x","endpoints":{"endpoints":[{"address":"[fe80::1%eth0]:80"}]}}]}}`))

	f.Fuzz(func(t *testing.T, data []byte) {
		var message wire.ServerMessage
		if (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, &message) != nil || message.Delta == nil {
			return
		}
		state := map[wire.Ref]string{}
		stream := &Stream{Apply: func(d wire.Delta) []wire.Rejection {
			for i := range d.Upserted {
				r := &d.Upserted[i]
				if r.Content() == nil {
					t.Errorf("%s without content was applied", r.Ref)
				}
				// What was accepted once can be sent, saved and read again.
				encoded, err := json.Marshal(r)
				if err != nil {
					t.Fatalf("%s does not marshal: %v", r.Ref, err)
				}
				var again wire.Resource
				if err := json.Unmarshal(encoded, &again); err != nil || again.Valid() != nil || again.Ref != r.Ref {
					t.Fatalf("%s does not survive being encoded: %v", r.Ref, err)
				}
				state[r.Ref] = r.Version
			}
			for _, ref := range d.Removed {
				delete(state, ref)
			}
			return nil
		}}
		rejected, _ := stream.apply(*message.Delta)
		if len(rejected) > len(message.Delta.Upserted) {
			t.Errorf("%d rejections of %d resources", len(rejected), len(message.Delta.Upserted))
		}
		for _, r := range rejected {
			if r.Reason == "" {
				t.Errorf("%s was rejected without a reason", r.Ref)
			}
			delete(state, r.Ref)
		}
		for _, r := range rejected {
			delete(state, r.Ref)
		}
		held := map[wire.Ref]string{}
		for _, h := range stream.Held.Versions() {
			held[h.Ref] = h.Version
		}
		if !maps.Equal(state, held) {
			t.Errorf("the client holds %v, applied was %v", held, state)
		}
	})
}

// FuzzSavedConfiguration reads damaged files: the result is an error or a state that can be saved.
func FuzzSavedConfiguration(f *testing.F) {
	whole, err := encodeCache([]wire.Resource{backend("one", 1)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte(`{"format":"weft-config","schema":2}` + "\n{} 00000000\n"))

	f.Fuzz(func(t *testing.T, data []byte) {
		state, err := decodeCache(data)
		if err != nil {
			return
		}
		again, err := encodeCache(sorted(state))
		if err != nil {
			t.Fatal(err)
		}
		second, err := decodeCache(again)
		if err != nil {
			t.Fatalf("what was saved cannot be read: %v", err)
		}
		if len(second) != len(state) {
			t.Errorf("%d resources were saved and %d read", len(state), len(second))
		}
	})
}

// FuzzFiles reads resources as a user may write them.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("kind: Backend\nkey: k\nbackend: {service: s, port: 80}\n"))
	f.Add([]byte("- {kind: Mesh, key: mesh, mesh: {trustDomain: a}}\n---\n[]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		resources, err := decodeFile(data)
		if err != nil {
			return
		}
		for _, r := range resources {
			if err := r.Valid(); err != nil {
				t.Errorf("read an invalid resource: %v", err)
			}
		}
	})
}

// encodeCache returns the file of a state.
func encodeCache(resources []wire.Resource) ([]byte, error) {
	var file bytes.Buffer
	_, err := writeState(&file, slices.Values(resources))
	return file.Bytes(), err
}
