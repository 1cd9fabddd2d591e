package main

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"weft.dev/weft/test/bench/figures"
)

// overloadSubject are four instances that never say no and work for clients that have given up as well.
var overloadSubject = subject{
	instances:  4,
	capability: capability{mean: 20 * time.Millisecond, spread: 0.25, queue: unboundedQueue},
	timeout:    time.Second,
}

const (
	// overloadLoad is the load as a multiple of the capacity, overloadLeast the goodput that circuit breaking
	// must keep, in percent of it.
	overloadLoad  = 3
	overloadLeast = 85
	// What overloadBreaking says, and what p99 may exceed it by.
	overloadRequests = 16
	overloadPending  = 100 * time.Millisecond
	overloadMargin   = 50 * time.Millisecond
)

// Four requests for each instance keep it busy; as many wait as they do in less than the timeout.
const overloadBreaking = `
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  circuitBreaking: {maxRequests: 16, maxPendingRequests: 16, pendingTimeout: 100ms}
`

// overload is the scenario of three times the load that can be done.
func overload(ctx context.Context, random *rand.Rand, p plan) ([]figures.Figure, error) {
	capacity, err := overloadSubject.capacity(ctx, random, p.sweep)
	if err != nil {
		return nil, err
	}
	out := capacityFigures(capacity)
	qualities := []quality{capacity.quality}
	for _, side := range []struct {
		name, objects string
		goal          bool
	}{
		{"with circuit breaking", overloadBreaking, true},
		{"without", "", false},
	} {
		o, err := overloadSubject.with(side.objects).offer(ctx, random, overloadLoad*capacity.goodput, p.overload)
		if err != nil {
			return nil, err
		}
		goodput := figures.New(side.name+": goodput", percentage(o.goodput, capacity.goodput), "% of capacity")
		p99 := took(side.name+": p99 of those answered 200", o.p99)
		if side.goal {
			goodput, p99 = goodput.AtLeast(overloadLeast), p99.AtMost(math.Round(milliseconds(overloadBound(capacity.goodput))))
		}
		out = append(append(out, goodput, p99), offeredFigures(side.name, o)...)
		qualities = append(qualities, o.quality)
	}
	return append(out, worst(qualities...)...), nil
}

// overloadBound is what p99 of the requests that are let through may be: those that are under way take as
// long as the capacity needs for them (Little's law), and before that a request waits for at most
// pendingTimeout.
func overloadBound(capacity float64) time.Duration {
	underWay := time.Duration(overloadRequests / capacity * float64(time.Second))
	return underWay + overloadPending + overloadMargin
}
