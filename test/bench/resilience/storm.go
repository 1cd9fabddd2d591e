package main

import (
	"context"
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

// The retries of both sides are the same. A percent of 100 does not limit; what is not said is the default.
const (
	stormWithBudget = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  retry:
    attempts: 3
    codes: [503]
    budget: {percent: 20}
`
	stormWithoutBudget = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  retry:
    attempts: 3
    codes: [503]
    budget: {percent: 100}
`
)

// storm is the scenario of retries that add to an overload.
func storm(ctx context.Context, random *rand.Rand, p plan) ([]figures.Figure, error) {
	capacity, err := stormSubject.capacity(ctx, random, p.sweep)
	if err != nil {
		return nil, err
	}
	out := capacityFigures(capacity)
	qualities := []quality{capacity.quality}
	for _, side := range []struct {
		name, objects string
		goal          bool
	}{
		{"no retries", "", false},
		{"with a budget", stormWithBudget, true},
		{"without a budget", stormWithoutBudget, false},
	} {
		o, err := stormSubject.with(side.objects).offer(ctx, random, stormLoad*capacity.goodput, p.storm)
		if err != nil {
			return nil, err
		}
		goodput := figures.New(side.name+": goodput", percentage(o.goodput, capacity.goodput), "% of capacity")
		if side.goal {
			goodput = atLeast(goodput, stormLeast)
		}
		out = append(out, goodput, figures.New(side.name+": tries for each request", o.tries/o.load, ""),
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
