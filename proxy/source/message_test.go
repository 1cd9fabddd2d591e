package source

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

// TestMessagesAreReadAsTheyAreWritten compares reading piece by piece with encoding/json.
func TestMessagesAreReadAsTheyAreWritten(t *testing.T) {
	whole, err := json.Marshal(&wire.ServerMessage{Delta: &wire.Delta{
		Seq: 7, Upserted: []wire.Resource{backend("one", 1), certificate("app", "key")}, Removed: []wire.Ref{{Kind: wire.KindRoute, Key: "r"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"whole":          string(whole),
		"nothing":        `{}`,
		"null":           `null`,
		"delta null":     `{"delta":null}`,
		"delta empty":    `{"delta":{}}`,
		"lists null":     `{"delta":{"seq":3,"upserted":null,"removed":null}}`,
		"lists empty":    `{"delta":{"upserted":[],"removed":[]}}`,
		"of the future":  `{"later":{"a":[1,{}]},"delta":{"seq":3,"soon":[[1]],"upserted":[{"kind":"X","key":"k","x":{"y":1}}]},"last":null}`,
		"another order":  `{"delta":{"removed":[{"kind":"Route","key":"r"}],"upserted":[{"kind":"Mesh","key":"mesh","mesh":{}}],"seq":9}}` + "\n",
		"no object":      `[]`,
		"delta a list":   `{"delta":[]}`,
		"list a number":  `{"delta":{"upserted":1}}`,
		"wrong content":  `{"delta":{"upserted":[{"kind":1}]}}`,
		"wrong number":   `{"delta":{"seq":-1}}`,
		"cut off":        string(whole[:len(whole)/2]),
		"only the delta": `{"delta":{"seq":1}`,
		"more behind it": `{"delta":{"seq":1}}{}`,
		"empty":          ``,
	} {
		var want, got wire.ServerMessage
		wantErr := json.Unmarshal([]byte(text), &want)
		gotErr := readMessage(iotest.OneByteReader(strings.NewReader(text)), &got)
		if (wantErr == nil) != (gotErr == nil) {
			t.Errorf("%s: error %v, want one like %v", name, gotErr, wantErr)
			continue
		}
		if gotErr != nil {
			continue
		}
		if want.Delta != nil && len(want.Delta.Upserted) == 0 {
			want.Delta.Upserted = nil // whether an empty list is there says nothing
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b wire.Resource) bool { return cmp.Equal(mustMarshal(t, a), mustMarshal(t, b)) })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func mustMarshal(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
