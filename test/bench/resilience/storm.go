package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"weft.dev/weft/test/bench/figures"
)

// stormSubject are four instances that answer 503 when four requests wait for their turn, which costs each
// a part of the time for a request.
var stormSubject = subject{
	instances:  4,
	capability: capability{mean: 20 * time.Millisecond, spread: 0.25, queue: 4, refusal: 0.08},
	timeout:    time.Second,
}

// stormLoad is the load as a multiple of the capacity: half of all tries fail, and more with each retry.
const stormLoad = 2

// stormLeast is the goodput that a budget must keep, in percent of the capacity.
const stormLeast = 85

// What policies say about the storm. The retries are the same with and without a budget, since a percent of
// 100 does not limit. What is not said is the default.
const (
	stormPolicy = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
`
	withBudget    = "  retry: {attempts: 3, codes: [503], budget: {percent: 20}}\n"
	withoutBudget = "  retry: {attempts: 3, codes: [503], budget: {percent: 100}}\n"
	withoutEject  = "  outlierEjection: {consecutiveFailures: 0}\n"
)

// stormSide is one way to treat the same load.
type stormSide struct {
	name, policy string
	// goal tells that the goodput has one.
	goal bool
}

// stormSides differ in their retries. That is seen for itself where nothing is ejected for its refusals: they
// are those of a Service with too much to do, of which no instance is worse than another. The defaults must
// not make that worse.
var stormSides = []stormSide{
	{"no retries, no ejection", withoutEject, false},
	{"budget, no ejection", withBudget + withoutEject, true},
	{"no budget, no ejection", withoutBudget + withoutEject, false},
	{"no retries", "", false},
	{"budget", withBudget, true},
}

// storm is the scenario of retries that add to an overload.
func storm(ctx context.Context, random *rand.Rand, p plan) ([]figures.Figure, error) {
	capacity, err := stormSubject.with(stormPolicy+withoutEject).capacity(ctx, random, p.sweep)
	if err != nil {
		return nil, err
	}
	out := capacityFigures(capacity)
	qualities := []quality{capacity.quality}
	for _, side := range stormSides {
		objects := ""
		if side.policy != "" {
			objects = stormPolicy + side.policy
		}
		o, err := stormSubject.with(objects).offer(ctx, random, stormLoad*capacity.goodput, p.storm)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", side.name, err)
		}
		goodput := figures.New(side.name+": goodput", percentage(o.goodput, capacity.goodput), "% of capacity")
		if side.goal {
			goodput = goodput.AtLeast(stormLeast)
		}
		out = append(out, goodput,
			figures.New(side.name+": tries for each request", o.tries/o.load, ""),
			took(side.name+": p99 of those answered 200", o.p99))
		out = append(out, offeredFigures(side.name, o)...)
		qualities = append(qualities, o.quality)
	}
	return append(out, worst(qualities...)...), nil
}

func capacityFigures(o offered) []figures.Figure {
	return []figures.Figure{
		figures.New("capacity", o.goodput, "requests/s"),
		figures.New("capacity: load", o.load, "requests/s"),
		took("capacity: p99", o.p99),
	}
}

// offeredFigures are those that are for reading only.
func offeredFigures(name string, o offered) []figures.Figure {
	return []figures.Figure{
		figures.New(name+": load", o.load, "requests/s"),
		figures.New(name+": refused", o.refused, "requests/s"),
		figures.New(name+": no answer in time", o.gaveUp, "requests/s"),
	}
}
