package upstream

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

func TestIdleConnectionsAreBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		options Options
		want    int
	}{
		"per endpoint": {Options{MaxIdlePerEndpoint: 3}, 3},
		"in total":     {Options{MaxIdle: 2}, 2},
		"by default":   {Options{}, 8},
	} {
		t.Run(name, func(t *testing.T) {
			var arrived atomic.Int32
			all := make(chan struct{})
			address := serve(t, func(http.ResponseWriter, *http.Request) {
				if arrived.Add(1) == 8 {
					close(all)
				}
				<-all
			})
			s := newTestSet(t, tc.options)
			s.Update(direct(address))
			to := choose(t, s, webKey)
			done := make(chan error, 8)
			for range 8 {
				go func() {
					_, _, err := fetch(t.Context(), s, to, Call{}, newRequest("GET", "/", nil))
					done <- err
				}()
			}
			for range 8 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if got := s.idle.Load(); int(got) != tc.want {
				t.Errorf("%d idle, want %d", got, tc.want)
			}
			s.Update(Resources{})
			if got := s.idle.Load(); got != 0 {
				t.Errorf("%d idle after the endpoint was removed", got)
			}
		})
	}
}

func TestIdleConnectionsExpire(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			closed := make(chan struct{}, 10)
			server := &http.Server{
				Handler:   http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
				Protocols: new(http.Protocols),
				ConnState: func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- struct{}{}
					}
				},
			}
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
			s := newTestSet(t, Options{IdleTimeout: 10 * time.Millisecond})
			s.Update(direct(run(t, server, listen(t))))
			mustFetch(t, s, choose(t, s, key), newRequest("GET", "/", nil))
			<-closed
		})
	}
}

func TestRemovedEndpointIsDrained(t *testing.T) {
	for name, key := range map[string]string{"HTTP/1.1": webKey, "HTTP/2": rpcKey} {
		t.Run(name, func(t *testing.T) {
			arrived, finish := make(chan struct{}), make(chan struct{})
			closed := make(chan struct{}, 10)
			server := &http.Server{
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.WriteString(w, "begin ")
					if r.URL.Path == "/slow" {
						_ = http.NewResponseController(w).Flush()
						arrived <- struct{}{}
						<-finish
					}
					_, _ = io.WriteString(w, "end")
				}),
				Protocols: new(http.Protocols),
				ConnState: func(_ net.Conn, state http.ConnState) {
					if state == http.StateClosed {
						closed <- struct{}{}
					}
				},
			}
			server.Protocols.SetHTTP1(true)
			server.Protocols.SetUnencryptedHTTP2(true)
			s := newTestSet(t, Options{})
			pinned := s.Update(direct(run(t, server, listen(t))))
			to := choose(t, s, key)

			result := make(chan string, 1)
			go func() {
				_, body, err := fetch(t.Context(), s, to, Call{}, newRequest("GET", "/slow", nil))
				result <- fmt.Sprint(body, err)
			}()
			<-arrived
			if key == webKey {
				// A second, idle connection.
				mustFetch(t, s, to, newRequest("GET", "/", nil))
			}
			s.Update(Resources{})
			if key == webKey {
				<-closed
			}
			if len(closed) > 0 {
				t.Error("a connection in use was closed")
			}
			// A request that pinned the old view may still begin.
			late, err := pinned.Choose(t.Context(), key, Wish{})
			if err != nil {
				t.Fatal(err)
			}
			mustFetch(t, s, late, newRequest("GET", "/", nil))
			<-closed
			finish <- struct{}{}
			if got := <-result; got != "begin end<nil>" {
				t.Errorf("the active request got %q", got)
			}
			<-closed
		})
	}
}
