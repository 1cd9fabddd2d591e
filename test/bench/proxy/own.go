package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/wire"
)

// serveOwn is our own proxy, as weft-proxy runs it but for where its configuration comes from.
func serveOwn(name string, port, backend, rules int, protocol wire.Protocol) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	const namespace, service = "shop", "web"
	key := wire.ServicePortKey(namespace, service, 80)
	origin, scope := wire.Origin{}, wire.ScopeNamespace(namespace)
	e := engine.New(engine.Options{
		Namespace: namespace, Source: &wire.Workload{Namespace: namespace, ServiceAccount: "client"},
		HTTP: engine.HTTPEngine(name), LeaveGrace: time.Millisecond, Exchanges: admin.NewExchanges(), Log: slog.New(slog.DiscardHandler),
	})
	resources := []wire.Resource{
		wire.New(key, scope, origin, &wire.Destination{Namespace: namespace, Service: service, Port: 80, Protocol: protocol}),
		wire.New(key, scope, origin, &wire.Backend{Namespace: namespace, Service: service, Port: 80, Protocol: protocol, Meshed: true}),
		wire.New(key, scope, origin, &wire.Endpoints{Endpoints: []wire.Endpoint{{
			Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(backend)), //nolint:gosec // it is a port
		}}}),
	}
	for i := range rules {
		rule := &wire.Route{
			Kind: wire.RouteHTTP, Namespace: namespace, Name: fmt.Sprintf("route-%d", i), Destinations: []string{key},
			Matches:  []wire.Match{{Path: &wire.ValueMatch{Type: wire.MatchPrefix, Value: routePath(i)}}},
			Backends: []wire.WeightedBackend{{Backend: key, Weight: 1}},
		}
		resources = append(resources, wire.New(rule.Key(), scope, origin, rule))
	}
	if rejected := e.Apply(wire.Delta{Seq: 1, Upserted: resources}); len(rejected) > 0 {
		return fmt.Errorf("rejected: %v", rejected)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return e.ServeCaptured(engine.Direct(l, key))
}

// routePath is what rule i matches.
func routePath(i int) string { return fmt.Sprintf("/team-%d/app-%d", i/100, i) }
