package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"weft.dev/weft/test/feature/harness"
)

const (
	// concurrency is how many clients send at once, each its next request after the answer to the last.
	concurrency = 16
	// patience is how long a request may take before it has failed.
	patience = 10 * time.Second
)

// sender sends one request. The error says why it failed.
type sender func(context.Context) error

func httpSender(_ context.Context, m *harness.Mesh) (sender, error) {
	client := m.HTTP(namespace)
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web/", nil)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return errors.New("the answer is " + res.Status)
		}
		return nil
	}, nil
}

func grpcSender(_ context.Context, m *harness.Mesh) (sender, error) {
	conn, err := m.GRPC(namespace, "web:9000")
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		return conn.Invoke(ctx, "/weft.try.Web/Get", &emptypb.Empty{}, &wrapperspb.StringValue{})
	}, nil
}

// load sends a number of requests.
type load struct {
	sent, failed atomic.Int64
	done         chan struct{}

	mu    sync.Mutex
	first error
}

// startLoad sends total requests, or fewer if ctx ends before.
func startLoad(ctx context.Context, send sender, total int) *load {
	l := &load{done: make(chan struct{})}
	var begun atomic.Int64
	var clients sync.WaitGroup
	for range concurrency {
		clients.Go(func() {
			for ctx.Err() == nil && begun.Add(1) <= int64(total) {
				l.one(ctx, send)
			}
		})
	}
	go func() {
		clients.Wait()
		close(l.done)
	}()
	return l
}

func (l *load) one(ctx context.Context, send sender) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := send(ctx)
	l.sent.Add(1)
	if err == nil {
		return
	}
	l.failed.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = err
	}
}

// firstError returns the first failure, if there was one.
func (l *load) firstError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		return nil
	}
	return fmt.Errorf("the first failure: %w", l.first)
}
