package proxies

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/types"
)

// Local is a Way to proxies of this process, which serve what they tell with handlers. There are no ports.
type Local map[types.NamespacedName]http.Handler

// Get implements Way.
func (l Local) Get(ctx context.Context, pod types.NamespacedName, _ int, path string) (io.ReadCloser, error) {
	handler := l[pod]
	if handler == nil {
		return nil, fmt.Errorf("there is no proxy %s", pod)
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://proxy"+path, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	r, w := io.Pipe()
	answer := &answer{body: w, header: http.Header{}, begun: make(chan int, 1)}
	go func() {
		handler.ServeHTTP(answer, req)
		answer.WriteHeader(http.StatusOK)
		_ = w.Close()
	}()
	if status := <-answer.begun; status != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(r, 256))
		cancel()
		return nil, fmt.Errorf("%d: %s", status, text)
	}
	return &forwarded{r, cancel}, nil
}

// answer passes on what a handler writes.
type answer struct {
	body   *io.PipeWriter
	header http.Header
	begun  chan int
	told   bool
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) {
	if !a.told {
		a.told = true
		a.begun <- status
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(data []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(data)
}

// Flush implements http.Flusher.
func (a *answer) Flush() { a.WriteHeader(http.StatusOK) }
