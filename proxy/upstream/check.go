package upstream

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"weft.dev/weft/proxy/wire"
)

// maxChecks bounds how many health checks are under way at once; others wait for their turn.
const maxChecks = 64

// maxCheckResponse bounds what is read of the answer to a health check of gRPC.
const maxCheckResponse = 1 << 10

// checks are the health checks that run. Each endpoint has a goroutine, which begins at a random moment
// within the interval, so that neither the endpoints of one Service nor the proxies of one namespace are in
// step.
type checks struct {
	running map[netip.AddrPort]*check // guarded by Set.mu
	slots   chan struct{}
	ended   sync.WaitGroup
}

func newChecks() checks {
	return checks{running: map[netip.AddrPort]*check{}, slots: make(chan struct{}, maxChecks)}
}

// check is the health check of one endpoint.
type check struct {
	plan
	stop context.CancelFunc
}

// plan says how an endpoint is checked.
type plan struct {
	endpoint *endpoint
	wire.HealthCheck
	// host is what requests are addressed to, as those of clients are.
	host string
	// http2 tells that HTTP checks use HTTP/2, because that is what the endpoint's port speaks.
	http2 bool
}

// updateChecks starts and stops checks for a view. If several Backends with checks name an address, the one
// whose key is the least says how, as for ejections. s.mu is held.
func (s *Set) updateChecks(v *View) {
	var checked []*target
	for _, t := range v.targets {
		if !s.closed && t.service != nil && t.backend.Namespace == s.options.Namespace && t.backend.Policy != nil && t.backend.Policy.HealthCheck != nil {
			checked = append(checked, t)
		}
	}
	slices.SortFunc(checked, func(a, b *target) int { return cmp.Compare(a.key, b.key) })
	wanted := map[netip.AddrPort]plan{}
	for _, t := range checked {
		for _, e := range t.direct.judged() {
			if e.account.Load() != nil {
				continue // the pod's own proxy is between, and what is refused in plain text says nothing
			}
			if _, ok := wanted[e.address]; !ok {
				wanted[e.address] = plan{
					endpoint: e, HealthCheck: *t.backend.Policy.HealthCheck, host: t.backend.Service + "." + t.backend.Namespace,
					http2: t.backend.Protocol == wire.ProtocolH2C && t.backend.Policy.HealthCheck.Port == 0,
				}
			}
		}
	}
	for address, c := range s.checks.running {
		p, ok := wanted[address]
		if ok && p == c.plan {
			delete(wanted, address)
			continue
		}
		c.stop()
		delete(s.checks.running, address)
		if !ok {
			s.setHealthy(context.Background(), c.endpoint, true)
		}
	}
	for address, p := range wanted {
		ctx, stop := context.WithCancel(context.Background())
		s.checks.running[address] = &check{plan: p, stop: stop}
		s.checks.ended.Go(func() { s.runCheck(ctx, p) })
	}
}

// stopChecks ends all checks. s.mu is held; the caller waits for s.checks.ended without it.
func (s *Set) stopChecks() {
	for address, c := range s.checks.running {
		c.stop()
		delete(s.checks.running, address)
	}
}

// runCheck checks an endpoint until ctx ends. An endpoint that is new counts as healthy until enough checks
// have failed: its readiness has been seen by Kubernetes, and to wait for the first check would make every
// rollout slower.
func (s *Set) runCheck(ctx context.Context, p plan) {
	interval := time.Duration(p.Interval)
	v := vitals{healthy: s.healthy(p.endpoint)}
	timer := time.NewTimer(s.upTo(interval))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		select {
		case s.checks.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		err := s.checkOnce(ctx, p)
		<-s.checks.slots
		before := v.healthy
		if v = v.after(err == nil, &p.HealthCheck); v.healthy != before {
			s.setHealthy(ctx, p.endpoint, v.healthy)
		}
		// A tenth of jitter keeps checks that have fallen into step from staying in it.
		timer.Reset(interval + s.upTo(interval/10))
	}
}

// upTo returns a random time, at most d.
func (s *Set) upTo(d time.Duration) time.Duration {
	const grain = 1 << 16
	return d / grain * time.Duration(s.options.Random(grain+1))
}

// vitals is what the checks of an endpoint have come to.
type vitals struct {
	healthy bool
	// streak is how many checks in a row spoke against healthy.
	streak int
}

// after takes in the outcome of a check.
func (v vitals) after(passed bool, policy *wire.HealthCheck) vitals {
	if passed == v.healthy {
		return vitals{healthy: v.healthy}
	}
	v.streak++
	enough := policy.Unhealthy
	if passed {
		enough = policy.Healthy
	}
	if v.streak >= enough {
		return vitals{healthy: passed}
	}
	return v
}

// setHealthy takes in the verdict of health checks, unless ctx has ended meanwhile. It ends no ejection:
// that checks pass does not say that requests do.
func (s *Set) setHealthy(ctx context.Context, e *endpoint, healthy bool) {
	s.health.Lock()
	defer s.health.Unlock()
	if ctx.Err() != nil {
		return
	}
	e.unhealthy = !healthy
	e.setState(*e.state)
	s.publish(e.services()...)
}

func (s *Set) healthy(e *endpoint) bool {
	s.health.Lock()
	defer s.health.Unlock()
	return !e.unhealthy
}

// checkOnce checks an endpoint on a connection of its own, so that accepting one is checked, too.
func (s *Set) checkOnce(ctx context.Context, p plan) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.Timeout))
	defer cancel()
	address := p.endpoint.address
	if p.Port != 0 {
		address = netip.AddrPortFrom(address.Addr(), p.Port)
	}
	raw, err := s.options.DialContext(ctx, "tcp", address.String())
	if err != nil {
		return err
	}
	defer closeQuietly(raw)
	req := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: address.String()}, Host: p.host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{"User-Agent": {"weft-health-check"}},
	}
	transport, judge := s.http1, passedHTTP
	switch p.Type {
	case wire.HealthCheckTCP:
		return nil
	case wire.HealthCheckGRPC:
		transport, judge = s.h2c, passedGRPC
		if err := askGRPC(req, p.Service); err != nil {
			return err
		}
	case wire.HealthCheckHTTP:
		target, err := url.ParseRequestURI(p.Path)
		if err != nil {
			return err
		}
		req.URL.Path, req.URL.RawPath, req.URL.RawQuery = target.Path, target.RawPath, target.RawQuery
		if p.http2 {
			transport = s.h2c
		}
	default:
		return fmt.Errorf("health check of type %q", p.Type)
	}
	client, err := transport.NewClientConn(withConn(ctx, raw), "http", address.String())
	if err != nil {
		return err
	}
	defer closeQuietly(client)
	resp, err := client.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return err
	}
	defer closeQuietly(resp.Body)
	return judge(resp)
}

func passedHTTP(resp *http.Response) error {
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// grpcFrame is the length of what precedes a message of gRPC: a flag, and the message's length.
const grpcFrame = 5

// askGRPC makes a request one of grpc.health.v1.
func askGRPC(req *http.Request, service string) error {
	message, err := proto.Marshal(&healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return err
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	body = append(body, message...)
	req.Method, req.URL.Path = http.MethodPost, healthpb.Health_Check_FullMethodName
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return nil
}

func passedGRPC(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxCheckResponse))
	if err != nil {
		return err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status")
	}
	if resp.StatusCode != http.StatusOK || status != "0" {
		return fmt.Errorf("status %d, gRPC status %q", resp.StatusCode, status)
	}
	if len(body) < grpcFrame {
		return errors.New("no message")
	}
	var answer healthpb.HealthCheckResponse
	if err := proto.Unmarshal(body[grpcFrame:], &answer); err != nil {
		return err
	}
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service is %s", answer.GetStatus())
	}
	return nil
}
