package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/source"
	"weft.dev/weft/proxy/wire"
)

// ClientAccount is the ServiceAccount that clients of the harness run as.
const ClientAccount = "client"

// ClientNode and ClientZone are where clients of the harness are.
const (
	ClientNode = "node-1"
	ClientZone = "zone-1"
)

// drainLimit is how long a proxy's connections may take to end. Those of clients have ended before.
const drainLimit = 10 * time.Second

// proxy is the data plane of one namespace.
type proxy struct {
	namespace string
	address   netip.Addr
	engine    *engine.Engine
	// lines is nil if nobody reads them.
	lines   *accesslog.Log
	stop    context.CancelFunc
	serving sync.WaitGroup
	failed  chan error

	mu sync.Mutex
	// listeners are those of captured destinations, by key.
	listeners map[string]net.Listener
}

// startProxy runs the proxy of a namespace and connects it with the configuration server. hop is where
// it accepts the proxies of other namespaces.
func startProxy(c *control, options engine.Options, address netip.Addr, hop net.Listener) (*proxy, error) {
	token, err := c.tokenFile(options.Namespace)
	if err != nil {
		return nil, err
	}
	p := &proxy{
		namespace: options.Namespace, address: address, engine: engine.New(options), lines: options.AccessLog,
		failed: make(chan error, 1), listeners: map[string]net.Listener{},
	}
	p.serve(func() error { return p.engine.ServeHop(hop) })
	stream := &source.Stream{
		Addresses: []string{serverName}, ServerName: serverName, Dial: c.dial, CAFile: c.caFile(), TokenFile: token,
		Build: wire.Build, Apply: p.engine.Apply, Log: options.Log,
		OnConnection: func(connected bool, _ error) { p.engine.SetDisconnected(!connected) },
		MinBackoff:   time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	// The end of ctx is the only way for it to return.
	p.serving.Go(func() { _ = stream.Run(ctx) })
	return p, nil
}

// capture gives each destination a real port, which stands for its cluster IP, and returns all of them.
// A port stays when its destination goes: an agent may be late.
func (p *proxy) capture(keys []string) (map[string]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, key := range keys {
		if p.listeners[key] != nil {
			continue
		}
		l, err := listen()
		if err != nil {
			return nil, err
		}
		p.listeners[key] = l
		p.serve(func() error { return p.engine.ServeCaptured(engine.Direct(l, key)) })
	}
	addresses := make(map[string]string, len(p.listeners))
	for key, l := range p.listeners {
		addresses[key] = l.Addr().String()
	}
	return addresses, nil
}

func (p *proxy) serve(accept func() error) {
	p.serving.Go(func() {
		if err := accept(); err != nil {
			select {
			case p.failed <- err:
			default: // one failure is enough
			}
		}
	})
}

// close drains the proxy and ends it.
func (p *proxy) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainLimit)
	defer cancel()
	err := p.engine.Shutdown(ctx)
	if p.lines != nil {
		p.lines.Close(ctx)
	}
	p.stop()
	p.serving.Wait()
	select {
	case failed := <-p.failed:
		err = errors.Join(err, failed)
	default:
	}
	if err != nil {
		return fmt.Errorf("proxy of %s: %w", p.namespace, err)
	}
	return nil
}

// closeAll closes proxies at once, since each waits for its connections.
func closeAll(proxies []*proxy) error {
	errs := make([]error, len(proxies))
	var closing sync.WaitGroup
	for i, p := range proxies {
		closing.Go(func() { errs[i] = p.close() })
	}
	closing.Wait()
	return errors.Join(errs...)
}
