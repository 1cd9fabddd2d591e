package upstream

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weft.dev/weft/proxy/identity/identitytest"
)

// Certificates change 50 times, every tenth time with the root, while requests and long streams go on:
// none fails, and at the end the newest certificate is in use.
func TestRotationUnderLoad(t *testing.T) {
	var newest atomic.Pointer[string] // serial number that the server saw last
	h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
		serial := r.TLS.PeerCertificates[0].SerialNumber.String()
		newest.Store(&serial)
		flusher := http.NewResponseController(w)
		_ = flusher.Flush()
		for buffer := make([]byte, 4<<10); ; {
			n, err := r.Body.Read(buffer)
			_, _ = w.Write(buffer[:n])
			_ = flusher.Flush()
			if err != nil {
				return
			}
		}
	}, nil)

	ctx, stop := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	var requests, failed atomic.Int64
	payload := strings.Repeat("x", 20<<10)
	for range 8 {
		workers.Go(func() {
			for ctx.Err() == nil {
				_, body, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("POST", "/", strings.NewReader(payload)))
				requests.Add(1)
				if err != nil || body != payload {
					failed.Add(1)
					t.Errorf("%d bytes, %v", len(body), err)
				}
			}
		})
	}
	stream := newChunks()
	resp, err := h.set.RoundTrip(t.Context(), h.to, cartCall, newRequest("POST", "/", stream))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()

	ca := h.ca
	for i := range 50 {
		if i%10 == 9 {
			// A new root: first trusted by all, then issuing, then alone.
			next := identitytest.NewCA(t, "cluster.local")
			both := ca.Mesh(next)
			h.rotate(t, both, ca)
			h.rotate(t, both, next)
			ca = next
		}
		h.rotate(t, ca.Mesh(), ca)
		for done := requests.Load() + 16; requests.Load() < done; {
			if _, _, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/", nil)); err != nil {
				t.Error(err)
			}
		}
		stream.next <- []byte("y")
		if _, err := io.ReadFull(resp.Body, make([]byte, 1)); err != nil {
			t.Fatalf("the long stream broke: %v", err)
		}
	}
	stop()
	workers.Wait()
	t.Logf("%d requests, %d failed", requests.Load(), failed.Load())

	certificate := ca.Issue(t, "shop", "cart")
	h.caller.Update(nil, certificates(certificate))
	if _, _, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/", nil)); err != nil {
		t.Fatal(err)
	}
	if want := keyPair(t, certificate).Leaf.SerialNumber.String(); *newest.Load() != want {
		t.Errorf("certificate %s is in use, want %s", *newest.Load(), want)
	}
}
