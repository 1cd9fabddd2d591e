package probe_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/test/bench/propagation/probe"
)

// answer is one that the server is to give.
type answer struct {
	edit, backend string
	status        int
}

// TestClientWritesWhatIsNew has a server give answers in turn, the last one for ever, and reads the lines.
func TestClientWritesWhatIsNew(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		answers []answer
		want    []probe.Observation
		// wantConnections is how many connections the answers come over.
		wantConnections int
	}{
		"changes only": {
			answers:         []answer{{"0", "v1", 200}, {"0", "v1", 200}, {"1", "v2", 200}, {"1", "v2", 200}, {"2", "v1", 200}},
			want:            []probe.Observation{{Edit: "0", Backend: "v1", Requests: 1}, {Edit: "1", Backend: "v2", Requests: 3}, {Edit: "2", Backend: "v1", Requests: 5}},
			wantConnections: 1,
		},
		"another backend under the same edit": {
			answers:         []answer{{"0", "v1", 200}, {"0", "v2", 200}},
			want:            []probe.Observation{{Edit: "0", Backend: "v1", Requests: 1}, {Edit: "0", Backend: "v2", Requests: 2}},
			wantConnections: 1,
		},
		"every failure": {
			answers: []answer{{"0", "v1", 200}, {"0", "v1", 503}, {"0", "v1", 503}, {"0", "v1", 200}, {"1", "v2", 200}},
			want: []probe.Observation{
				{Edit: "0", Backend: "v1", Requests: 1},
				{Edit: "0", Backend: "v1", Requests: 2, Failures: 1, Failure: "503 Service Unavailable"},
				{Edit: "0", Backend: "v1", Requests: 3, Failures: 2, Failure: "503 Service Unavailable"},
				{Edit: "1", Backend: "v2", Requests: 5, Failures: 2},
			},
			wantConnections: 3,
		},
		"a new connection while nothing treats the requests": {
			answers:         []answer{{"", "v1", 200}, {"", "v1", 200}, {"0", "v1", 200}, {"1", "v2", 200}},
			want:            []probe.Observation{{Backend: "v1", Requests: 1}, {Edit: "0", Backend: "v1", Requests: 3}, {Edit: "1", Backend: "v2", Requests: 4}},
			wantConnections: 3,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, peers := 0, map[string]bool{}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				a := tc.answers[min(n, len(tc.answers)-1)]
				n++
				peers[r.RemoteAddr] = true
				w.Header().Set(probe.EditHeader, a.edit)
				w.Header().Set(probe.BackendHeader, a.backend)
				w.WriteHeader(a.status)
			}))
			t.Cleanup(server.Close)
			client := probe.Client{URL: server.URL, Connections: 1, Interval: time.Microsecond}
			got := observe(t, &client, len(tc.want))
			ignored := cmpopts.IgnoreFields(probe.Observation{}, "Sent", "Ended", "Gap")
			if diff := cmp.Diff(tc.want, got, ignored); diff != "" {
				t.Errorf("observations (-want +got):\n%s", diff)
			}
			for i, o := range got {
				if o.Sent <= 0 || o.Ended <= o.Sent || i > 0 && o.Sent <= got[i-1].Ended || o.Gap <= 0 {
					t.Errorf("observation %d has impossible times: %+v", i, o)
				}
			}
			server.Close()
			if len(peers) != tc.wantConnections {
				t.Errorf("%d connections, want %d", len(peers), tc.wantConnections)
			}
		})
	}
}

// observe runs a client until it has written n lines.
func observe(t *testing.T, client *probe.Client, n int) []probe.Observation {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- client.Run(ctx, writer)
		_ = writer.Close()
	}()
	lines := json.NewDecoder(reader)
	got := make([]probe.Observation, n)
	for i := range got {
		if err := lines.Decode(&got[i]); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	// Whatever else is written must not block the client.
	if _, err := io.Copy(io.Discard, io.MultiReader(lines.Buffered(), reader)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	return got
}
