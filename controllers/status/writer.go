package status

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	// Outdated answers how many proxies of namespace are of a release that leaves some of held out.
	Outdated(namespace string, held []wire.Held) int
	// Enforcement answers what is known of strict ports, taken together.
	Enforcement(ports []compile.ServicePort) Enforcement
}

// Writer brings statuses to what was last given to Update. It runs on the leader only.
type Writer struct {
	// Client reads objects from a cache and writes their status subresource.
	Client client.Client
	Acks   Acknowledgements
	Log    logr.Logger

	notices notices

	mu      sync.Mutex
	desired map[key]desire
	waiting map[key]struct{}
	queue   workqueue.TypedRateLimitingInterface[key]
}

// key is the kind and name of an object.
type key struct {
	kind string
	name types.NamespacedName
}

// subject is the desired status of one object.
type subject interface {
	identity() (k key, uid types.UID, generation int64)
	// equal tells whether another subject desires the same.
	equal(other subject) bool
	// strictPorts are those that the object makes strict.
	strictPorts() []compile.ServicePort
	// newObject returns an empty object of the subject's kind.
	newObject() client.Object
	// update compares the status of an object, which belongs to a cache, with what it is to be now.
	update(object client.Object, acks Acknowledgements, now metav1.Time) update
}

// update is what there is to do about a status: how much it changes, whether the result waits for
// acknowledgements, what it refuses that the present status does not, and the change itself, which is made to a copy
// of the object.
type update struct {
	change  Change
	pending bool
	refused []refusal
	apply   func(object client.Object)
}

// desire is a subject and what the writer remembers of writing it.
type desire struct {
	subject subject
	since   time.Time
	// replaced is the resourceVersion that the last write replaced, empty if it replaced none: while the cache
	// still shows it, the cache is behind.
	replaced  string
	lastWrite time.Time
	// lastNotice is when Events about it were made.
	lastNotice time.Time
}

// NewWriter returns a Writer that does nothing until Start. Refusals become Events of the recorder.
func NewWriter(c client.Client, acks Acknowledgements, recorder events.EventRecorder, log logr.Logger) *Writer {
	return &Writer{
		notices: newNotices(recorder),
		Client:  c,
		Acks:    acks,
		Log:     log,
		desired: map[key]desire{},
		waiting: map[key]struct{}{},
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[key](5*time.Millisecond, 30*time.Second)),
	}
}

// Update takes what has changed of the statuses of routes and policies and looks at those that are others than
// before. A route that has an entry of ours and is the mesh's no more must be given without parents, so that the entry
// is removed (see Stale).
func (w *Writer) Update(d compile.Delta) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for target, s := range d.Routes {
		k := key{target.Kind, types.NamespacedName{Namespace: target.Namespace, Name: target.Name}}
		if s == nil {
			w.forget(k)
		} else {
			w.desire(route(*s), now)
		}
	}
	for name, s := range d.Policies {
		if s == nil {
			w.forget(key{KindPolicy, name})
		} else {
			w.desire(policy(*s), now)
		}
	}
	for name, s := range d.Authorizations {
		if s == nil {
			w.forget(key{KindAuthorization, name})
		} else {
			w.desire(authorization(*s), now)
		}
	}
}

// forget gives an object up. The lock is held.
func (w *Writer) forget(k key) {
	delete(w.desired, k)
	delete(w.waiting, k)
}

// desire has the status of a subject looked at, if it is to be another one. The lock is held.
func (w *Writer) desire(s subject, now time.Time) {
	k, uid, generation := s.identity()
	d, known := w.desired[k]
	if known && d.subject.equal(s) {
		return
	}
	if known {
		_, knownUID, knownGeneration := d.subject.identity()
		known = uid == knownUID && generation == knownGeneration
	}
	if !known {
		d.since = now
	}
	d.subject = s
	w.desired[k] = d
	w.queue.Add(k)
}

// Acknowledged wakes the writer after proxies have acknowledged something or come and gone. What
// waits for nothing is not looked at.
func (w *Writer) Acknowledged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.waiting {
		w.queue.Add(k)
	}
}

// ReleasesChanged wakes the writer for everything, after proxies of an earlier release have come or gone.
func (w *Writer) ReleasesChanged() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.desired {
		w.queue.Add(k)
	}
}

// Observed wakes the writer for one object whose status somebody has changed, perhaps itself.
func (w *Writer) Observed(kind string, name types.NamespacedName) {
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
		w.Log.Error(err, "write status", "kind", k.kind, "name", k.name)
		w.queue.AddRateLimited(k)
	default:
		w.queue.Forget(k)
		if again > 0 {
			w.queue.AddAfter(k, again)
		}
	}
	return true
}

// write brings one status up to date. It returns when to look again, if not only at the next change.
func (w *Writer) write(ctx context.Context, k key) (again time.Duration, err error) {
	w.mu.Lock()
	d, wanted := w.desired[k]
	w.mu.Unlock()
	if !wanted {
		return 0, nil
	}
	object := d.subject.newObject()
	if err := w.Client.Get(ctx, k.name, object); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if _, uid, generation := d.subject.identity(); object.GetUID() != uid || object.GetGeneration() != generation {
		return 0, nil // the pass that sees this object's change replaces the desire
	}
	if d.replaced != "" && object.GetResourceVersion() == d.replaced {
		return cacheLag, nil
	}

	now := time.Now()
	u := d.subject.update(object, w.Acks, metav1.NewTime(now.Truncate(time.Second)))
	w.setWaiting(k, u.pending)
	switch u.change {
	case Same:
		return 0, nil
	case Counts:
		if wait := countsInterval - now.Sub(d.lastWrite); wait > 0 {
			return wait, nil
		}
	case Different:
		if wait := pendingGrace - now.Sub(d.since); u.pending && wait > 0 {
			return wait, nil
		}
	}

	object = object.DeepCopyObject().(client.Object)
	u.apply(object)
	before := object.GetResourceVersion()
	err = w.Client.Status().Update(ctx, object)
	if apierrors.IsNotFound(err) {
		return 0, nil // it was deleted meanwhile
	}
	if err != nil {
		return 0, fmt.Errorf("update status: %w", err)
	}
	told := w.notices.tell(object, u.refused, d.lastNotice, now)
	if object.GetResourceVersion() == before {
		before = "" // it keeps nothing of what is new, as with the CustomResourceDefinition of an earlier release
	}
	w.wrote(k, before, now, told)
	return 0, nil
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

func (w *Writer) wrote(k key, replaced string, at time.Time, told bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, wanted := w.desired[k]; wanted {
		d.replaced, d.lastWrite = replaced, at
		if told {
			d.lastNotice = at
		}
		w.desired[k] = d
	}
}
