// Command weft-proxy is the data plane of one namespace, or with --service-account of the one pod that it is beside: it
// serves the captured connections of the namespace's pods, or of the pod, and the hop of other proxies, by the
// configuration that the operator streams to it. It wires flags, listeners and signals to packages source and engine and decides nothing itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/engine"
	"weft.dev/weft/proxy/source"
	"weft.dev/weft/proxy/wire"
)

// config is what the flags say.
type config struct {
	operatorAddresses []string
	tokenFile, caFile string
	stateDir          string
	namespace, pod    string
	serviceAccount    string
	node, zone        string
	leave, drain      time.Duration
	http              engine.HTTPEngine
	logLevel          slog.Level
	// accessLog is where lines about requests go; logs of the proxy itself go to standard error.
	accessLog io.Writer
	// listen opens one of the ports of the contract.
	listen func(port int) (net.Listener, error)
}

func main() { os.Exit(start(os.Args[1:])) }

// start runs the proxy until it is told to end, and returns the exit code.
func start(args []string) int {
	c, err := parseFlags(args, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.logLevel})).
		With("namespace", c.namespace, "pod", c.pod, "node", c.node)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, c, log); err != nil {
		log.Error("weft-proxy ended", "error", err)
		return 1
	}
	return 0
}

func parseFlags(args []string, output io.Writer) (config, error) {
	c := config{listen: listen, accessLog: os.Stdout}
	flags := flag.NewFlagSet("weft-proxy", flag.ContinueOnError)
	flags.SetOutput(output)
	var addresses string
	flags.StringVar(&addresses, "operator-address", "", "host:port of the operator's configuration stream; several are separated by commas and tried in turn")
	flags.StringVar(&c.tokenFile, "token-file", "", "file with the ServiceAccount token that authenticates this proxy to the operator; read again for each connection")
	flags.StringVar(&c.caFile, "ca-file", "", "file with the PEM roots that the operator's certificate must lead to; read again for each connection")
	flags.StringVar(&c.stateDir, "state-dir", "", "directory on a memory-backed volume for the last good configuration, private keys included; empty: it is not kept")
	flags.StringVar(&c.namespace, "namespace", "", "namespace whose pods this proxy serves")
	flags.StringVar(&c.serviceAccount, "service-account", "", "ServiceAccount of the one pod that this proxy is beside and serves; empty: it serves all pods of the namespace")
	flags.StringVar(&c.pod, "pod", "", "name of this pod, for logs and traces")
	flags.StringVar(&c.node, "node", "", "name of this pod's node, for logs and traces")
	flags.StringVar(&c.zone, "zone", "", "zone of this pod's node; proxies of the same zone are preferred")
	flags.DurationVar(&c.leave, "leave-grace", 5*time.Second, "how long connections are still accepted after SIGTERM, so that node agents and other proxies can leave first")
	flags.DurationVar(&c.drain, "drain-grace", 45*time.Second, "how long open connections may take to end after that")
	flags.TextVar(&c.http, "http-engine", engine.HTTPWeft, "what serves and speaks HTTP: weft (Weft's own) or std (net/http)")
	flags.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "least level that is logged: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if flags.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for name, value := range map[string]string{
		"operator-address": addresses, "token-file": c.tokenFile, "ca-file": c.caFile, "namespace": c.namespace,
	} {
		if value == "" {
			return config{}, fmt.Errorf("flag --%s is required", name)
		}
	}
	c.operatorAddresses = strings.Split(addresses, ",")
	return c, nil
}

// listen opens a port for both address families, that of administration on loopback alone. The original
// destination of a captured connection can be read from a plain TCP socket only, not from one of Multipath TCP.
func listen(port int) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	if port != wire.PortAdmin {
		return c.Listen(context.Background(), "tcp", net.JoinHostPort("", strconv.Itoa(port)))
	}
	l, err := c.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		// A pod may have no IPv4 at all.
		return c.Listen(context.Background(), "tcp", net.JoinHostPort("::1", strconv.Itoa(port)))
	}
	return l, nil
}

// run serves until ctx ends and then drains. An error means that the proxy could not do its work, or
// that connections had to be cut.
func run(ctx context.Context, c config, log *slog.Logger) error {
	listeners := map[int]net.Listener{}
	for _, port := range []int{wire.PortCaptured, wire.PortHop, wire.PortHealth, wire.PortAdmin, wire.PortMetrics} {
		l, err := c.listen(port)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		defer func() { _ = l.Close() }()
		listeners[port] = l
	}
	exchanges := admin.NewExchanges()
	lines := accesslog.New(c.accessLog)
	e := engine.New(engine.Options{
		Namespace: c.namespace, ServiceAccount: c.serviceAccount, Zone: c.zone, LeaveGrace: c.leave, Exchanges: exchanges, Log: log, HTTP: c.http,
		AccessLog: lines, Resource: resource(c),
	})
	s := newStream(c, e, log)
	inventory := &admin.Inventory{
		Build: wire.Build, Namespace: c.namespace, Pod: c.pod, Ready: e.Ready, Connected: s.Connected, Held: &s.Held,
	}
	s.Apply = inventory.Watch(e.Apply)

	// The configuration keeps coming until all connections have ended.
	streaming, stopStreaming := context.WithCancel(context.Background())
	streamed := make(chan struct{})
	go func() {
		defer close(streamed)
		// The end of the context is the only way for it to return.
		_ = s.Run(streaming)
	}()
	defer func() {
		stopStreaming()
		<-streamed
	}()

	health := &http.Server{Handler: e.HealthHandler(), ReadHeaderTimeout: probeTimeout}
	administration := &http.Server{Handler: admin.Handler(inventory, exchanges), ReadHeaderTimeout: probeTimeout}
	metrics := &http.Server{Handler: e.Metrics().Handler(), ReadHeaderTimeout: probeTimeout}
	captured := engine.Captured(listeners[wire.PortCaptured])
	if c.serviceAccount != "" {
		captured = engine.CapturedBeside(listeners[wire.PortCaptured])
	}
	servers := []func() error{
		func() error { return e.ServeCaptured(captured) },
		func() error { return e.ServeHop(listeners[wire.PortHop]) },
		func() error { return health.Serve(listeners[wire.PortHealth]) },
		func() error { return administration.Serve(listeners[wire.PortAdmin]) },
		func() error { return metrics.Serve(listeners[wire.PortMetrics]) },
	}
	ended := make(chan error, len(servers))
	for _, server := range servers {
		go func() { ended <- server() }()
	}
	var err error
	select {
	case <-ctx.Done():
		log.Info("Draining", "leave", c.leave, "drain", c.drain)
	case err = <-ended:
	}
	drain, cancel := context.WithTimeout(context.Background(), c.leave+c.drain)
	defer cancel()
	err = errors.Join(err, e.Shutdown(drain), health.Close(), administration.Close(), metrics.Close())
	flush, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	lines.Close(flush)
	return err
}

// flushTimeout bounds how long the last lines of the access log may take.
const flushTimeout = time.Second

// resource is what spans say of this proxy, by the names of OpenTelemetry.
func resource(c config) []attribute.Attribute {
	out := []attribute.Attribute{
		attribute.String(attribute.ServiceName, "weft-proxy"), attribute.String(attribute.ServiceNamespace, c.namespace),
		attribute.String(attribute.ServiceVersion, wire.Build), attribute.String(attribute.K8sNamespace, c.namespace),
	}
	if c.pod != "" {
		out = append(out, attribute.String(attribute.ServiceInstance, c.namespace+"/"+c.pod), attribute.String(attribute.K8sPod, c.pod))
	}
	if c.node != "" {
		out = append(out, attribute.String(attribute.K8sNode, c.node))
	}
	return out
}

// probeTimeout bounds how long a prober may take to send its request.
const probeTimeout = 5 * time.Second

// newStream returns the stream of the operator's configuration.
func newStream(c config, e *engine.Engine, log *slog.Logger) *source.Stream {
	// Until the operator has been reached, saved configuration may be out of date.
	e.SetDisconnected(true)
	s := &source.Stream{
		Addresses: c.operatorAddresses, CAFile: c.caFile, TokenFile: c.tokenFile, Build: wire.Build, Log: log, Tidy: true,
		OnConnection: func(connected bool, _ error) { e.SetDisconnected(!connected) },
	}
	if c.stateDir != "" {
		s.Cache = &source.Cache{Path: filepath.Join(c.stateDir, "config"), PrivateKeys: true}
	}
	return s
}
