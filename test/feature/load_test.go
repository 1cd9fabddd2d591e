package feature_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"

	"weft.dev/weft/test/feature/harness"
)

// load sends requests from several workers until it is stopped. A request that fails ends the test.
type load struct {
	t      *testing.T
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu       sync.Mutex
	sent     int
	failures []string
	changed  chan struct{}
}

// startLoad starts n workers. Each gets from newSend, which is told its number, what it calls again and
// again.
func startLoad(t *testing.T, n int, newSend func(worker int) func() error) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{t: t, cancel: cancel, changed: make(chan struct{})}
	for i := range n {
		send := newSend(i)
		l.ended.Go(func() {
			for ctx.Err() == nil {
				l.note(send())
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if err != nil {
		l.failures = append(l.failures, err.Error())
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// await returns when n more requests have been sent.
func (l *load) await(n int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	goal := 0
	for {
		l.mu.Lock()
		if goal == 0 {
			goal = l.sent + n
		}
		sent, changed := l.sent, l.changed
		l.mu.Unlock()
		if sent >= goal {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			l.t.Fatalf("%d of %d requests were sent", sent, goal)
		}
	}
}

// stop ends the load and reports what failed.
func (l *load) stop() {
	l.t.Helper()
	l.cancel()
	l.ended.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.failures) > 0 {
		l.t.Errorf("%d of %d requests failed: %s", len(l.failures), l.sent, strings.Join(l.failures[:min(5, len(l.failures))], "; "))
		l.failures = nil
	}
}

// enrolled spreads workers over the namespaces of the mesh.
func enrolled(worker int) string { return []string{"shop", "bank"}[worker%2] }

// clientFor returns the client of a worker in a namespace; half of the workers speak HTTP/2.
func clientFor(m *harness.Mesh, namespace string, worker int) *http.Client {
	if worker/2%2 == 1 {
		return m.H2C(namespace)
	}
	return m.HTTP(namespace)
}

// countConnections notes the connections that requests go over.
func countConnections(ctx context.Context, seen *sync.Map) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { seen.Store(info.Conn, true) },
	})
}

func size(m *sync.Map) int {
	n := 0
	m.Range(func(any, any) bool { n++; return true })
	return n
}

// oneOf returns an error unless one of the pods has answered.
func (a answer) oneOf(pods ...string) error {
	if a.status != 200 || !slices.Contains(pods, a.echo.Pod) {
		return fmt.Errorf("status %d %s from %q", a.status, a.header.Get("weft-reason"), a.echo.Pod)
	}
	return nil
}
