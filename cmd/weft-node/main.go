// Command weft-node is the node agent: it keeps the capture rules of every pod on its node. It wires
// flags, the container runtime and the operator's stream to package capture and decides nothing itself.
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
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/capture/canary"
	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/source"
	"weft.dev/weft/proxy/wire"
)

// config is what the flags say.
type config struct {
	operatorAddresses   []string
	tokenFile, caFile   string
	node, zone          string
	nriSocket           string
	criSocket           string
	service             netip.AddrPort
	stateDir            string
	metricsAddr, health string
	logLevel            slog.Level
}

func main() {
	c, err := parseFlags(os.Args[1:], os.Getenv, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(0)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.logLevel})).With("node", c.node)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err = run(ctx, c, log)
	stop()
	if err != nil {
		log.Error("weft-node ended", "error", err)
		os.Exit(1)
	}
}

func parseFlags(args []string, getenv func(string) string, output io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("weft-node", flag.ContinueOnError)
	flags.SetOutput(output)
	var addresses, service string
	flags.StringVar(&addresses, "operator-address", "", "host:port of the operator's configuration stream; several are separated by commas and tried in turn")
	flags.StringVar(&c.tokenFile, "token-file", "", "file with the ServiceAccount token that authenticates this agent to the operator; read again for each connection")
	flags.StringVar(&c.caFile, "ca-file", "", "file with the PEM roots that the operator's certificate must lead to; read again for each connection")
	flags.StringVar(&c.node, "node", "", "name of this node, for logs")
	flags.StringVar(&c.zone, "zone", "", "zone of this node; proxies of the same zone are preferred")
	flags.StringVar(&c.nriSocket, "nri-socket", "/var/run/nri/nri.sock", "socket of the container runtime's Node Resource Interface")
	flags.StringVar(&c.criSocket, "cri-socket", "/run/containerd/containerd.sock", "socket of the container runtime's CRI, used while the runtime offers no NRI: pods are then captured right after they start; empty disables")
	flags.StringVar(&c.stateDir, "state-dir", "", "directory that outlives the agent and its node's restarts: in it are the names of the namespaces with strict ports, whose pods then start closed while the operator is away; empty disables")
	flags.StringVar(&service, "canary-service", "", "address:port of a Service that the canary connects to; empty: the Kubernetes API's, from the environment")
	flags.StringVar(&c.metricsAddr, "metrics-bind-address", fmt.Sprintf(":%d", wire.PortMetrics), "where metrics are served")
	flags.StringVar(&c.health, "health-probe-bind-address", fmt.Sprintf(":%d", wire.PortHealth), "where /healthz and /readyz are served")
	flags.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "least level that is logged: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if flags.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	for name, value := range map[string]string{
		"operator-address": addresses, "token-file": c.tokenFile, "ca-file": c.caFile, "node": c.node,
	} {
		if value == "" {
			return config{}, fmt.Errorf("flag --%s is required", name)
		}
	}
	c.operatorAddresses = strings.Split(addresses, ",")
	if service == "" && getenv("KUBERNETES_SERVICE_HOST") != "" {
		service = net.JoinHostPort(getenv("KUBERNETES_SERVICE_HOST"), getenv("KUBERNETES_SERVICE_PORT"))
	}
	if service != "" {
		var err error
		if c.service, err = netip.ParseAddrPort(service); err != nil {
			return config{}, fmt.Errorf("canary service: %w", err)
		}
	}
	return c, nil
}

// run works until ctx ends. The rules stay in force.
func run(ctx context.Context, c config, log *slog.Logger) error {
	registry := prometheus.NewRegistry()
	stream := &source.Stream{
		Addresses: c.operatorAddresses, CAFile: c.caFile, TokenFile: c.tokenFile, Build: wire.Build, Log: log, Tidy: true,
	}
	strict := strictFile(c.stateDir)
	remembered, err := strict.read()
	if err != nil {
		// The pods of strict namespaces that start before the operator answers are late then, and reported so.
		log.Error("it is not known which namespaces had strict ports", "error", err)
	}
	agent := capture.New(capture.Config{
		Zone:          c.zone,
		NodeAddresses: nodeAddresses,
		Strict:        remembered,
		Remember:      strict.write,
		Open: func(path string) (capture.Netns, error) {
			netns, err := kernel.Open(path)
			if err != nil {
				return nil, err
			}
			return netns, nil
		},
		Probe:   capture.ProbeHTTP,
		Canary:  canary.New(c.service).Run,
		Report:  stream.Report,
		Metrics: capture.NewMetrics(registry),
		Log:     log,
	})
	stream.Apply = agent.Apply
	registry.MustRegister(agent, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	runtime := &runtime{nriSocket: c.nriSocket, agent: agent, log: log}
	if c.criSocket != "" {
		if runtime.cri, err = newCRI(c.criSocket); err != nil {
			return err
		}
		defer func() { _ = runtime.cri.close() }()
	}
	servers, err := serve(c, agent, registry)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	running.Go(func() { agent.Run(ctx) })
	running.Go(func() { runtime.run(ctx) })
	// The end of ctx is the only way for the stream to return.
	running.Go(func() { _ = stream.Run(ctx) })
	running.Wait()
	return errors.Join(servers[0].Close(), servers[1].Close())
}

// nodeAddresses returns the addresses of the network that the agent runs in, which is the node's.
func nodeAddresses() ([]netip.Addr, error) {
	own, err := kernel.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	addresses, err := own.Addresses()
	return addresses, errors.Join(err, own.Close())
}

// serve starts the servers for metrics and health.
func serve(c config, agent *capture.Agent, registry *prometheus.Registry) ([2]*http.Server, error) {
	health := http.NewServeMux()
	health.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	health.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case !agent.Configured():
			http.Error(w, "no configuration has been received", http.StatusServiceUnavailable)
		case !agent.Listed():
			http.Error(w, "the container runtime has not listed its pods", http.StatusServiceUnavailable)
		}
	})
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	var servers [2]*http.Server
	for i, s := range []struct {
		address string
		handler http.Handler
	}{{c.metricsAddr, metrics}, {c.health, health}} {
		listener, err := net.Listen("tcp", s.address)
		if err != nil {
			return servers, fmt.Errorf("listen: %w", err)
		}
		server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second}
		servers[i] = server
		// Close is the only way for it to return.
		go func() { _ = server.Serve(listener) }()
	}
	return servers, nil
}
