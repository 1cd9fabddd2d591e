//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

const (
	// churnEdits is how many edits of one route a load has to live through.
	churnEdits = 1000
	// churnRest is the pace of the edits that are not in a burst: slow enough that some requests meet
	// one generation alone.
	churnRest = 75 * time.Millisecond
	// calmEdits are the last ones, each of which is given time to meet requests of every load.
	calmEdits = 15
)

// edition is one state of the route under churn: what it names, and when it held.
type edition struct {
	// versions may answer, after the route has set mark.
	versions []string
	mark     string
	// begun is when the write began; programmed is when the test saw Programmed=True, zero if it did not
	// wait for that.
	begun, programmed time.Time
}

// explains tells whether a sample is an answer by this edition.
func (e *edition) explains(s *traffic.Sample) bool {
	return e.mark == s.Mark && slices.Contains(e.versions, s.Version)
}

// TestChurn edits a route 1,000 times under load: its weights, filters, backends, matches, and whether it
// is there. No request may fail, and none may be answered by a state of the route that was over when it
// was sent, or that had not begun when it ended.
func TestChurn(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	namespace := bed.Namespace(t, true)
	backend := map[string]string{"role": "backend"}
	pods := bed.Run(t, namespace,
		testbed.App{Name: "v1", Version: "v1", Node: "node1", Labels: backend},
		testbed.App{Name: "v2", Version: "v2", Node: "node2", Labels: backend},
		testbed.App{Name: "v3", Version: "v3", Node: "node1", Labels: backend},
		testbed.App{Name: "client", Node: "node2"})
	sender := pods[3]
	objects := []client.Object{testbed.NewService(namespace, "web", backend)}
	for _, v := range []string{"v1", "v2", "v3"} {
		objects = append(objects, testbed.NewService(namespace, "web-"+v, map[string]string{"version": v}))
	}
	bed.Create(t, objects...)
	bed.Proxies(t, namespace)
	c := &churn{t: t, route: testbed.HTTPRoute(t, namespace, `
metadata: {name: web}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
`), random: rand.New(rand.NewPCG(1, 2))}
	c.observe()
	c.write(true)
	request := traffic.Request{URL: "http://web." + namespace}
	captured(t, sender, request)
	captured(t, w.abroadClient, request)

	http2 := request
	http2.Protocol = traffic.H2C
	post := request
	post.Method, post.Body = "POST", "not to be repeated"
	loads := []*testbed.Load{
		sender.Load(t, traffic.Load{Requests: []traffic.Request{request, http2}, Workers: 4, Rate: 60}),
		sender.Load(t, traffic.Load{Requests: []traffic.Request{post}, Workers: 2, Rate: 30}),
		sender.Load(t, traffic.Load{Requests: []traffic.Request{request}, Workers: 2, Rate: 30, NewConnections: true}),
		w.abroadClient.Load(t, traffic.Load{Requests: []traffic.Request{post, http2}, Workers: 4, Rate: 60}),
	}
	start := time.Now()
	ticker := time.NewTicker(churnRest)
	defer ticker.Stop()
	for len(c.editions) < churnEdits {
		n := len(c.editions)
		switch {
		case n%25 == 24:
			c.remove()
		case n%10 < 3: // a burst
			c.write(false)
		default:
			c.write(true)
			<-ticker.C
		}
	}
	took := time.Since(start)
	// However slow the machine is, many requests meet one edition alone.
	for range calmEdits {
		c.write(true)
		more(loads)
	}
	var samples []traffic.Sample
	for _, l := range loads {
		samples = append(samples, l.Stop().Samples...)
	}
	c.judge(samples, took)
}

// churn edits one route and keeps what it has been.
type churn struct {
	t        *testing.T
	route    *gwv1.HTTPRoute
	random   *rand.Rand
	editions []edition
	// programmed receives the route each time that all its parents are programmed in its generation.
	programmed chan *gwv1.HTTPRoute
	exists     bool
}

// observe follows the route's status until the test ends.
func (c *churn) observe() {
	c.t.Helper()
	w, err := bed.Client.Watch(c.t.Context(), &gwv1.HTTPRouteList{}, client.InNamespace(c.route.Namespace))
	if err != nil {
		c.t.Fatal(err)
	}
	c.programmed = make(chan *gwv1.HTTPRoute)
	go func() {
		defer w.Stop()
		for event := range w.ResultChan() {
			route, ok := event.Object.(*gwv1.HTTPRoute)
			if !ok || event.Type == watch.Deleted || testbed.Programmed(route) != "" {
				continue
			}
			select {
			case c.programmed <- route:
			case <-c.t.Context().Done():
				return
			}
		}
	}()
}

// next returns a spec unlike the one before, and the versions it names.
func (c *churn) next() (gwv1.HTTPRouteSpec, []string) {
	versions := []string{"v1", "v2", "v3"}
	c.random.Shuffle(len(versions), func(i, j int) { versions[i], versions[j] = versions[j], versions[i] })
	versions = versions[:1+c.random.IntN(len(versions))]
	var refs []gwv1.HTTPBackendRef
	for i, v := range versions {
		refs = append(refs, backendRef("web-"+v, int32(1+c.random.IntN(100)*min(i, 1))))
	}
	if c.random.IntN(3) == 0 {
		// Weight 0: named, and never to be sent to.
		for _, v := range []string{"v1", "v2", "v3"} {
			if !slices.Contains(versions, v) {
				refs = append(refs, backendRef("web-"+v, 0))
			}
		}
	}
	mark := gwv1.HTTPRouteFilter{
		Type:                  gwv1.HTTPRouteFilterRequestHeaderModifier,
		RequestHeaderModifier: &gwv1.HTTPHeaderFilter{Set: []gwv1.HTTPHeader{{Name: traffic.MarkHeader, Value: c.mark()}}},
	}
	rule := gwv1.HTTPRouteRule{Filters: []gwv1.HTTPRouteFilter{mark}, BackendRefs: refs}
	switch c.random.IntN(4) {
	case 0:
		prefix := "/rewritten"
		rule.Filters = append(rule.Filters, gwv1.HTTPRouteFilter{
			Type: gwv1.HTTPRouteFilterURLRewrite,
			URLRewrite: &gwv1.HTTPURLRewriteFilter{Path: &gwv1.HTTPPathModifier{
				Type: gwv1.FullPathHTTPPathModifier, ReplaceFullPath: &prefix,
			}},
		})
	case 1:
		rule.Filters = append(rule.Filters, gwv1.HTTPRouteFilter{
			Type:                   gwv1.HTTPRouteFilterResponseHeaderModifier,
			ResponseHeaderModifier: &gwv1.HTTPHeaderFilter{Remove: []string{"E2e-Version"}},
		})
	case 2:
		exact, path := gwv1.PathMatchExact, "/"
		rule.Matches = []gwv1.HTTPRouteMatch{{Path: &gwv1.HTTPPathMatch{Type: &exact, Value: &path}}}
	}
	spec := *c.route.Spec.DeepCopy()
	spec.Rules = []gwv1.HTTPRouteRule{rule}
	return spec, versions
}

func (c *churn) mark() string { return fmt.Sprintf("edit-%d", len(c.editions)) }

func backendRef(name string, weight int32) gwv1.HTTPBackendRef {
	port := gwv1.PortNumber(testbed.PortHTTP)
	return gwv1.HTTPBackendRef{BackendRef: gwv1.BackendRef{
		BackendObjectReference: gwv1.BackendObjectReference{Name: gwv1.ObjectName(name), Port: &port}, Weight: &weight,
	}}
}

// write creates the route or replaces its spec and, with wait, waits until that is programmed.
func (c *churn) write(wait bool) {
	c.t.Helper()
	spec, versions := c.next()
	e := edition{versions: versions, mark: c.mark(), begun: time.Now()}
	if c.exists {
		testbed.Update(c.t, bed, c.route, func(r *gwv1.HTTPRoute) { r.Spec = spec })
	} else {
		c.route.ObjectMeta = metav1.ObjectMeta{Namespace: c.route.Namespace, Name: c.route.Name}
		c.route.Spec, c.route.Status, c.exists = spec, gwv1.HTTPRouteStatus{}, true
		if err := bed.Client.Create(c.t.Context(), c.route); err != nil {
			c.t.Fatal(err)
		}
	}
	if wait {
		c.await()
		e.programmed = time.Now()
	}
	c.editions = append(c.editions, e)
}

func (c *churn) await() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), testbed.Patience)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			bed.AwaitProgrammed(c.t, c.route)
			c.t.Fatal("the watch of the route tells nothing any more")
		case r := <-c.programmed:
			if r.UID == c.route.UID && r.Generation == c.route.Generation {
				return
			}
		}
	}
}

// remove deletes the route: the Service alone decides then.
func (c *churn) remove() {
	c.t.Helper()
	c.editions = append(c.editions, edition{versions: []string{"v1", "v2", "v3"}, begun: time.Now()})
	if err := bed.Client.Delete(c.t.Context(), c.route); err != nil {
		c.t.Fatal(err)
	}
	c.exists = false
}

// judge looks at every request. Between the last edition that was programmed when it was sent and the
// last that had begun when it ended, one must explain the answer.
func (c *churn) judge(samples []traffic.Sample, took time.Duration) {
	c.t.Helper()
	failed, wrong, alone := 0, 0, 0
	for i := range samples {
		s := &samples[i]
		if s.Failure != "" {
			failed++
			c.t.Errorf("sent at %s: %s", s.Sent, s.Failure)
			continue
		}
		first := 0
		for n := range c.editions {
			if p := c.editions[n].programmed; !p.IsZero() && !p.After(s.Sent) {
				first = n
			}
		}
		end, _ := slices.BinarySearchFunc(c.editions, s.Ended, func(e edition, at time.Time) int { return cmp.Or(e.begun.Compare(at), -1) })
		possible := c.editions[first:end]
		if len(possible) == 1 {
			alone++
		}
		if !slices.ContainsFunc(possible, func(e edition) bool { return e.explains(s) }) {
			wrong++
			c.t.Errorf("sent at %s: answered by %q with the mark %q, while editions %d to %d held: %+v", s.Sent, s.Version, s.Mark, first, end-1, possible)
		}
	}
	c.t.Logf("%d edits in %s (%.0f/s), %d requests, %d of them while one edition held alone: %d failed, %d wrong",
		len(c.editions), took.Round(time.Millisecond), float64(len(c.editions))/took.Seconds(), len(samples), alone, failed, wrong)
	// The judgement is worth something only if many requests had one right answer.
	if alone < churnEdits {
		c.t.Errorf("only %d of %d requests were sent while one edition held alone", alone, len(samples))
	}
}
