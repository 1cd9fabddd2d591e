// Package output is where the code under test writes what it has to say. It must not be used for what a test says itself.
package output

import (
	"io"
	"sync"
	"testing"
)

// Of returns the output of a test, for writers that may outlive it: what they write after its end is dropped. To
// t.Output they would be a race with the end of the test, and a panic after it. It is safe for concurrent use.
func Of(t testing.TB) io.Writer {
	t.Helper()
	w := &writer{to: t.Output()}
	t.Cleanup(w.end)
	return w
}

type writer struct {
	mu sync.Mutex
	to io.Writer // nil after the end
}

// Write implements io.Writer.
func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.to == nil {
		return len(p), nil
	}
	return w.to.Write(p)
}

func (w *writer) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = nil
}
