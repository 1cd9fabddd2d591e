package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

func TestFlags(t *testing.T) {
	required := []string{"--operator-address=a:1,b:2", "--token-file=/t", "--ca-file=/ca", "--namespace=shop"}
	tests := map[string]struct {
		args    []string
		want    config
		wantErr string
	}{
		"defaults": {
			args: required,
			want: config{
				operatorAddresses: []string{"a:1", "b:2"}, tokenFile: "/t", caFile: "/ca", namespace: "shop",
				leave: 5 * time.Second, drain: 45 * time.Second, http: engine.HTTPWeft,
			},
		},
		"everything": {
			args: append(required, "--state-dir=/s", "--pod=p", "--node=n", "--zone=z", "--leave-grace=1s", "--drain-grace=2s", "--http-engine=std", "--log-level=debug"),
			want: config{
				operatorAddresses: []string{"a:1", "b:2"}, tokenFile: "/t", caFile: "/ca", namespace: "shop",
				stateDir: "/s", pod: "p", node: "n", zone: "z", leave: time.Second, drain: 2 * time.Second, http: engine.HTTPStd, logLevel: slog.LevelDebug,
			},
		},
		// A zone may be unknown: the downward API gives an empty value then.
		"empty zone": {
			args: append(required, "--zone="),
			want: config{
				operatorAddresses: []string{"a:1", "b:2"}, tokenFile: "/t", caFile: "/ca", namespace: "shop",
				leave: 5 * time.Second, drain: 45 * time.Second, http: engine.HTTPWeft,
			},
		},
		"missing":        {args: required[:3], wantErr: "--namespace is required"},
		"unknown engine": {args: append(required, "--http-engine=other"), wantErr: "neither"},
		"unknown":        {args: append(required, "--frobnicate"), wantErr: "frobnicate"},
		"rest":           {args: append(required, "rest"), wantErr: `"rest"`},
		"help":           {args: []string{"--help"}, wantErr: flag.ErrHelp.Error()},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseFlags(tc.args, io.Discard)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error = %v, want %q in it", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatalf("parse: %v", err)
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(config{}), cmpopts.IgnoreFields(config{}, "listen", "accessLog")); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

// ports opens every port of the contract at a free one of loopback.
type ports struct {
	mu        sync.Mutex
	addresses map[int]string
}

func (p *ports) listen(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.addresses[port] = l.Addr().String()
	return l, nil
}

func (p *ports) get(t *testing.T, port int, path string) (status int, body string) {
	t.Helper()
	p.mu.Lock()
	address := p.addresses[port]
	p.mu.Unlock()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatalf("request: %v", err)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("get %s: %v", path, err)
	}
	return res.StatusCode, string(text)
}

func TestProxyServesProbesAndDrains(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
		t.Fatalf("write token: %v", err)
	}
	opened := &ports{addresses: map[int]string{}}
	listening := make(chan struct{})
	c := config{
		operatorAddresses: []string{"127.0.0.1:1"}, tokenFile: token, caFile: filepath.Join(dir, "none"),
		stateDir: dir, namespace: "shop", leave: time.Millisecond, drain: 20 * time.Second,
		listen: func(port int) (net.Listener, error) {
			if port == wire.PortMetrics {
				defer close(listening)
			}
			return opened.listen(port)
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, c, slog.New(slog.DiscardHandler)) }()
	<-listening
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/accepting": 503} {
		if got, _ := opened.get(t, wire.PortHealth, path); got != want {
			t.Errorf("%s = %d, want %d before there is a configuration", path, got, want)
		}
	}
	if _, body := opened.get(t, wire.PortAdmin, "/state"); !strings.Contains(body, `"namespace":"shop"`) || !strings.Contains(body, `"ready":false`) {
		t.Errorf("state = %q, want a proxy of shop that is not ready", body)
	}
	if _, body := opened.get(t, wire.PortMetrics, "/metrics"); !strings.Contains(body, "weft_ready 0") {
		t.Errorf("metrics = %q, want weft_ready 0 among them", body)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run = %v, want a graceful end", err)
	}
}

// Whoever may forward a port to the pod may look; the network may not.
func TestAdministrationIsOnLoopback(t *testing.T) {
	l, err := listen(wire.PortAdmin)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if address, ok := l.Addr().(*net.TCPAddr); !ok || !address.IP.IsLoopback() {
		t.Errorf("it listens on %s", l.Addr())
	}
}

func TestProxyEndsIfAPortIsTaken(t *testing.T) {
	taken := errors.New("taken")
	c := config{listen: func(int) (net.Listener, error) { return nil, taken }}
	if err := run(t.Context(), c, slog.New(slog.DiscardHandler)); !errors.Is(err, taken) {
		t.Errorf("run = %v, want %v", err, taken)
	}
}
