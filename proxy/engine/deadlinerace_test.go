package engine

import (
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"weft.dev/weft/proxy/wire"
)

// TestAnswersThatComeWhenTimeIsUp: whichever of the two was first, the client has an answer.
func TestAnswersThatComeWhenTimeIsUp(t *testing.T) {
	const limit = 10 * time.Millisecond
	backend := server(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(limit):
		case <-r.Context().Done():
		}
		_, _ = io.WriteString(w, "fine")
	})
	for name, protocol := range map[string]wire.Protocol{"HTTP/1.1": wire.ProtocolHTTP, "HTTP/2": wire.ProtocolH2C} {
		t.Run(name, func(t *testing.T) {
			address := newProxy(t).policed(protocol, timeouts(limit, 0), backend)
			var clients sync.WaitGroup
			for range 8 {
				c := client(t)
				clients.Go(func() {
					for range 100 {
						res, err := c.Do(request(t, http.MethodPost, address, "/", nil))
						if err != nil && tested == HTTPStd {
							continue // net/http may have nothing sent of what it was given
						}
						if err != nil {
							t.Errorf("no answer: %v", err)
							return
						}
						_, _ = io.Copy(io.Discard, res.Body)
						_ = res.Body.Close()
						if res.StatusCode != http.StatusOK && res.StatusCode != http.StatusGatewayTimeout {
							t.Errorf("answer = %d", res.StatusCode)
						}
					}
				})
			}
			clients.Wait()
		})
	}
}
