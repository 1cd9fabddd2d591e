package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"time"

	"weft.dev/weft/test/bench/figures"
	"weft.dev/weft/test/bench/load"
)

// plan is what and how long is measured.
type plan struct {
	rounds   int
	each     time.Duration
	subjects *regexp.Regexp
	dir      string
	programs map[string]string
	backend  *load.Backend
	// grpc is the backend of calls of gRPC.
	grpc *load.Backend
	// identities is the directory of those of pairs.
	identities string
	// collector is where traces are sent.
	collector *collector
	// profiles is where CPU profiles of our own proxies go, if they are taken.
	profiles string
}

// goal bounds the ratio of a subject's median to that of another.
type goal struct {
	subject, to string
	most        float64
}

// scenario is one thing that is measured of several subjects.
type scenario struct {
	name     string
	subjects []string
	unit     string
	goals    []goal
	wiring   wiring
	// paired tells that each subject is two proxies, with mutual TLS between them.
	paired bool
	// once tells that a subject can be measured only once.
	once bool
	// measure measures a subject that runs, once.
	measure func(context.Context, *plan, *subject) (map[string]float64, error)
}

var (
	everybody = []string{relay, haproxy, nginx, envoy, std, weft}
	// h1Goals are those of small requests.
	h1Goals = []goal{{weft, haproxy, 1.0}, {weft, std, 0.40}, {weft, envoy, 0.5}, {weft, relay, 1.4}}
	// multiplexing are those that speak HTTP/2 on both sides.
	multiplexing = []string{haproxy, envoy, std, weft}
	grpcGoals    = []goal{{weft, envoy, 0.5}, {weft, std, 0.4}}
	pairGoals    = []goal{{weft, envoy, 0.5}}
)

const cpuUnit = "us of CPU per request"

var scenarios = []scenario{
	{name: "h1-1k-16", subjects: everybody, unit: cpuUnit, measure: saturated(16, "GET", "/1024", 0),
		goals: append([]goal{{weft, haproxy, 1.15}}, h1Goals[1:]...)},
	{name: "h1-1k-64", subjects: everybody, unit: cpuUnit, measure: saturated(64, "GET", "/1024", 0), goals: h1Goals},
	{name: "h1-1k-128", subjects: everybody, unit: cpuUnit, measure: saturated(128, "GET", "/1024", 0), goals: h1Goals},
	{name: "h1-post-64k", subjects: everybody, unit: cpuUnit, measure: saturated(16, "POST", "/100", 64<<10), goals: []goal{{weft, haproxy, 1.0}}},
	{name: "h1-get-1m", subjects: everybody, unit: cpuUnit, measure: saturated(16, "GET", "/1048576", 0), goals: []goal{{weft, haproxy, 1.0}}},
	{name: "h1-rate-1000", subjects: everybody, unit: cpuUnit, measure: fixedRate(1000)},
	{name: "routes", subjects: []string{weft}, unit: cpuUnit},
	{name: "idle", subjects: everybody, unit: "KiB per connection", measure: idleMemory(5000), once: true},
	{name: "tcp", subjects: []string{relay, haproxy, envoy, weft}, unit: "us of CPU per MiB", wiring: wiring{tcp: true}, measure: throughput,
		goals: []goal{{weft, haproxy, 1.05}}},
	{name: "grpc-1", subjects: multiplexing, unit: cpuUnit, wiring: wiring{grpc: true}, measure: called(16, 1), goals: grpcGoals},
	{name: "grpc-32", subjects: multiplexing, unit: cpuUnit, wiring: wiring{grpc: true}, measure: called(4, 32), goals: grpcGoals},
	{name: "mtls-pair", subjects: multiplexing, unit: cpuUnit, paired: true, measure: saturated(64, "GET", "/1024", 0), goals: pairGoals},
	{name: "mtls-pair-grpc", subjects: multiplexing, unit: cpuUnit, paired: true, wiring: wiring{grpc: true}, measure: called(4, 32), goals: pairGoals},
	observability,
	{name: "connections", subjects: everybody, unit: "us of CPU per connection", measure: churned, goals: []goal{{weft, haproxy, 1.5}}},
	{name: "connections-mtls", subjects: multiplexing, unit: "us of CPU per connection", wiring: wiring{side: far}, paired: true, measure: shaken},
}

// perRequest is the CPU that each request of a load has taken.
func perRequest(s *subject, send func() (load.Tally, error)) (float64, load.Tally, error) {
	before, err := s.cpu()
	if err != nil {
		return 0, load.Tally{}, err
	}
	t, err := send()
	if err != nil {
		return 0, t, fmt.Errorf("%s: %w", s.name, err)
	}
	after, err := s.cpu()
	if err != nil || t.Requests == 0 {
		return 0, t, fmt.Errorf("%s answered %d requests: %w", s.name, t.Requests, err)
	}
	return float64((after - before).Nanoseconds()) / 1000 / float64(t.Requests), t, nil
}

func saturated(connections int, method, path string, body int) func(context.Context, *plan, *subject) (map[string]float64, error) {
	text := load.Request(method, path, body)
	return func(ctx context.Context, p *plan, s *subject) (map[string]float64, error) {
		cpu, t, err := perRequest(s, func() (load.Tally, error) { return load.Saturate(ctx, load.To(s.address), connections, text, p.each) })
		return map[string]float64{"": cpu, "requests per second": float64(t.Requests) / t.Took.Seconds()}, err
	}
}

func fixedRate(rate int) func(context.Context, *plan, *subject) (map[string]float64, error) {
	text := load.Request("GET", "/1024", 0)
	return func(ctx context.Context, p *plan, s *subject) (map[string]float64, error) {
		cpu, t, err := perRequest(s, func() (load.Tally, error) { return load.Steady(ctx, load.To(s.address), 16, rate, text, p.each) })
		if err != nil {
			return nil, err
		}
		at := func(share float64) float64 { return float64(t.Quantile(share).Nanoseconds()) / 1000 }
		return map[string]float64{"": cpu, "p50 us": at(0.5), "p99 us": at(0.99), "p99.9 us": at(0.999)}, nil
	}
}

func churned(ctx context.Context, p *plan, s *subject) (map[string]float64, error) {
	text := load.Request("GET", "/100", 0)
	cpu, t, err := perRequest(s, func() (load.Tally, error) { return load.Churn(ctx, s.address, 16, text, p.each) })
	return map[string]float64{"": cpu, "connections per second": float64(t.Requests) / t.Took.Seconds()}, err
}

// throughput downloads through a proxy of connections.
func throughput(ctx context.Context, p *plan, s *subject) (map[string]float64, error) {
	const mib = 16
	text := load.Request("GET", fmt.Sprintf("/%d", mib<<20), 0)
	cpu, t, err := perRequest(s, func() (load.Tally, error) { return load.Saturate(ctx, load.To(s.address), 4, text, p.each) })
	return map[string]float64{"": cpu / mib, "MiB per second": mib * float64(t.Requests) / t.Took.Seconds()}, err
}

// idleMemory is what connections cost that wait for another request.
func idleMemory(connections int) func(context.Context, *plan, *subject) (map[string]float64, error) {
	text := load.Request("GET", "/100", 0)
	return func(ctx context.Context, _ *plan, s *subject) (map[string]float64, error) {
		before, err := s.memory()
		if err != nil {
			return nil, err
		}
		release, err := load.Hold(ctx, s.address, connections, text)
		if err != nil {
			return nil, err
		}
		defer release()
		after, err := s.memory()
		return map[string]float64{"": (after - before) / 1024 / float64(connections), "MiB without any": before / (1 << 20)}, err
	}
}

// run measures a scenario.
func (s *scenario) run(ctx context.Context, p *plan) ([]figures.Figure, error) {
	if s.name == "routes" {
		return s.runRoutes(ctx, p)
	}
	var running []*subject
	defer func() {
		for _, one := range running {
			one.stop()
		}
	}()
	for _, name := range s.subjects {
		program := p.programs[name]
		if program == "" || !p.subjects.MatchString(name) {
			continue
		}
		w := s.wiring
		w.dir, w.backend, w.collector, w.profiles = p.dir, p.backend.Port, p.collector.URL, p.profiles
		if w.grpc {
			w.backend = p.grpc.Port
		}
		if s.paired {
			w.pair = p.identities
		}
		one, err := start(ctx, name, program, w)
		if err != nil {
			return nil, err
		}
		running = append(running, one)
	}
	rounds := *p
	if s.once {
		rounds.rounds = 1
	}
	measured, err := s.rounds(ctx, &rounds, running, s.measure)
	if err != nil {
		return nil, err
	}
	all := s.figures(measured)
	if s.name == observability.name {
		if p.collector.taken.Load() == 0 {
			return nil, errors.New("no trace has arrived")
		}
		series, err := idleSeries()
		if err != nil {
			return nil, err
		}
		all = append(all, series)
	}
	return all, nil
}

// rounds measures subjects in turn, in an order that is reversed from round to round. Every figure of a subject has
// one value for each round.
func (s *scenario) rounds(ctx context.Context, p *plan, subjects []*subject, measure func(context.Context, *plan, *subject) (map[string]float64, error)) (map[string]map[string][]float64, error) {
	measured := map[string]map[string][]float64{}
	for _, one := range subjects {
		measured[one.name] = map[string][]float64{}
	}
	order := slices.Clone(subjects)
	for round := range p.rounds {
		for _, one := range order {
			values, err := measure(ctx, p, one)
			if err != nil {
				return nil, err
			}
			for name, value := range values {
				measured[one.name][name] = append(measured[one.name][name], value)
			}
		}
		slices.Reverse(order)
		fmt.Fprintf(os.Stderr, "%s: round %d of %d\n", s.name, round+1, p.rounds)
	}
	return measured, nil
}

// figures are the medians, how far the rounds lie apart, and the goals.
func (s *scenario) figures(measured map[string]map[string][]float64) []figures.Figure {
	var all []figures.Figure
	for _, subject := range s.subjects {
		name := s.name + " " + subject
		values := measured[subject]
		if len(values[""]) == 0 {
			all = append(all, figures.Figure{Name: name, Unit: s.unit})
			continue
		}
		middle := figures.Median(values[""])
		all = append(all, figures.New(name, middle, s.unit),
			figures.New(name+" spread", 100*(slices.Max(values[""])-slices.Min(values[""]))/middle, "% of the median"))
		for _, more := range sortedKeys(values) {
			if more != "" {
				all = append(all, figures.New(name+" "+more, figures.Median(values[more]), ""))
			}
		}
	}
	goals := s.goals
	for _, g := range goals {
		all = append(all, ratio(s.name, "", g, measured))
	}
	switch s.name {
	case "h1-rate-1000":
		all = append(all, ratio(s.name, "p50 us", goal{weft, haproxy, 1.2}, measured), ratio(s.name, "p99 us", goal{weft, haproxy, 1.5}, measured),
			ratio(s.name, "", goal{weft, haproxy, 1.3}, measured), ratio(s.name, "", goal{weft, envoy, 0.6}, measured))
	case "idle":
		for _, limit := range []struct {
			name, of string
			most     float64
		}{{"memory of an idle connection", "", 8}, {"memory of an idle proxy", "MiB without any", 20}} {
			f := figures.Figure{Name: s.name + " " + weft + " " + limit.name, Unit: map[string]string{"": "KiB"}[limit.of]}
			if f.Unit == "" {
				f.Unit = "MiB"
			}
			if values := measured[weft][limit.of]; len(values) > 0 {
				f.Value = new(figures.Median(values))
			}
			all = append(all, f.AtMost(limit.most))
		}
	}
	return all
}

func ratio(scenario, of string, g goal, measured map[string]map[string][]float64) figures.Figure {
	name := fmt.Sprintf("%s %s/%s", scenario, g.subject, g.to)
	if of != "" {
		name += " " + of
	}
	f := figures.Figure{Name: name, Unit: "x"}
	if a, b := measured[g.subject][of], measured[g.to][of]; len(a) > 0 && len(b) > 0 {
		f.Value = new(figures.Median(a) / figures.Median(b))
	}
	return f.AtMost(g.most)
}

// runRoutes measures one proxy with few rules and one with many of one host, each asked for its last.
func (s *scenario) runRoutes(ctx context.Context, p *plan) ([]figures.Figure, error) {
	var running []*subject
	defer func() {
		for _, one := range running {
			one.stop()
		}
	}()
	texts := map[string][]byte{}
	few := ""
	var goals []goal
	counts := []int{1, 1000, 10000}
	names := make([]string, 0, len(counts))
	for _, count := range counts {
		one, err := start(ctx, weft, p.programs[weft], wiring{dir: p.dir, backend: p.backend.Port, routes: count})
		if err != nil {
			return nil, err
		}
		running = append(running, one)
		one.name = fmt.Sprintf("%s with %d rules", weft, count)
		names = append(names, one.name)
		texts[one.name] = load.Request("GET", routePath(count-1)+"/1024", 0)
		if few == "" {
			few = one.name
		} else {
			goals = append(goals, goal{one.name, few, 1.05})
		}
	}
	measured, err := s.rounds(ctx, p, running, func(ctx context.Context, p *plan, one *subject) (map[string]float64, error) {
		cpu, _, err := perRequest(one, func() (load.Tally, error) {
			return load.Saturate(ctx, load.To(one.address), 64, texts[one.name], p.each)
		})
		return map[string]float64{"": cpu}, err
	})
	if err != nil {
		return nil, err
	}
	several := *s
	several.subjects, several.goals = names, goals
	return several.figures(measured), nil
}

func sortedKeys(m map[string][]float64) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
