package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/bench/figures"
)

const (
	// warmUp changes come before those that count.
	warmUp = 10
	// writers create objects at the same time.
	writers = 8
	// restTime is how long it is looked whether something is written while nothing changes.
	restTime = 5 * time.Second
	// graceTime is longer than an operator that has started waits for proxies and agents, before it says something of
	// them in the status of the Mesh.
	graceTime = 15 * time.Second
)

// changed is what was measured of one change: how long after the start of its write the bare watch had it, and the
// proxy had it in force.
type changed struct{ watch, effect time.Duration }

// measure brings the cluster to a number of routes and measures there.
func (s *stage) measure(ctx context.Context, size, changes int) ([]figures.Figure, error) {
	name := func(what string) string { return fmt.Sprintf("%d routes: %s", size, what) }
	added := size - s.routes
	before, err := s.counters(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.grow(ctx, size); err != nil {
		return nil, err
	}
	grown := time.Since(began)
	if err := s.settle(ctx, size); err != nil {
		return nil, err
	}
	after, err := s.counters(ctx)
	if err != nil {
		return nil, err
	}
	out := []figures.Figure{
		figures.New(name("creating the new ones took"), grown.Seconds(), "s"),
		figures.New(name("all were programmed after another"), (time.Since(began) - grown).Seconds(), "s"),
		figures.New(name("status writes for each new route"), (after.statusWrites-before.statusWrites)/float64(added), ""),
	}
	restart, err := s.restart(ctx, size, name)
	if err != nil {
		return nil, err
	}
	out = append(out, restart...)
	for _, kind := range []string{"HTTPRoute", "EndpointSlice"} {
		found, err := s.measureChanges(ctx, kind, size, changes, name)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// restart restarts the operator and measures what that costs and what it uses then.
func (s *stage) restart(ctx context.Context, size int, name func(string) string) ([]figures.Figure, error) {
	had := s.proxy.received()
	took, err := s.restartOperator(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.settle(ctx, size); err != nil {
		return nil, err
	}
	has := s.proxy.received()
	if err := pause(ctx, graceTime); err != nil {
		return nil, err
	}
	before, err := s.counters(ctx)
	if err != nil {
		return nil, err
	}
	if err := pause(ctx, restTime); err != nil {
		return nil, err
	}
	after, err := s.counters(ctx)
	if err != nil {
		return nil, err
	}
	operator, err := memoryOf(s.operator.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	proxy, err := memoryOf(s.proxy.process.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	pss := figures.New(name("memory of the operator, Pss"), operator, "MiB")
	if size == goalMemorySize {
		pss = pss.AtMost(math.Floor(goalMemory))
	}
	of := figures.New(name("memory of the proxy, Pss"), proxy, "MiB")
	if size == goalSize {
		of = of.AtMost(goalProxyMemory)
	}
	return []figures.Figure{
		figures.New(name("operator's restart to the proxy in sync"), took.Seconds(), "s"),
		figures.New(name("resources sent again after it"), float64(has-had), ""),
		figures.New(name("status writes at rest"), after.statusWrites-before.statusWrites, "").AtMost(0),
		pss, figures.New(name("heap of the operator in use"), after.heap/(1<<20), "MiB"), of,
	}, nil
}

// measureChanges changes objects of a kind, one after the other.
func (s *stage) measureChanges(ctx context.Context, kind string, size, changes int, name func(string) string) ([]figures.Figure, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sights, err := s.watch(ctx, kind)
	if err != nil {
		return nil, err
	}
	var all []changed
	var before, after counters
	for i := range warmUp + changes {
		if i == warmUp {
			if before, err = s.counters(ctx); err != nil {
				return nil, err
			}
		}
		c, err := s.change(ctx, kind, sights)
		if err != nil {
			return nil, err
		}
		if i >= warmUp {
			all = append(all, c)
		}
		// No change keeps step with anything.
		if err := pause(ctx, 5*time.Millisecond+rand.N(10*time.Millisecond)); err != nil {
			return nil, err
		}
	}
	// What is written about the last one is written soon.
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	if after, err = s.counters(ctx); err != nil {
		return nil, err
	}
	column := func(of func(changed) time.Duration) []float64 {
		var values []float64
		for _, c := range all {
			values = append(values, of(c).Seconds()*1000)
		}
		slices.Sort(values)
		return values
	}
	effect, seen := column(func(c changed) time.Duration { return c.effect }), column(func(c changed) time.Duration { return c.watch })
	behind := column(func(c changed) time.Duration { return c.effect - c.watch })
	median, tail := figures.New(name(kind+", effect behind the bare watch, p50"), percentile(behind, 0.5), "ms"),
		figures.New(name(kind+", effect behind the bare watch, p99"), percentile(behind, 0.99), "ms")
	if size == goalSize {
		median, tail = median.AtMost(goalMedian), tail.AtMost(goalTail)
	}
	n := float64(changes)
	out := []figures.Figure{
		figures.New(name(kind+", write to the bare watch, p50"), percentile(seen, 0.5), "ms"),
		figures.New(name(kind+", write to effect, p50"), percentile(effect, 0.5), "ms"),
		figures.New(name(kind+", write to effect, p99"), percentile(effect, 0.99), "ms"), median, tail,
		figures.New(name(kind+", processor time of the operator for each change"), (after.cpu-before.cpu)*1000/n, "ms"),
		figures.New(name(kind+", bytes to the proxy for each change"), (after.bytes-before.bytes)/n, "B").AtMost(goalBytes),
		figures.New(name(kind+", status writes for each change"), (after.statusWrites-before.statusWrites)/n, ""),
	}
	return out, nil
}

// sight is a change as the bare watch sees it.
type sight struct {
	key, value string
	at         int64
}

// watch follows all objects of a kind as little as a client can.
func (s *stage) watch(ctx context.Context, kind string) (<-chan sight, error) {
	var list client.ObjectList = &gwv1.HTTPRouteList{}
	if kind == "EndpointSlice" {
		list = &discoveryv1.EndpointSliceList{}
	}
	if err := s.client.List(ctx, list, client.InNamespace(namespace), client.Limit(1)); err != nil {
		return nil, fmt.Errorf("list: %w", err)
	}
	w, err := s.client.Watch(ctx, list, client.InNamespace(namespace), &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}})
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	sights := make(chan sight, 1<<14)
	go func() {
		defer w.Stop()
		for event := range w.ResultChan() {
			at := time.Now().UnixNano()
			if event.Type != watch.Modified {
				continue
			}
			switch o := event.Object.(type) {
			case *gwv1.HTTPRoute:
				if r := o.Spec.Rules[0].Filters; len(r) > 0 && r[0].RequestRedirect != nil {
					sights <- sight{o.Name, string(*r[0].RequestRedirect.Hostname), at}
				}
			case *discoveryv1.EndpointSlice:
				sights <- sight{o.Name, o.Endpoints[0].Addresses[0], at}
			}
		}
	}()
	return sights, nil
}

// change makes one change and waits for both to have it.
func (s *stage) change(ctx context.Context, kind string, sights <-chan sight) (changed, error) {
	s.generation++
	i := s.generation % measured
	s.proxy.drain()
	name, key := serviceName(i), namespace+"/"+serviceName(i)+":80"
	var value string
	var object client.Object
	var patch client.Patch
	var reported string
	if kind == "HTTPRoute" {
		reported = "Route"
		value = fmt.Sprintf("e%d.example", s.generation)
		object = &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		patch = client.RawPatch("application/json-patch+json", []byte(
			`[{"op":"replace","path":"/spec/rules/0/filters/0/requestRedirect/hostname","value":"`+value+`"}]`))
	} else {
		reported = "Endpoints"
		value = fmt.Sprintf("10.201.%d.%d", s.generation/250%250, 1+s.generation%250)
		object = &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
		patch = client.RawPatch("application/json-patch+json", []byte(
			`[{"op":"replace","path":"/endpoints/0/addresses/0","value":"`+value+`"}]`))
	}
	start := time.Now().UnixNano()
	if err := s.client.Patch(ctx, object, patch); err != nil {
		return changed{}, fmt.Errorf("change: %w", err)
	}
	at, err := s.proxy.await(ctx, reported, key, value)
	if err != nil {
		return changed{}, err
	}
	for {
		select {
		case seen := <-sights:
			if seen.key == name && seen.value == value {
				return changed{watch: time.Duration(seen.at - start), effect: time.Duration(at - start)}, nil
			}
		case <-time.After(time.Minute):
			return changed{}, fmt.Errorf("the watch has not seen %s of %s", value, name)
		}
	}
}

// grow creates routes, each with a Service and an EndpointSlice, until there are size of them.
func (s *stage) grow(ctx context.Context, size int) error {
	next := make(chan int)
	failed := make(chan error, writers)
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for i := range next {
				for _, o := range objectsOf(i) {
					if err := s.create(ctx, o); err != nil {
						failed <- fmt.Errorf("create %T %s: %w", o, o.GetName(), err)
						return
					}
				}
			}
		})
	}
	var err error
	for i := s.routes; i < size && err == nil; i++ {
		select {
		case next <- i:
		case err = <-failed:
		}
	}
	close(next)
	group.Wait()
	s.routes = size
	select {
	case err = <-failed:
	default:
	}
	return err
}

// create creates an object. An API server that has no time says so after a minute, and may have created it all the same.
func (s *stage) create(ctx context.Context, object client.Object) error {
	err := s.client.Create(ctx, object)
	for range 5 {
		if !apierrors.IsTimeout(err) && !apierrors.IsServerTimeout(err) {
			return err
		}
		object.SetResourceVersion("")
		if err = s.client.Create(ctx, object); apierrors.IsAlreadyExists(err) {
			return nil
		}
	}
	return err
}

// objectsOf are a Service with one endpoint and its route. The first ones redirect, so that what is in force can be
// told from an answer.
func objectsOf(i int) []client.Object {
	name := serviceName(i)
	at := metav1.ObjectMeta{Namespace: namespace, Name: name}
	slice := at
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	rule := gwv1.HTTPRouteRule{
		Matches: []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Type: new(gwv1.PathMatchPathPrefix), Value: new("/")}}},
		BackendRefs: []gwv1.HTTPBackendRef{{BackendRef: gwv1.BackendRef{BackendObjectReference: gwv1.BackendObjectReference{
			Name: gwv1.ObjectName(name), Port: new(gwv1.PortNumber(80)),
		}}}},
	}
	if i < measured {
		rule.BackendRefs = nil
		rule.Filters = []gwv1.HTTPRouteFilter{{
			Type:            gwv1.HTTPRouteFilterRequestRedirect,
			RequestRedirect: &gwv1.HTTPRequestRedirectFilter{Hostname: new(gwv1.PreciseHostname("e0.example"))},
		}}
	}
	return []client.Object{
		&corev1.Service{ObjectMeta: at, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, AppProtocol: new("http")}},
		}},
		&discoveryv1.EndpointSlice{
			ObjectMeta: slice, AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.200.%d.%d", i/250, 1+i%250)}}},
			Ports:     []discoveryv1.EndpointPort{{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)}},
		},
		&gwv1.HTTPRoute{ObjectMeta: at, Spec: gwv1.HTTPRouteSpec{
			CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{{
				Group: new(gwv1.Group("")), Kind: new(gwv1.Kind("Service")), Name: gwv1.ObjectName(name), Port: new(gwv1.PortNumber(80)),
			}}},
			Rules: []gwv1.HTTPRouteRule{rule},
		}},
	}
}

// settle waits until every route is programmed and nothing is written about routes any more.
func (s *stage) settle(ctx context.Context, size int) error {
	err := until(ctx, "not all routes are programmed", func() (bool, error) {
		var list gwv1.HTTPRouteList
		if err := s.client.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return false, err
		}
		programmed := 0
		for i := range list.Items {
			for _, p := range list.Items[i].Status.Parents {
				if c := meta.FindStatusCondition(p.Conditions, "Programmed"); c != nil && c.Status == metav1.ConditionTrue {
					programmed++
				}
			}
		}
		return programmed == size, fmt.Errorf("%d of %d are", programmed, size)
	})
	if err != nil {
		return err
	}
	last := -1.0
	return until(ctx, "statuses are written without an end", func() (bool, error) {
		c, err := s.counters(ctx)
		if err != nil {
			return false, err
		}
		same := c.statusWrites == last
		last = c.statusWrites
		return same, pause(ctx, 500*time.Millisecond)
	})
}

// percentile returns the smallest of sorted values that at least the share p of all does not exceed.
func percentile(sorted []float64, p float64) float64 {
	rank := int(math.Ceil(p * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// isStatusWrite tells whether a request that the API server has counted wrote a status of what the operator reports
// on.
func isStatusWrite(resource, subresource, verb string) bool {
	return subresource == "status" && (verb == "PUT" || verb == "PATCH") &&
		slices.Contains([]string{"httproutes", "grpcroutes", "meshpolicies", "meshauthorizations", "meshes"}, strings.ToLower(resource))
}
