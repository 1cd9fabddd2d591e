// Command proxy measures what our proxies cost beside HAProxy, nginx, Envoy and a relay that only copies bytes: the CPU
// time of the proxy for each request, its latency and its memory. The proxy is alone on one core; load and backend
// share another one. All subjects of a scenario run in every round, in an order that is reversed from round to round,
// and what is compared are the medians of one run. A peer that is not there leaves its goals without a value, and
// not met. It judges no more than that; it fails when it could not measure.
//
//	go run ./test/bench/proxy -rounds 5 -scenarios h1 -out build/bench/proxy.json
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/bench/cost"
	"weft.dev/weft/test/bench/figures"
	"weft.dev/weft/test/bench/load"
)

func main() {
	var (
		out       = flag.String("out", "build/bench/proxy.json", "where the figures go; empty: nowhere")
		rounds    = flag.Int("rounds", 5, "how often each subject is measured")
		seconds   = flag.Float64("seconds", 2, "how long each measurement takes")
		scenarios = flag.String("scenarios", "", "regular expression of the names of what is measured; empty: all")
		subjects  = flag.String("subjects", "", "the same of subjects")

		role     = flag.String("subject", "", "used by the bench itself: be this subject")
		port     = flag.Int("port", 0, "of the subject")
		backend  = flag.Int("backend", 0, "port of its backend")
		rules    = flag.Int("rules", 0, "how many rules it has")
		protocol = flag.String("protocol", string(wire.ProtocolHTTP), "what it forwards")

		pair      = flag.String("pair", "", "directory of the identities of a pair of proxies")
		stands    = flag.String("side", "", "which of a pair it is")
		collector = flag.String("collector", "", "where it sends traces")
		profiles  = flag.String("profiles", "", "a directory for CPU profiles of our own proxies; empty: none are taken")
	)
	flag.Parse()
	var err error
	if *role != "" {
		err = serveOwn(*role, wiring{port: *port, backend: *backend, routes: *rules, collector: *collector, profiles: *profiles, pair: *pair, side: side(*stands)}, wire.Protocol(*protocol))
	} else {
		err = bench(*out, plan{rounds: *rounds, each: time.Duration(*seconds * float64(time.Second)), profiles: *profiles}, *scenarios, *subjects)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func bench(out string, p plan, scenarioNames, subjectNames string) error {
	if err := cost.Pin(); err != nil {
		return err
	}
	wanted, err := regexp.Compile(scenarioNames)
	if err != nil {
		return err
	}
	if p.subjects, err = regexp.Compile(subjectNames); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if p.dir, err = os.MkdirTemp("", "bench-proxy"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(p.dir) }()
	if err := os.Chmod(p.dir, 0o755); err != nil { //nolint:gosec // nginx works as somebody else
		return err
	}
	if p.programs, err = programs(ctx, p.dir); err != nil {
		return err
	}
	if p.backend, err = load.NewBackend(ctx); err != nil {
		return err
	}
	defer func() { _ = p.backend.Close() }()
	if p.grpc, err = newGRPCBackend(ctx); err != nil {
		return err
	}
	defer func() { _ = p.grpc.Close() }()
	p.identities = filepath.Join(p.dir, "identities")
	if err := os.Mkdir(p.identities, 0o700); err != nil {
		return err
	}
	if err := newIdentities(p.identities); err != nil {
		return err
	}
	p.collector = newCollector()
	defer p.collector.Close()
	var all []figures.Figure
	for _, s := range scenarios {
		if !wanted.MatchString(s.name) {
			continue
		}
		measured, err := s.run(ctx, &p)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		fmt.Println(figures.Table(measured))
		all = append(all, measured...)
	}
	if out == "" {
		return nil
	}
	return figures.Write(out, all)
}
