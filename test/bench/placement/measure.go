package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"weft.dev/weft/test/bench/cost"
	"weft.dev/weft/test/bench/figures"
	"weft.dev/weft/test/bench/load"
)

const (
	// connections are open at once, or one from each pod where there are more.
	connections = 16
	// mb is the unit of the goal.
	mb = 1e6
	// idleGoal is the most that a proxy beside a pod may hold that has nothing to do, in mb.
	idleGoal = 20
)

// way is one that requests go.
type way string

const (
	direct  way = "direct"
	within  way = "within a namespace"
	between way = "between namespaces"
)

// crossing is what the load of a way has come to: CPU of all proxies for each request, and latency.
type crossing struct{ cpu, p50, p99 float64 }

// result is what a placement costs with so many pods in each namespace.
type result struct {
	pods     int
	sidecars bool
	ways     map[way]crossing
	// resident and proportional are the memory of a namespace's proxies, in mb; rest is their CPU without any request, in
	// milliseconds of a second.
	resident, proportional, rest float64
	// one is the most that any of the proxies beside pods holds.
	one cost.Memory
}

func (r *result) name() string {
	placement := "namespace"
	if r.sidecars {
		placement = "sidecar"
	}
	return fmt.Sprintf("%s, %d pods", placement, r.pods)
}

// measure starts a placement, measures it, and ends it.
func measure(ctx context.Context, p plan, pods int, sidecars bool) (r *result, err error) {
	r = &result{pods: pods, sidecars: sidecars, ways: map[way]crossing{}}
	m, err := newMesh(ctx, p.program, pods, sidecars)
	if err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, m.complaints())
			return
		}
		err = m.close()
	}()
	if err := m.look(ctx); err != nil {
		return r, err
	}
	before, err := m.cpu()
	if err != nil {
		return r, err
	}
	resting := time.Now()
	if err := pause(ctx, p.each); err != nil {
		return r, err
	}
	after, err := m.cpu()
	if err != nil {
		return r, err
	}
	r.rest = float64((after - before).Microseconds()) / float64(time.Since(resting).Milliseconds()) / float64(len(namespaces))
	if err := r.memory(m); err != nil {
		return r, err
	}
	return r, r.load(ctx, p, m)
}

// memory reads that of proxies that nobody has called yet.
func (r *result) memory(m *mesh) error {
	for _, p := range m.pods {
		if p.proxy == nil {
			continue
		}
		held, err := cost.MemoryOf(p.proxy.Process.Pid)
		if err != nil {
			return err
		}
		r.resident += held.Resident / mb / float64(len(namespaces))
		r.proportional += held.Proportional / mb / float64(len(namespaces))
		if !p.shared && held.Resident > r.one.Resident {
			r.one = held
		}
	}
	return nil
}

// load sends requests every way in turn, several times, and keeps the medians.
func (r *result) load(ctx context.Context, p plan, m *mesh) error {
	measured := map[way][]crossing{}
	for range p.rounds {
		for _, w := range []way{direct, within, between} {
			if err := m.refresh(); err != nil {
				return err
			}
			c, err := m.cross(ctx, p, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w, err)
			}
			measured[w] = append(measured[w], c)
		}
	}
	for w, all := range measured {
		middle := func(of func(crossing) float64) float64 {
			values := make([]float64, len(all))
			for i, c := range all {
				values[i] = of(c)
			}
			return figures.Median(values)
		}
		r.ways[w] = crossing{
			middle(func(c crossing) float64 { return c.cpu }), middle(func(c crossing) float64 { return c.p50 }), middle(func(c crossing) float64 { return c.p99 }),
		}
	}
	return nil
}

// cross has the pods of the first namespace send requests at a fixed rate.
func (m *mesh) cross(ctx context.Context, p plan, w way) (crossing, error) {
	clients, n := m.apps[0], 0
	dial := func(ctx context.Context) (net.Conn, error) {
		from, to := clients[n%len(clients)], serviceAddress(0)
		switch w {
		case direct:
			servers := m.apps[1]
			to = netip.AddrPortFrom(servers[n%len(servers)].address, appPort)
		case between:
			to = serviceAddress(1)
		}
		n++
		return from.dial(ctx, to)
	}
	text := load.Request("GET", "/1024", 0)
	send := func(d time.Duration) (load.Tally, error) {
		return load.Steady(ctx, dial, max(connections, len(clients)), p.rate, text, d)
	}
	// The first requests make the connections of the hop, all at once and on one core: with many pods some fail for that.
	for end := time.Now().Add(patience); ; {
		_, err := send(p.each / 4)
		if err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return crossing{}, err
		}
	}
	before, err := m.cpu()
	if err != nil {
		return crossing{}, err
	}
	t, err := send(p.each)
	if err != nil {
		return crossing{}, err
	}
	after, err := m.cpu()
	if err != nil || t.Requests == 0 {
		return crossing{}, errors.Join(err, fmt.Errorf("%d requests were answered", t.Requests))
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
	return crossing{us(after-before) / float64(t.Requests), us(t.Quantile(0.5)), us(t.Quantile(0.99))}, nil
}

// cpu is what all proxies have used.
func (m *mesh) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, p := range m.pods {
		if p.proxy == nil {
			continue
		}
		used, err := cost.CPU(p.proxy.Process.Pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

type results []*result

// table has a line for each placement and number of pods.
func (all results) table() string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	// A strings.Builder takes everything.
	_, _ = fmt.Fprintln(w, "pods\tplacement\tCPU us\tadded p50 us\tadded p99 us\tCPU us\tadded p50 us\tadded p99 us\tRSS MB\tPSS MB\tidle ms/s\t")
	_, _ = fmt.Fprintln(w, "\t\t"+strings.Repeat("within\t", 3)+strings.Repeat("between\t", 3)+strings.Repeat("a namespace\t", 3))
	for _, r := range all {
		in, out, base := r.ways[within], r.ways[between], r.ways[direct]
		placement, _, _ := strings.Cut(r.name(), ",")
		_, _ = fmt.Fprintf(w, "%d\t%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t\n", r.pods, placement,
			in.cpu, in.p50-base.p50, in.p99-base.p99, out.cpu, out.p50-base.p50, out.p99-base.p99, r.resident, r.proportional, r.rest)
	}
	_ = w.Flush()
	return text.String()
}

func (all results) figures() []figures.Figure {
	var list []figures.Figure
	for _, r := range all {
		add := func(what string, value float64, unit string) {
			list = append(list, figures.New(r.name()+": "+what, value, unit))
		}
		base := r.ways[direct]
		for _, w := range []way{within, between} {
			c := r.ways[w]
			add(string(w)+", CPU of all proxies", c.cpu, "us per request")
			add(string(w)+", added p50", c.p50-base.p50, "us")
			add(string(w)+", added p99", c.p99-base.p99, "us")
		}
		add("proxies of a namespace at rest, RSS", r.resident, "MB")
		add("proxies of a namespace at rest, PSS", r.proportional, "MB")
		add("proxies of a namespace at rest, CPU", r.rest, "ms per second")
	}
	return list
}

// goals are what is held to a bound. A run without proxies beside pods does not meet it.
func (all results) goals() []figures.Figure {
	var most []float64
	for _, r := range all {
		if r.sidecars {
			most = append(most, r.one.Resident/mb)
		}
	}
	f := figures.Figure{Name: "a proxy beside a pod at rest, RSS, the largest of all", Unit: "MB"}
	if len(most) > 0 {
		f.Value = new(slices.Max(most))
	}
	return []figures.Figure{f.AtMost(idleGoal)}
}
