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
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/bench/figures"
)

// loadCore and proxyCore are where things run, as taskset wants them.
const (
	loadCore  = "0"
	proxyCore = "1"
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

		collector = flag.String("collector", "", "where it sends traces")
	)
	flag.Parse()
	var err error
	if *role != "" {
		err = serveOwn(*role, wiring{port: *port, backend: *backend, routes: *rules, collector: *collector}, wire.Protocol(*protocol))
	} else {
		err = bench(*out, plan{rounds: *rounds, each: time.Duration(*seconds * float64(time.Second))}, *scenarios, *subjects)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pinned tells in the environment that this process is on the core of the load.
const pinned = "WEFT_BENCH_PINNED"

// pin starts the program again on the core of the load.
func pin() error {
	if os.Getenv(pinned) != "" {
		return nil
	}
	if runtime.NumCPU() < 2 {
		return fmt.Errorf("the bench needs two cores, one for the proxy alone; there are %d", runtime.NumCPU())
	}
	taskset, err := exec.LookPath("taskset")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := append([]string{taskset, "-c", loadCore, self}, os.Args[1:]...)
	return syscall.Exec(taskset, args, append(os.Environ(), pinned+"=1")) //nolint:gosec // it is this program
}

func bench(out string, p plan, scenarioNames, subjectNames string) error {
	if err := pin(); err != nil {
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
	if p.backend, err = newBackend(ctx); err != nil {
		return err
	}
	defer func() { _ = p.backend.Close() }()
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
	for _, f := range unmeasured {
		if name, _, _ := strings.Cut(f.Name, " "); wanted.MatchString(name) {
			all = append(all, f)
		}
	}
	if out == "" {
		return nil
	}
	return figures.Write(out, all)
}
