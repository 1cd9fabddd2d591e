package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	// requestTimeout is how long a request may take before it has failed.
	requestTimeout = 10 * time.Second
	// reportEvery is the time between two lines of progress.
	reportEvery = 250 * time.Millisecond
	// maxErrors bounds the errors of the last line.
	maxErrors = 5
)

// report is a line that send writes: progress, and at the end with Done the result.
type report struct {
	Sent   int      `json:"sent"`
	Failed int      `json:"failed"`
	Done   bool     `json:"done,omitempty"`
	Errors []string `json:"errors,omitempty"`
}

// sender sends one request to a target. The error says why there is no good answer.
type sender func(ctx context.Context) error

// paced makes senders wait for their turn, so many times a second.
func paced(newSender func(target string) (sender, func(), error), rate float64) func(target string) (sender, func(), error) {
	return func(target string) (sender, func(), error) {
		one, closeSender, err := newSender(target)
		if err != nil {
			return nil, nil, err
		}
		turns := time.NewTicker(time.Duration(float64(time.Second) / rate))
		return func(ctx context.Context) error {
				select {
				case <-turns.C:
					return one(ctx)
				case <-ctx.Done():
					return ctx.Err()
				}
			}, func() {
				turns.Stop()
				closeSender()
			}, nil
	}
}

// send sends n requests from several clients, each its next one after the answer to the last, and writes
// reports as lines of JSON. Requests that fail are no error of its own.
func send(ctx context.Context, newSender func(target string) (sender, func(), error), target string, n, clients int, out io.Writer) error {
	one, closeSender, err := newSender(target)
	if err != nil {
		return err
	}
	defer closeSender()
	var mu sync.Mutex
	var begun int
	var state report
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		begun++
		return begun <= n && ctx.Err() == nil
	}
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		state.Sent++
		if err != nil {
			state.Failed++
			if len(state.Errors) < maxErrors && !slices.Contains(state.Errors, err.Error()) {
				state.Errors = append(state.Errors, err.Error())
			}
		}
	}
	done := make(chan struct{})
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for next() {
				note(one(ctx))
			}
		})
	}
	go func() {
		running.Wait()
		close(done)
	}()
	lines := json.NewEncoder(out)
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for !state.Done {
		select {
		case <-ticker.C:
			mu.Lock()
			progress := report{Sent: state.Sent, Failed: state.Failed}
			mu.Unlock()
			if err := lines.Encode(progress); err != nil {
				return fmt.Errorf("report: %w", err)
			}
		case <-done:
			state.Done = true
		}
	}
	if err := lines.Encode(state); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return ctx.Err()
}

func newTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 256, DialContext: (&net.Dialer{Timeout: requestTimeout}).DialContext}
}

func httpSender(url string) (sender, func(), error) {
	transport := newTransport()
	client := &http.Client{Transport: transport, Timeout: requestTimeout}
	return func(ctx context.Context) error {
		_, err := ask(ctx, client, url)
		return err
	}, transport.CloseIdleConnections, nil
}

// ask sends one HTTP request to the service.
func ask(ctx context.Context, client *http.Client, url string) (answer, error) {
	var a answer
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, err
	}
	// By this name people find the request again.
	req.Header.Set("X-Request-Id", rand.Text())
	res, err := client.Do(req)
	if err != nil {
		return a, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return a, err
	}
	if res.StatusCode != http.StatusOK {
		return a, fmt.Errorf("status %d: %.200s", res.StatusCode, body)
	}
	if err := json.Unmarshal(body, &a); err != nil || a.Version == "" {
		return a, fmt.Errorf("not the service's answer: %.200s", body)
	}
	return a, nil
}

func grpcSender(target string) (sender, func(), error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		return nil, nil, fmt.Errorf("client: %w", err)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		var version wrapperspb.StringValue
		if err := conn.Invoke(ctx, method, &emptypb.Empty{}, &version); err != nil {
			return err
		}
		if version.GetValue() == "" {
			return errors.New("the answer names no version")
		}
		return nil
	}, func() { _ = conn.Close() }, nil
}

// awaitCapture returns when the service is called by another address than one of this pod's.
func awaitCapture(ctx context.Context, url string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("after %s requests still go past the mesh", timeout))
	defer cancel()
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("find own addresses: %w", err)
	}
	for {
		// Connections that are open stay what they are.
		transport := newTransport()
		a, err := ask(ctx, &http.Client{Transport: transport, Timeout: requestTimeout}, url)
		transport.CloseIdleConnections()
		if err == nil && !slices.ContainsFunc(own, func(address net.Addr) bool { return sameHost(address, a.Caller) }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// sameHost tells whether an interface's address is that of a caller.
func sameHost(address net.Addr, caller string) bool {
	network, ok := address.(*net.IPNet)
	return ok && network.IP.Equal(net.ParseIP(caller))
}
