package status

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

// proxies is an Acknowledgements whose answer the test sets.
type proxies struct {
	mu sync.Mutex
	n  int
	m  int
	// outdated of them leave things out.
	outdated int
	// enforcement is what is known of every port.
	enforcement Enforcement
}

func (p *proxies) Enforcement([]compile.ServicePort) Enforcement {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.enforcement
}

func (p *proxies) Outdated(string, []wire.Held) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outdated
}

func (p *proxies) Holds(string, []wire.Held) (acknowledged, connected int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n, p.m
}

func (p *proxies) age(outdated int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outdated = outdated
}

func (p *proxies) set(n, m int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.m = n, m
}

// rig is a writer on a fake API that counts its writes, inside a synctest bubble.
type rig struct {
	t       *testing.T
	client  client.Client
	proxies *proxies
	writer  *Writer
	events  *events.FakeRecorder
	// prune makes the API server keep nothing of what is written.
	prune bool
	// before, if set, is called before each write.
	before func()
	mu     sync.Mutex
	writes int
	reads  int
}

func newRig(t *testing.T, object client.Object) *rig {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, install := range []func(*runtime.Scheme) error{gwv1.Install, meshv1alpha1.AddToScheme} {
		if err := install(scheme); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{t: t, proxies: &proxies{}, events: events.NewFakeRecorder(100)}
	r.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(object).WithStatusSubresource(object).
		WithInterceptorFuncs(interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, name client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
				r.mu.Lock()
				r.reads++
				r.mu.Unlock()
				return c.Get(ctx, name, obj, opts...)
			},
			SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, obj client.Object, opts ...client.SubResourceUpdateOption) error {
				r.mu.Lock()
				r.writes++
				r.mu.Unlock()
				if r.before != nil {
					r.before()
				}
				if r.prune {
					return unchanged(ctx, c, obj)
				}
				return c.SubResource(sub).Update(ctx, obj, opts...)
			},
		}).Build()
	r.writer = NewWriter(r.client, r.proxies, r.events, logr.Discard())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.writer.Start(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

func (r *rig) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) expect(writes int, programmed metav1.ConditionStatus) {
	r.t.Helper()
	route := &gwv1.HTTPRoute{}
	if err := r.client.Get(r.t.Context(), types.NamespacedName{Namespace: "shop", Name: "web"}, route); err != nil {
		r.t.Fatal(err)
	}
	got := metav1.ConditionUnknown
	for _, p := range route.Status.Parents {
		if c := meta.FindStatusCondition(p.Conditions, ConditionProgrammed); c != nil {
			got = c.Status
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writes != writes || got != programmed {
		r.t.Errorf("%d writes and Programmed=%s, want %d and %s", r.writes, got, writes, programmed)
	}
}

func httpRoute() *gwv1.HTTPRoute {
	return &gwv1.HTTPRoute{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u", Generation: 1}}
}

func desired() compile.RouteStatus {
	s := accepted(1, "web")
	s.Kind, s.Name, s.UID = wire.RouteHTTP, types.NamespacedName{Namespace: "shop", Name: "web"}, "u"
	s.Parents[0].Resources = []wire.Held{{Ref: wire.Ref{Kind: wire.KindRoute, Key: "r"}, Version: "1"}}
	s.Parents[0].Audience = []string{"shop"}
	return s
}

// routes and policies are changes to statuses.
func routes(statuses ...compile.RouteStatus) compile.Delta {
	d := compile.Delta{Routes: map[compile.Target]*compile.RouteStatus{}}
	for i, s := range statuses {
		d.Routes[compile.Target{Kind: string(s.Kind), Namespace: s.Name.Namespace, Name: s.Name.Name}] = &statuses[i]
	}
	return d
}

func policies(statuses ...compile.PolicyStatus) compile.Delta {
	d := compile.Delta{Policies: map[types.NamespacedName]*compile.PolicyStatus{}}
	for i, s := range statuses {
		d.Policies[s.Name] = &statuses[i]
	}
	return d
}

func TestOneWriteWhenProxiesAreQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		r.proxies.set(0, 2)
		r.writer.Update(routes(desired()))
		r.after(50 * time.Millisecond)
		r.expect(0, metav1.ConditionUnknown)
		r.proxies.set(2, 2)
		r.writer.Acknowledged()
		r.after(time.Second)
		r.expect(1, metav1.ConditionTrue)
	})
}

func TestTwoWritesWhenProxiesAreSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		r.proxies.set(0, 2)
		r.writer.Update(routes(desired()))
		r.after(time.Second)
		r.expect(1, metav1.ConditionFalse)
		r.proxies.set(1, 2)
		r.writer.Acknowledged()
		r.after(time.Second)
		r.expect(1, metav1.ConditionFalse) // counts alone wait
		r.proxies.set(2, 2)
		r.writer.Acknowledged()
		r.after(time.Second)
		r.expect(2, metav1.ConditionTrue)
	})
}

func TestCountsAreWrittenEveryTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		r.proxies.set(0, 5)
		r.writer.Update(routes(desired()))
		for i := range 40 {
			r.after(500 * time.Millisecond)
			r.proxies.set(i%4, 5)
			r.writer.Acknowledged()
		}
		r.after(0)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.writes < 2 || r.writes > 3 {
			t.Errorf("%d writes in 20 s, want the first and at most one every 10 s", r.writes)
		}
	})
}

func TestNoWriteAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		r.proxies.set(2, 2)
		r.writer.Update(routes(desired()))
		r.after(time.Second)
		r.expect(1, metav1.ConditionTrue)
		for range 10 {
			r.proxies.set(1, 3) // proxies merely come and go
			r.writer.Update(routes(desired()))
			r.writer.Acknowledged()
			r.after(time.Minute)
		}
		r.expect(1, metav1.ConditionTrue)
	})
}

func TestOnlyChangedStatusesAreLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		r.proxies.set(2, 2)
		r.writer.Update(routes(desired()))
		r.after(time.Second)
		before := r.reads
		r.writer.Update(routes(desired()))
		r.after(time.Second)
		if r.reads != before {
			t.Errorf("%d reads for a pass that changed nothing", r.reads-before)
		}
		changed := desired()
		changed.Parents[0].Conditions[0].Message = "attached elsewhere"
		r.writer.Update(routes(changed))
		r.after(time.Second)
		r.expect(2, metav1.ConditionTrue)
	})
}

func TestRouteThatIsDeletedMeanwhileIsNoError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, httpRoute())
		var problems []string
		r.writer.Log = funcr.New(func(_, args string) { problems = append(problems, args) }, funcr.Options{})
		r.before = func() {
			if err := r.client.Delete(t.Context(), httpRoute()); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
		r.proxies.set(1, 1)
		r.writer.Update(routes(desired()))
		r.after(time.Minute)
		if r.writes != 1 || len(problems) > 0 {
			t.Errorf("%d writes, want 1, and no error: %v", r.writes, problems)
		}
	})
}

func TestStaleEntriesAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		route := httpRoute()
		route.Status.Parents = Merge([]gwv1.RouteParentStatus{foreign("web")}, accepted(1, "web"), []Progress{{Acknowledged: 1, Proxies: 1}}, earlier)
		r := newRig(t, route)
		r.writer.Update(routes(Stale([]*gwv1.HTTPRoute{route}, nil)...))
		r.after(time.Second)
		r.expect(1, metav1.ConditionUnknown)
	})
}
