package upstream

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"weft.dev/weft/proxy/identity"
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

// watchedIdentity hands out how connections are ended.
type watchedIdentity struct {
	*identity.Store
	watched chan [2]func()
}

func (w *watchedIdentity) Watch() func(tls.ConnectionState, func(), func()) (func(), error) {
	return func(_ tls.ConnectionState, drain, cut func()) (func(), error) {
		w.watched <- [2]func(){drain, cut}
		return func() {}, nil
	}
}

// A connection whose root was dropped takes no new request, lets those that are under way go on, and is cut
// in the end.
func TestAConnectionOfADroppedRootIsDrainedAndCut(t *testing.T) {
	ended := make(chan struct{})
	h := newHop(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.RemoteAddr)
		if r.URL.Path == "/long" {
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(ended)
		}
	}, nil)
	watched := make(chan [2]func(), 8)
	h.set.options.Identity = &watchedIdentity{h.caller, watched}
	from := func() string {
		t.Helper()
		_, body, err := fetch(t.Context(), h.set, h.to, cartCall, newRequest("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	first := from()
	if again := from(); again != first {
		t.Fatalf("two requests came from %s and %s, want one connection", first, again)
	}
	resp, err := h.set.RoundTrip(t.Context(), h.to, cartCall, newRequest("GET", "/long", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	head := make([]byte, len(first))
	if _, err := io.ReadFull(resp.Body, head); err != nil || string(head) != first {
		t.Fatalf("the long request came from %s, %v, want %s", head, err, first)
	}
	end := <-watched
	end[0]()
	for from() == first { // it is taken out of use on another goroutine
		runtime.Gosched()
	}
	select {
	case <-ended:
		t.Error("what was under way was cut at once")
	default:
	}
	end[1]()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("what was under way goes on for ever")
	}
	<-ended
}
