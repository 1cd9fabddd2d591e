package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"weft.dev/weft/cmd/kubectl-weft/proxies"
)

// watchSplit shows what proxies count until ctx ends.
func (a *app) watchSplit(ctx context.Context, s *splitting, window time.Duration) error {
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	pods, way, err := a.pods(asking)
	if err != nil {
		return err
	}
	// Callers may be anywhere, and their proxies are those that choose.
	found := proxies.Of(pods, "")
	if len(found) == 0 {
		return a.orNotInstalled(asking, noProxy())
	}
	d := s.declared()
	ours := func(labels map[string]string, namespace string) string {
		if proxies.ByRoute(labels, namespace) != d.Route+" "+d.Rule {
			return ""
		}
		return proxies.ByBackend(labels, namespace)
	}
	before, err := a.sample(ctx, way, found, ours)
	if err != nil {
		return err
	}
	begun := a.now()
	for {
		select {
		case <-time.After(window):
		case <-ctx.Done():
			return ctx.Err()
		}
		after, err := a.sample(ctx, way, found, ours)
		if err != nil {
			return err
		}
		d.observe(proxies.Between(before, after, max(a.now().Sub(begun), time.Millisecond)))
		a.begin()
		if err := a.print(d, func(w io.Writer) error { return a.showSplit(w, d) }); err != nil {
			return err
		}
	}
}

// observe fills in what proxies have counted.
func (d *declaredSplit) observe(counted []proxies.Traffic) {
	total := int64(0)
	by := map[string]int64{}
	for _, t := range counted {
		by[t.Name] = t.Requests
		total += t.Requests
	}
	shares := slices.Clone(d.Shares)
	for i := range shares {
		n := by[shares[i].Backend]
		shares[i].Requests = &n
		if total > 0 {
			observed := 100 * float64(n) / float64(total)
			low, high := interval(n, total)
			shares[i].Observed, shares[i].Low, shares[i].High = &observed, &low, &high
		}
	}
	d.Shares = shares
}

// interval is Wilson's of 95 % for a share, in percent.
func interval(n, total int64) (low, high float64) {
	const z = 1.96
	p, of := float64(n)/float64(total), float64(total)
	middle := p + z*z/(2*of)
	spread := z * math.Sqrt(p*(1-p)/of+z*z/(4*of*of))
	scale := 100 / (1 + z*z/of)
	return max(scale*(middle-spread), 0), min(scale*(middle+spread), 100)
}

func (a *app) showSplit(w io.Writer, d declaredSplit) error {
	head := []string{"BACKEND", "WEIGHT", "DECLARED"}
	var rows [][]string
	for _, s := range d.Shares {
		row := []string{s.Backend, strconv.Itoa(int(s.Weight)), fmt.Sprintf("%.1f %%", s.Declared)}
		if s.Requests != nil {
			head = []string{"BACKEND", "WEIGHT", "DECLARED", "OBSERVED", "95 %", "REQUESTS"}
			observed, between := "-", "-"
			if s.Observed != nil {
				observed, between = fmt.Sprintf("%.1f %%", *s.Observed), fmt.Sprintf("%.1f to %.1f", *s.Low, *s.High)
				if s.Declared < *s.Low || s.Declared > *s.High {
					between = a.paint(yellow, between+" off")
				}
			}
			row = append(row, observed, between, strconv.FormatInt(*s.Requests, 10))
		}
		rows = append(rows, row)
	}
	fmt.Fprintf(w, "%s, rule %s\n", d.Route, d.Rule)
	return table(w, head, rows)
}
