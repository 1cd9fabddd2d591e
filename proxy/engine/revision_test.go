package engine

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"testing"

	"weft.dev/weft/proxy/wire"
)

// TestConfigurationOfTheLastRelease: a proxy takes everything that an operator of revision 0 has sent.
func TestConfigurationOfTheLastRelease(t *testing.T) {
	file, err := os.Open("../wire/testdata/revision0/server.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	deltas := bufio.NewScanner(file)
	deltas.Buffer(nil, 1<<20)
	for deltas.Scan() {
		var m wire.ServerMessage
		if err := json.Unmarshal(deltas.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		// A capture is for node agents, and the mesh's roots were none where it was recorded.
		resources := slices.DeleteFunc(m.Delta.Upserted, func(r wire.Resource) bool {
			return r.Kind == wire.KindCapture || r.Kind == wire.KindMesh
		})
		newProxy(t).apply(resources...)
	}
}
