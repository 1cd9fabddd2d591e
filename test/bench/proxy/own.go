package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

// serveOwn is our own proxy, as weft-proxy runs it but for where its configuration comes from.
func serveOwn(name string, w wiring, protocol wire.Protocol) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	const namespace, service = "shop", "web"
	key := wire.ServicePortKey(namespace, service, 80)
	origin, scope := wire.Origin{}, wire.ScopeNamespace(namespace)
	speaks, _, _ := strings.Cut(name, "-")
	options := engine.Options{
		Namespace: namespace, Source: &wire.Workload{Namespace: namespace, ServiceAccount: "client"},
		HTTP: engine.HTTPEngine(speaks), LeaveGrace: time.Millisecond, Exchanges: admin.NewExchanges(), Log: slog.New(slog.DiscardHandler),
	}
	destination := &wire.Destination{Namespace: namespace, Service: service, Port: 80, Protocol: protocol}
	more, err := observe(name, w.collector, &options, destination)
	if err != nil {
		return err
	}
	if w.profiles != "" {
		if err := profile(ctx, w.profiles); err != nil {
			return err
		}
	}
	if w.pair != "" {
		return servePaired(ctx, options, w, protocol)
	}
	e := engine.New(options)
	resources := []wire.Resource{
		wire.New(key, scope, origin, destination),
		wire.New(key, scope, origin, &wire.Backend{Namespace: namespace, Service: service, Port: 80, Protocol: protocol, Meshed: true}),
		wire.New(key, scope, origin, &wire.Endpoints{Endpoints: []wire.Endpoint{{
			Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(w.backend)), //nolint:gosec // it is a port
		}}}),
	}
	for i := range w.routes {
		rule := &wire.Route{
			Kind: wire.RouteHTTP, Namespace: namespace, Name: fmt.Sprintf("route-%d", i), Destinations: []string{key},
			Matches:  []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: routePath(i)}}},
			Backends: []wire.WeightedBackend{{Backend: key, Weight: 1}},
		}
		resources = append(resources, wire.New(rule.Key(), scope, origin, rule))
	}
	if rejected := e.Apply(wire.Delta{Seq: 1, Upserted: append(resources, more...)}); len(rejected) > 0 {
		return fmt.Errorf("rejected: %v", rejected)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)))
	if err != nil {
		return err
	}
	if len(more) > 0 {
		go scrape(ctx, e)
	}
	return e.ServeCaptured(engine.Direct(l, key))
}

// profile writes a CPU profile of the process to a file of a directory, and ends the process at the end of ctx.
func profile(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // it is for everybody to read
		return err
	}
	f, err := os.CreateTemp(dir, "*.pprof")
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(0)
	}()
	return nil
}

// routePath is what rule i matches.
func routePath(i int) string { return fmt.Sprintf("/team-%d/app-%d", i/100, i) }
