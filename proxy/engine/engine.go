package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/h1"
	"weft.dev/weft/proxy/h2"
	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/trace"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// Options configure an Engine. Only Namespace is required; the zero value of every other field means
// the default that its comment names.
type Options struct {
	// Namespace is the one whose pods this proxy serves.
	Namespace string
	// ServiceAccount, if set, makes it the proxy beside one pod, which runs as that: it serves what the pod sends and, from
	// the hop, what is for the pod.
	ServiceAccount string
	// Zone is the proxy's own, for choosing proxies of other namespaces nearby, and the guess at that of a
	// client whose zone is not known.
	Zone string
	// Source, if set, is taken for every client instead of looking its address up, and the proxy needs
	// no certificate to be ready. It is for configuration from files, where no operator tells who is who.
	Source *wire.Workload
	// LeaveGrace is how long Shutdown goes on accepting, so that node agents can leave first: they probe
	// every second and need to be seen to have gone. Default: 5 s.
	LeaveGrace time.Duration
	// DenialGrace is how long requests may take to end that are not allowed any more. Default: 30 seconds, as for
	// those of a root that was dropped.
	DenialGrace time.Duration
	// SourceWait bounds the wait for a client's workload to become known. Default: 5 s.
	SourceWait time.Duration
	// DestinationWait bounds the wait for an unknown destination to be configured. Default: 2 s.
	DestinationWait time.Duration
	// HTTP is what serves and speaks HTTP. Default: HTTPWeft.
	HTTP HTTPEngine
	// Metrics receives all measurements. Default: metrics of its own.
	Metrics *telemetry.Metrics
	// Exchanges, if set, remembers requests that have ended.
	Exchanges *admin.Exchanges
	// AccessLog, if set, gets lines about requests, as policies say. It belongs to the caller.
	AccessLog *accesslog.Log
	// Resource is what spans say of the proxy.
	Resource []attribute.Attribute
	// Log may be nil.
	Log *slog.Logger
	// Dial opens connections to endpoints and other proxies. Default: that of package upstream.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Random returns a number uniformly distributed over all its values. Default: math/rand/v2.Uint64.
	Random func() uint64
}

func (o *Options) setDefaults() {
	setDefault(&o.LeaveGrace, 5*time.Second)
	setDefault(&o.DenialGrace, identity.UntrustedGrace)
	setDefault(&o.SourceWait, 5*time.Second)
	setDefault(&o.DestinationWait, 2*time.Second)
	setDefault(&o.HTTP, HTTPWeft)
	if o.Metrics == nil {
		o.Metrics = telemetry.New(0)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Random == nil {
		o.Random = rand.Uint64
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// HTTPEngine names an implementation of HTTP/1.1 and HTTP/2.
type HTTPEngine string

const (
	// HTTPStd is net/http, which the tests hold HTTPWeft to.
	HTTPStd HTTPEngine = "std"
	// HTTPWeft is packages h1 and h2.
	HTTPWeft HTTPEngine = "weft"
)

// UnmarshalText implements encoding.TextUnmarshaler, for flags.
func (h *HTTPEngine) UnmarshalText(text []byte) error {
	switch named := HTTPEngine(text); named {
	case HTTPStd, HTTPWeft:
		*h = named
		return nil
	}
	return fmt.Errorf("%q is neither %q nor %q", text, HTTPStd, HTTPWeft)
}

// MarshalText implements encoding.TextMarshaler.
func (h HTTPEngine) MarshalText() ([]byte, error) { return []byte(h), nil }

// Engine is the data plane of one proxy. It is safe for concurrent use, except that Apply is called
// serially.
type Engine struct {
	options   Options
	metrics   *telemetry.Metrics
	spans     *trace.Exporter
	identity  *identity.Store
	workloads *identity.Workloads
	upstream  *upstream.Set
	// direct sends to cluster IPs of backends that have departed.
	direct *upstream.Set

	builder    *builder
	config     atomic.Pointer[config]
	configured atomic.Bool

	captured *http.Server
	hop      *http.Server
	// own, ownHTTP2 and ownHop serve with HTTPWeft, the first two clients and the last other proxies; else they are nil.
	own              *h1.Server
	ownHTTP2, ownHop *h2.Server
	// requests and hops pass connections to these servers.
	requests *handover
	hops     *handover

	// listeners are closed when accepting ends.
	listeners listeners
	// Shutdown waits for connections whose destination and client are being found out, for those that
	// have not sent their first request, and for what outlives requests.
	admissions, fresh, relays tracker
	draining                  atomic.Bool
	failures                  failureLog
	// denials are by policy and verdict.
	denials sparseLog[string]
	// standing are the calls that go on after they have been allowed.
	standing standing
	// mirroring has room for as many mirrored requests as may be under way.
	mirroring chan struct{}
	// base ends with the engine; everything that outlives a request hangs on it.
	base   context.Context
	cancel context.CancelCauseFunc
}

var errShutdown = errors.New("engine is shut down")

// New returns an Engine without configuration: it is not ready, and connections wait until their
// destination is configured. Shutdown releases what it holds.
func New(options Options) *Engine {
	options.setDefaults()
	e := &Engine{
		options:   options,
		metrics:   options.Metrics,
		spans:     trace.NewExporter(trace.Options{Resource: options.Resource, Version: wire.Build, Log: options.Log}),
		identity:  identity.NewStore(identity.Options{Namespace: options.Namespace, ServiceAccount: options.ServiceAccount}),
		workloads: identity.NewWorkloads(),
		builder:   newBuilder(),
		requests:  newHandover(),
		hops:      newHandover(),
		mirroring: make(chan struct{}, maxMirrors),
	}
	sets := upstream.Options{
		Namespace: options.Namespace, Sidecar: e.sidecar(), Zone: options.Zone, Identity: e.identity, DialContext: options.Dial,
		OwnHTTP1: options.HTTP == HTTPWeft, OwnHTTP2: options.HTTP == HTTPWeft,
	}
	e.metrics.Traces(func() (out, overflowed, failed uint64) {
		stats := e.spans.Stats()
		return stats.Exported, stats.Overflowed, stats.Failed
	})
	if log := options.AccessLog; log != nil {
		e.metrics.AccessLog(log.Stats)
	}
	e.direct = upstream.NewSet(sets)
	sets.Measures = e.metrics
	e.upstream = upstream.NewSet(sets)
	e.config.Store(&config{
		view: e.upstream.Pin(), direct: e.direct.Pin(), replaced: make(chan struct{}),
		strays: &ruleSeries{metrics: e.metrics, listener: listenerHop},
	})
	e.base, e.cancel = context.WithCancelCause(context.Background())
	e.startServers()
	return e
}

// sidecar tells that the proxy is beside one pod.
func (e *Engine) sidecar() bool { return e.options.ServiceAccount != "" }

// Ready tells whether the first complete configuration is in force and the proxy can prove who it is, and beside a pod
// whether it knows that. Before that it must not be sent connections.
func (e *Engine) Ready() bool {
	return e.configured.Load() && (e.options.Source != nil || e.identity.Ready()) &&
		(!e.sidecar() || e.config.Load().pod.known())
}

// Accepting tells whether new connections are welcome: Ready and not about to end.
func (e *Engine) Accepting() bool { return e.Ready() && !e.draining.Load() }

// SetDisconnected tells whether the stream of configuration is lost; see upstream.Set.SetDisconnected.
func (e *Engine) SetDisconnected(disconnected bool) {
	e.upstream.SetDisconnected(disconnected)
	e.metrics.Connected(!disconnected)
}

// Metrics returns the engine's metrics.
func (e *Engine) Metrics() *telemetry.Metrics { return e.metrics }

func (e *Engine) reportReady() {
	if e.Ready() {
		e.metrics.Ready()
	}
}
