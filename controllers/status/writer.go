package status

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

const (
	// pendingGrace is how long a first write waits for acknowledgements, so that a change that proxies
	// take at once costs one write and not two.
	pendingGrace = 250 * time.Millisecond
	// countsInterval is the least time between two writes that differ only in how many proxies have
	// acknowledged.
	countsInterval = 10 * time.Second
	// cacheLag is how soon the writer looks again when its cache has not seen its own last write.
	cacheLag = 10 * time.Millisecond
	// workers write in parallel; there is no client-side rate limit, the API server has its own.
	workers = 8
)

// Acknowledgements answers how many of the proxies of namespace have acknowledged all of held, and how
// many there are to acknowledge it.
type Acknowledgements interface {
	Holds(namespace string, held []wire.Held) (acknowledged, concerned int)
}

// Writer brings route statuses to what was last given to Replace. It runs on the leader only.
type Writer struct {
	// Client reads routes from a cache and writes their status subresource.
	Client client.Client
	Acks   Acknowledgements
	Log    logr.Logger

	mu      sync.Mutex
	desired map[key]desire
	waiting map[key]struct{}
	queue   workqueue.TypedRateLimitingInterface[key]
}

type key struct {
	kind wire.RouteKind
	name types.NamespacedName
}

// desire is a route's desired status and what the writer remembers of writing it.
type desire struct {
	status compile.RouteStatus
	since  time.Time
	// replaced is the resourceVersion that the last write replaced: while the cache still shows it,
	// the cache is behind.
	replaced  string
	lastWrite time.Time
}

// NewWriter returns a Writer that does nothing until Start.
func NewWriter(c client.Client, acks Acknowledgements, log logr.Logger) *Writer {
	return &Writer{
		Client:  c,
		Acks:    acks,
		Log:     log,
		desired: map[key]desire{},
		waiting: map[key]struct{}{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[key](5*time.Millisecond, 30*time.Second)),
	}
}

// Replace takes the statuses of all routes and looks at those that have changed. A route that has an
// entry of ours and is not among them must be given without parents, so that the entry is removed (see
// Stale).
func (w *Writer) Replace(routes []compile.RouteStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	next := make(map[key]desire, len(routes))
	var changed []key
	for _, r := range routes {
		k := key{r.Kind, r.Name}
		d, known := w.desired[k]
		if known && equality.Semantic.DeepEqual(d.status, r) {
			next[k] = d
			continue
		}
		if !known || d.status.UID != r.UID || d.status.Generation != r.Generation {
			d.since = now
		}
		d.status = r
		next[k] = d
		changed = append(changed, k)
	}
	w.desired = next
	for _, k := range changed {
		w.queue.Add(k)
	}
}

// Acknowledged wakes the writer after proxies have acknowledged something or come and gone. Routes
// that wait for nothing are not looked at.
func (w *Writer) Acknowledged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.waiting {
		w.queue.Add(k)
	}
}

// Observed wakes the writer for one route whose status somebody has changed, perhaps itself.
func (w *Writer) Observed(kind wire.RouteKind, name types.NamespacedName) {
	w.queue.Add(key{kind, name})
}

// Start writes until ctx ends.
func (w *Writer) Start(ctx context.Context) error {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	group.Wait()
	return nil
}

// NeedLeaderElection tells the manager to start the writer on the leader only.
func (w *Writer) NeedLeaderElection() bool { return true }

func (w *Writer) next(ctx context.Context) bool {
	k, shutdown := w.queue.Get()
	if shutdown {
		return false
	}
	defer w.queue.Done(k)
	again, err := w.write(ctx, k)
	switch {
	case apierrors.IsConflict(err):
		w.queue.AddRateLimited(k)
	case err != nil && ctx.Err() == nil:
		w.Log.Error(err, "write route status", "kind", k.kind, "route", k.name)
		w.queue.AddRateLimited(k)
	default:
		w.queue.Forget(k)
		if again > 0 {
			w.queue.AddAfter(k, again)
		}
	}
	return true
}

// write brings one route's status up to date. It returns when to look again, if not only at the next
// change.
func (w *Writer) write(ctx context.Context, k key) (again time.Duration, err error) {
	w.mu.Lock()
	d, wanted := w.desired[k]
	w.mu.Unlock()
	if !wanted {
		return 0, nil
	}
	route, parents := newRoute(k.kind)
	if err := w.Client.Get(ctx, k.name, route); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if route.GetUID() != d.status.UID || route.GetGeneration() != d.status.Generation {
		return 0, nil // the pass that sees this object's change replaces the desire
	}
	if d.replaced != "" && route.GetResourceVersion() == d.replaced {
		return cacheLag, nil
	}

	now := time.Now()
	merged := Merge(*parents, d.status, w.progress(d.status), metav1.NewTime(now.Truncate(time.Second)))
	pending := Pending(merged)
	w.setWaiting(k, pending)
	switch Compare(*parents, merged) {
	case Same:
		return 0, nil
	case Counts:
		if wait := countsInterval - now.Sub(d.lastWrite); wait > 0 {
			return wait, nil
		}
	case Different:
		if wait := pendingGrace - now.Sub(d.since); pending && wait > 0 {
			return wait, nil
		}
	}

	route = route.DeepCopyObject().(client.Object)
	*parentsOf(route) = merged
	before := route.GetResourceVersion()
	err = w.Client.Status().Update(ctx, route)
	if apierrors.IsNotFound(err) {
		return 0, nil // it was deleted meanwhile
	}
	if err != nil {
		return 0, fmt.Errorf("update status: %w", err)
	}
	w.wrote(k, before, now)
	return 0, nil
}

func (w *Writer) progress(status compile.RouteStatus) []Progress {
	progress := make([]Progress, len(status.Parents))
	for i := range status.Parents {
		if len(status.Parents[i].Resources) == 0 {
			continue
		}
		for _, namespace := range status.Parents[i].Audience {
			acknowledged, concerned := w.Acks.Holds(namespace, status.Parents[i].Resources)
			progress[i].Acknowledged += acknowledged
			progress[i].Proxies += concerned
		}
	}
	return progress
}

func (w *Writer) setWaiting(k key, pending bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pending {
		w.waiting[k] = struct{}{}
	} else {
		delete(w.waiting, k)
	}
}

func (w *Writer) wrote(k key, replaced string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, wanted := w.desired[k]; wanted {
		d.replaced, d.lastWrite = replaced, at
		w.desired[k] = d
	}
}

// Stale returns desires without parents for the routes that have an entry of ours in their status but
// are not among desired: their parents are no Services any more.
func Stale(httpRoutes []*gwv1.HTTPRoute, grpcRoutes []*gwv1.GRPCRoute, desired []compile.RouteStatus) []compile.RouteStatus {
	known := make(map[key]bool, len(desired))
	for i := range desired {
		known[key{desired[i].Kind, desired[i].Name}] = true
	}
	var stale []compile.RouteStatus
	add := func(kind wire.RouteKind, route client.Object, parents []gwv1.RouteParentStatus) {
		name := client.ObjectKeyFromObject(route)
		if Owns(parents) && !known[key{kind, name}] {
			stale = append(stale, compile.RouteStatus{Kind: kind, Name: name, UID: route.GetUID(), Generation: route.GetGeneration()})
		}
	}
	for _, r := range httpRoutes {
		add(wire.RouteHTTP, r, r.Status.Parents)
	}
	for _, r := range grpcRoutes {
		add(wire.RouteGRPC, r, r.Status.Parents)
	}
	return stale
}

func newRoute(kind wire.RouteKind) (client.Object, *[]gwv1.RouteParentStatus) {
	var route client.Object = &gwv1.HTTPRoute{}
	if kind == wire.RouteGRPC {
		route = &gwv1.GRPCRoute{}
	}
	return route, parentsOf(route)
}

func parentsOf(route client.Object) *[]gwv1.RouteParentStatus {
	switch r := route.(type) {
	case *gwv1.HTTPRoute:
		return &r.Status.Parents
	case *gwv1.GRPCRoute:
		return &r.Status.Parents
	default:
		panic(fmt.Sprintf("status: %T is no route", route))
	}
}
