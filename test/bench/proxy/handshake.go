package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/bench/load"
)

// handshakes makes a connection with mutual TLS for each request over HTTP/2, without resumption. identities is the
// directory of those of pairs; the load is the near one.
func handshakes(ctx context.Context, address, identities string, workers int, d time.Duration) (load.Tally, error) {
	file := filepath.Join(identities, certificateFile(near))
	certificate, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		return load.Tally{}, err
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519},
		InsecureSkipVerify: true, //nolint:gosec // the load measures, and trusts whom it has started
	}
	head, _ := blocks(":method", "GET", ":scheme", "https", ":path", "/100", ":authority", "web.stock",
		"user-agent", "bench/1.0", strings.ToLower(upstream.FieldBackend), wire.ServicePortKey(namespaces[far], "web", 80))
	var count atomic.Int64
	begin := time.Now()
	errs := make(chan error, workers)
	for range workers {
		go func() {
			for {
				if time.Since(begin) > d {
					errs <- nil
					return
				}
				if err := handshake(ctx, address, config, head); err != nil {
					errs <- err
					return
				}
				count.Add(1)
			}
		}()
	}
	for range workers {
		err = errors.Join(err, <-errs)
	}
	return load.Tally{Requests: count.Load(), Took: time.Since(begin)}, err
}

// handshake makes a connection and has one request answered on it.
func handshake(ctx context.Context, address string, config *tls.Config, head []byte) error {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // nothing is left in TIME_WAIT
	}
	c := tls.Client(raw, config)
	defer func() { _ = raw.Close() }()
	p := newPeer(c)
	p.out = append(p.out, http2.ClientPreface...)
	p.settle()
	p.out = appendFrame(p.out, http2.FrameHeaders, endHeaders|endStream, 1, head)
	for {
		_, flags, _, _, err := p.next()
		if err != nil || flags&endStream != 0 {
			return err
		}
	}
}

// shaken measures connections with mutual TLS.
func shaken(ctx context.Context, p *plan, s *subject) (map[string]float64, error) {
	cpu, t, err := perRequest(s, func() (load.Tally, error) { return handshakes(ctx, s.address, p.identities, 16, p.each) })
	return map[string]float64{"": cpu, "connections per second": float64(t.Requests) / t.Took.Seconds()}, err
}
