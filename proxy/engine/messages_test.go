package engine

import (
	"io"
	"net/http"
	"testing"

	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

func TestMessagesAreFollowed(t *testing.T) {
	for name, tc := range map[string]struct {
		body   string
		within bool
	}{
		"nothing":                   {"", false},
		"a part of a prefix":        {"\x00\x00", true},
		"a prefix":                  {"\x00\x00\x00\x00\x02", true},
		"a part of a message":       {"\x00\x00\x00\x00\x02a", true},
		"a message":                 {"\x00\x00\x00\x00\x02ab", false},
		"an empty message":          {"\x00\x00\x00\x00\x00", false},
		"a message and a flag":      {"\x00\x00\x00\x00\x02ab\x01", true},
		"an empty one, and a whole": {"\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01a", false},
	} {
		for size := 1; size <= max(1, len(tc.body)); size++ {
			var m messages
			for rest := tc.body; rest != ""; {
				n := min(size, len(rest))
				m.passed([]byte(rest[:n]))
				rest = rest[n:]
			}
			if m.within() != tc.within {
				t.Errorf("%s, %d bytes at once: within = %v", name, size, m.within())
			}
		}
	}
}

// TestGRPCAnswersThatBreakOff: between messages with a status that says why, within one with a reset. An end of the
// stream there would be a broken message to the client, whatever the status says.
func TestGRPCAnswersThatBreakOff(t *testing.T) {
	const whole = "\x00\x00\x00\x00\x05hello"
	parts := map[string]string{"/between": whole, "/within": whole + "\x00\x00\x00\x00\x05he", "/prefix": whole + "\x00\x00"}
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		if r.URL.Path == "/first" {
			w.Header().Set("Grpc-Status", "0")
			return
		}
		_, _ = io.WriteString(w, parts[r.URL.Path])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	// With a status that may be tried again an answer goes the general way.
	general := &wire.Policy{Retry: &wire.Retry{Attempts: new(1), GRPCCodes: []string{"DATA_LOSS"}}}
	for way, policy := range map[string]*wire.Policy{"directly": nil, "generally": general} {
		for over, start := range map[string]func(t *testing.T) (string, *Engine){
			"to the pod": func(t *testing.T) (string, *Engine) {
				p := newProxy(t)
				return p.policed(wire.ProtocolH2C, policy, backend), p.engine
			},
			"over the hop": func(t *testing.T) (string, *Engine) {
				h := newHop(t, 1, wire.ProtocolH2C)
				return h.policed(policy, wire.ProtocolH2C, backend), h.peers[0].engine
			},
		} {
			t.Run(way+" "+over, func(t *testing.T) {
				address, e := start(t)
				c := client(t, h2c)
				call := func(path string) (answer, error) {
					req := request(t, http.MethodPost, address, path, nil)
					req.Header.Set("Content-Type", "application/grpc")
					res, err := c.Do(req)
					if err != nil {
						t.Fatalf("%s: %v", path, err)
					}
					body, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					return answer{header: res.Header, trailer: res.Trailer, body: string(body)}, err
				}
				for range 2 {
					if got, err := call("/first"); err != nil || got.header.Get("Grpc-Status") != "0" {
						t.Fatalf("answer = %v, %v", got.header, err)
					}
				}
				for path, sent := range parts {
					got, err := call(path)
					if got.body != sent {
						t.Errorf("%s: body = %q", path, got.body)
					}
					if path != "/between" {
						if err == nil {
							t.Errorf("%s: the stream has ended, with trailer %v", path, got.trailer)
						}
						continue
					}
					if err != nil || got.trailer.Get("Grpc-Status") != "14" || got.trailer.Get(reason.Header) != string(reason.ResetAfterHeaders) {
						t.Errorf("%s: end = %v, trailer %v", path, err, got.trailer)
					}
				}
				until(t, func() bool {
					return metrics(t, e, "weft_exchanges_cut_total")["weft_reason="+string(reason.ResetAfterHeaders)] == float64(len(parts))
				})
			})
		}
	}
}
