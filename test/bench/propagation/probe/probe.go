// Package probe is the part of the propagation benchmark that runs inside the cluster: a backend that says
// which one it is, and a client that sends it requests all the time and writes a line when the answer
// changes. Both sides of the benchmark read the same clock. The package knows nothing of Kubernetes and
// judges nothing.
package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// EditHeader is the response header in which a route says by which edit of it a request was treated.
	EditHeader = "X-Edit"
	// BackendHeader is the response header in which a backend says which one it is.
	BackendHeader = "X-Backend"
	// requestTimeout bounds a request; what takes longer has failed.
	requestTimeout = 5 * time.Second
	// pauseAfterFailure keeps a client that cannot connect from spinning.
	pauseAfterFailure = 10 * time.Millisecond
)

// Now reads CLOCK_MONOTONIC: nanoseconds that all processes of a machine count alike, in containers too,
// and that nobody sets (clock_gettime(2)).
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		// The call has no other way to fail than a clock that does not exist.
		panic(fmt.Sprintf("probe: %v", err))
	}
	return t.Nano()
}

// Observation is one line of the client: an answer that differs from the one before on its connection, or
// a request that failed. Times are those of Now.
type Observation struct {
	Connection int `json:"connection"`
	// Sent is when the request began, Ended when its whole answer was there.
	Sent  int64 `json:"sent"`
	Ended int64 `json:"ended"`
	// Gap is the time between this answer and the one before it, whatever their connections, in
	// nanoseconds: how finely the moment of the change was looked at.
	Gap int64 `json:"gap"`
	// Edit is the value of EditHeader, empty if nothing treated the request; Backend that of
	// BackendHeader.
	Edit    string `json:"edit"`
	Backend string `json:"backend"`
	// Failure says why there is no answer with status 200; it is empty if there is one.
	Failure string `json:"failure,omitempty"`
	// Requests and Failures count all answers so far, this one included.
	Requests int `json:"requests"`
	Failures int `json:"failures"`
}

// Client sends GET requests to URL over Connections kept connections, one request after the other on
// each. Requests begin Interval apart, taking turns; a connection whose answer is late goes on at once.
type Client struct {
	URL         string
	Connections int
	Interval    time.Duration

	mu       sync.Mutex
	output   *json.Encoder
	previous int64
	requests int
	failures int
}

// Run sends until ctx ends and writes each Observation to out as a line of JSON. It returns the first
// error of writing.
func (c *Client) Run(ctx context.Context, out io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, http.NoBody)
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	c.output = json.NewEncoder(out)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var connections sync.WaitGroup
	for i := range c.Connections {
		connections.Go(func() {
			if err := c.probe(ctx, request, i); err != nil {
				cancel(fmt.Errorf("probe: %w", err))
			}
		})
	}
	connections.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// probe sends on one connection until ctx ends.
func (c *Client) probe(ctx context.Context, request *http.Request, number int) error {
	conn := &connection{}
	defer conn.close()
	turn := time.Now().Add(c.Interval * time.Duration(number))
	var last Observation
	for ctx.Err() == nil {
		if !sleep(ctx, time.Until(turn)) {
			return nil
		}
		turn = later(turn.Add(c.Interval*time.Duration(c.Connections)), time.Now())
		o := Observation{Connection: number, Sent: Now()}
		o.Edit, o.Backend, o.Failure = conn.get(ctx, request)
		if ctx.Err() != nil {
			return nil
		}
		o.Ended = Now()
		changed := o.Failure != "" || last.Edit != o.Edit || last.Backend != o.Backend || last.Ended == 0
		if err := c.count(&o, changed); err != nil {
			return err
		}
		last = o
		switch {
		case o.Failure != "":
			conn.close()
			sleep(ctx, pauseAfterFailure)
		case o.Edit == "":
			// The connection is older than the capture of its destination and stays where it goes.
			conn.close()
		}
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sleep waits and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// count adds an answer and writes it down if it says something new.
func (c *Client) count(o *Observation, write bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	if o.Failure != "" {
		c.failures++
	}
	o.Gap = o.Ended - c.previous
	c.previous = o.Ended
	o.Requests, o.Failures = c.requests, c.failures
	if !write {
		return nil
	}
	return c.output.Encode(o)
}

// connection is an HTTP/1.1 connection without a pool: which requests share one is part of what is
// measured, and a request that it breaks under is not repeated.
type connection struct {
	conn   net.Conn
	reader *bufio.Reader
}

// get sends a request and reads the whole answer.
func (c *connection) get(ctx context.Context, request *http.Request) (edit, backend, failure string) {
	if c.conn == nil {
		dialer := net.Dialer{Timeout: requestTimeout}
		conn, err := dialer.DialContext(ctx, "tcp", request.URL.Host)
		if err != nil {
			return "", "", err.Error()
		}
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return "", "", err.Error()
	}
	if err := request.Write(c.conn); err != nil {
		return "", "", err.Error()
	}
	response, err := http.ReadResponse(c.reader, request)
	if err != nil {
		return "", "", err.Error()
	}
	_, err = io.Copy(io.Discard, response.Body)
	// Everything is read; closing cannot add to that.
	_ = response.Body.Close()
	edit, backend = response.Header.Get(EditHeader), response.Header.Get(BackendHeader)
	switch {
	case err != nil:
		return edit, backend, err.Error()
	case response.StatusCode != http.StatusOK:
		return edit, backend, response.Status
	case response.Close:
		c.close()
	}
	return edit, backend, ""
}

func (c *connection) close() {
	if c.conn != nil {
		// It may be broken already.
		_ = c.conn.Close()
		c.conn = nil
	}
}

// Serve answers every request with name in BackendHeader until ctx ends.
func Serve(ctx context.Context, address, name string) error {
	server := &http.Server{
		Addr: address, ReadHeaderTimeout: requestTimeout,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(BackendHeader, name) }),
	}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.ListenAndServe(); ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
