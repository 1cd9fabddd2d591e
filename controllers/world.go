package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/jwks"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
)

// numberQuarantine is how long a destination number stays reserved after its destination is gone and
// every connected node has confirmed that it captures it no more. It covers an agent that was not
// connected: its map elements have faded long before.
const numberQuarantine = 5 * time.Minute

// topic names what a World is to look at again. Topics are the keys of its queue, so that any number of
// events of one kind is one piece of work.
type topic struct {
	what    what
	service types.NamespacedName
}

type what string

const (
	// topicConfig: something that Compile reads has changed.
	topicConfig what = "config"
	// topicEndpoints: the EndpointSlices of one Service have changed.
	topicEndpoints what = "endpoints"
	// topicPods: pods, or what node agents report of them, have changed.
	topicPods what = "pods"
	// topicAcks: a client came, went or acknowledged.
	topicAcks what = "acks"
)

// World turns what the API declares into what proxies and node agents hold. One worker handles its
// topics one after the other: every pass works on the latest state, so that changes which arrive during
// a pass form the next one, and no two passes publish against each other.
type World struct {
	// Client reads from the cache; Direct reads from the API server.
	Client client.Client
	Direct client.Reader
	Hub    *distribute.Hub
	Status *status.Writer
	Log    logr.Logger
	// SystemNamespace is where Weft runs, TrustBundle the PEM roots that are trusted now.
	SystemNamespace string
	TrustBundle     func() string
	// Keys reads the key sets of the issuers of tokens.
	Keys *jwks.Keeper
	// TrustChanged returns a channel that is closed when TrustBundle may answer otherwise.
	TrustChanged func() <-chan struct{}
	// ConnectGrace is how long a new leader waits for the proxies and node agents that are ready to
	// connect: before it tells nodes what to capture, and before it takes a node for one that captures
	// nothing. Nodes keep what they have meanwhile.
	ConnectGrace time.Duration

	// woken is buffered: one pending wake-up is enough.
	woken chan struct{}

	numbers numberStore
	inForce inForce

	// published are the compiled resources that the hub has, nil before the first pass; retired are
	// those among them that are kept only until no node captures them any more.
	published map[wire.Ref]wire.Resource
	retired   map[wire.Ref]wire.Resource
	// proxies are those that are ready, by namespace, ready those among them that others may send to.
	proxies, ready map[string][]wire.Proxy
	// starting namespaces are labelled, and their proxies have not been ready since; joined ones are those
	// whose proxies have. They are replaced under mu, and only by the worker.
	starting, joined map[string]bool
	// podsOf are the namespaces that were served when pods were last looked at; nil before.
	podsOf map[string]bool
	// nodes are all nodes, true for those whose agent is ready.
	nodes map[string]bool
	// accounts are the ServiceAccounts that the last pass has seen pods run as, nil if nothing depends on them;
	// otherAccounts tells that there are others now.
	accounts      map[types.NamespacedName]bool
	otherAccounts bool
	// revision grows when what is published other than endpoints changes.
	revision uint64
	// captured is what nodes are told, by namespace, made from capturing; capturedSeq is the publication
	// in which it last changed.
	captured    map[string]captured
	capturing   captureInputs
	capturedSeq uint64
	// exposures are those of each namespace, replaced under mu and only by the worker like the strict ones among
	// them; inbounds is what comes of them and of pods.
	exposures        map[string][]compile.Exposure
	strict           []compile.ServicePort
	strictNamespaces map[string]bool
	inbounds         map[string]*inbounds
	inboundsChanged  bool
	admitted         admittance
	releases         releases
	// unused tells since when a number has no destination.
	unused  map[compile.NumberKey]time.Time
	started time.Time
	opened  bool
	removal

	mu sync.Mutex
	// absent counts, by namespace, the ready proxies that have no stream yet and that a new leader waits
	// for.
	absent map[string]int
	// membership is closed when enrolled changes.
	membership chan struct{}
	// enrolled namespaces are served; leaving ones are served until no node needs their proxies any
	// more and every proxy has the publication given here.
	enrolled map[string]bool
	leaving  map[string]uint64
	// retiring namespaces have retired destinations; withdrawn ones are those whose pods some node may
	// still capture.
	retiring  map[string]bool
	withdrawn map[string]bool
	// settled tells that every node has confirmed a publication of this leader, so that none captures
	// for a namespace that left before.
	settled bool
	// bundle is the trust bundle that is published, bundleSeq the publication since which it is.
	bundle    string
	bundleSeq uint64
	// unfit are the namespaces with proxies of an earlier release that are not used.
	unfit []string
	// enforcements is what is in force of strict ports, plain who calls ports past the mesh.
	enforcements map[compile.ServicePort]status.Enforcement
	plain        map[compile.ServicePort][]string
}

// NewWorld returns a World that has seen nothing yet. The caller sets the exported fields.
func NewWorld() *World {
	return &World{
		ConnectGrace: connectGrace,
		woken:        make(chan struct{}, 1),
		membership:   make(chan struct{}),
		leaving:      map[string]uint64{},
		withdrawn:    map[string]bool{},
	}
}

// Reconcile handles one topic.
func (w *World) Reconcile(ctx context.Context, t topic) (reconcile.Result, error) {
	switch t.what {
	case topicConfig:
		return w.compile(ctx)
	case topicEndpoints:
		return reconcile.Result{}, w.endpoints(ctx, t.service)
	case topicPods:
		result, err := w.pods(ctx)
		if err != nil || !w.joining() && !w.otherAccounts && !w.agentsChanged {
			return result, err
		}
		return w.compile(ctx)
	default:
		result, err := w.acknowledged()
		if err != nil || !w.joining() {
			return result, err
		}
		return w.compile(ctx)
	}
}

// compile is the one pass: load, compile, publish, tell the status writer.
func (w *World) compile(ctx context.Context) (reconcile.Result, error) {
	if w.started.IsZero() {
		w.started = time.Now()
		w.numbers = numberStore{client: w.Client, reader: w.Direct, namespace: w.SystemNamespace}
	}
	snapshot, err := cluster.Load(ctx, w.Client)
	if err != nil {
		return reconcile.Result{}, err
	}
	given, err := w.numbers.load(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	snapshot.Numbers = w.reusable(given)
	snapshot.TrustBundle = w.TrustBundle()
	snapshot.SystemNamespace = w.SystemNamespace
	if err := w.tell(ctx, &snapshot); err != nil {
		return reconcile.Result{}, err
	}
	if err := w.findStarting(ctx, snapshot.Namespaces); err != nil {
		return reconcile.Result{}, err
	}
	snapshot.Starting = w.starting
	snapshot.MeshPolicies = w.inForce.recall(snapshot.MeshPolicies)
	if snapshot.ServiceAccounts, err = w.serviceAccounts(ctx, len(snapshot.MeshAuthorizations)); err != nil {
		return reconcile.Result{}, err
	}
	if snapshot.KeySets, err = w.keySets(ctx, snapshot); err != nil {
		return reconcile.Result{}, err
	}
	result := compile.Compile(snapshot)
	w.inForce = rememberInForce(result.Policies)
	if err := w.numbers.save(ctx, result.Numbers); err != nil {
		return reconcile.Result{}, err
	}

	next := index(result.Resources)
	w.retired = retire(w.published, next)
	maps.Copy(next, w.retired)
	w.published = next
	w.releases.needed = neededFor(next)
	w.revision++
	w.noteNumbers(result)
	seq := w.Hub.Replace(distribute.LayerCompiled, slices.Collect(maps.Values(next)))
	w.setTrusted(snapshot.TrustBundle, seq)
	w.setEnrolled(result.Enrolled, seq)
	stale := status.Stale(snapshot.HTTPRoutes, snapshot.GRPCRoutes, result.Routes)
	w.Status.Replace(append(result.Routes, stale...), result.Policies, result.Authorizations)
	exposed := w.setExposures(result.Exposures)
	if w.podsOf == nil || exposed || !maps.Equal(w.served(), w.podsOf) {
		return w.pods(ctx)
	}
	return w.acknowledged()
}

// endpoints is the side path of one Service: no route is compiled.
func (w *World) endpoints(ctx context.Context, name types.NamespacedName) error {
	var affected []wire.Resource
	for ref, r := range w.published {
		if ref.Kind == wire.KindBackend && r.Backend.Namespace == name.Namespace && r.Backend.Service == name.Name {
			affected = append(affected, r)
		}
	}
	if len(affected) == 0 {
		return nil
	}
	service := &corev1.Service{}
	if err := w.Client.Get(ctx, name, service); err != nil {
		return client.IgnoreNotFound(err)
	}
	var list discoveryv1.EndpointSliceList
	if err := w.Client.List(ctx, &list, client.InNamespace(name.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: name.Name}); err != nil {
		return fmt.Errorf("list endpoint slices of %s: %w", name, err)
	}
	all := make([]*discoveryv1.EndpointSlice, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	changed := make([]wire.Resource, 0, len(affected))
	for _, b := range affected {
		r := compile.Endpoints(b, service, all)
		w.published[r.Ref] = r
		changed = append(changed, r)
	}
	w.Hub.Patch(distribute.LayerCompiled, changed, nil)
	return nil
}

// acknowledged moves everything on that waits for proxies or nodes: capture, retirement, statuses.
// Before the first pass nothing does.
func (w *World) acknowledged() (reconcile.Result, error) {
	if w.published == nil {
		return reconcile.Result{}, nil
	}
	opened := w.open()
	w.lookAtReleases()
	w.Status.Acknowledged()
	if opened {
		if w.readyChanged() {
			w.Hub.Replace(distribute.LayerProxies, compile.Proxies(w.ready, w.podsOf))
		}
		w.publishToNodes()
	}
	retired := opened && w.finishRetirement()
	w.enforce()
	if !retired && (!opened || time.Since(w.started) < w.ConnectGrace) {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{}, nil
}

// finishRetirement drops retired resources, and lets namespaces leave, once every node holds captures
// without them. It reports whether they do.
func (w *World) finishRetirement() bool {
	w.mu.Lock()
	nothing := w.settled && len(w.retired) == 0 && len(w.withdrawn) == 0
	w.mu.Unlock()
	if nothing {
		return true
	}
	if !w.nodesHoldCaptures() {
		return false
	}
	var seq uint64
	if len(w.retired) > 0 {
		for ref := range w.retired {
			delete(w.published, ref)
		}
		w.retired = nil
		w.revision++
		seq = w.Hub.Replace(distribute.LayerCompiled, slices.Collect(maps.Values(w.published)))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled = true
	w.retiring = nil
	clear(w.withdrawn)
	for namespace, before := range w.leaving {
		w.leaving[namespace] = max(before, seq)
	}
	return true
}

// noteNumbers remembers which numbers have a destination and since when the others have none.
func (w *World) noteNumbers(result compile.Result) {
	active := map[uint16]bool{}
	for _, r := range w.published {
		if r.Destination != nil {
			active[r.Destination.Number] = true
		}
	}
	unused := map[compile.NumberKey]time.Time{}
	for key, number := range result.Numbers {
		if active[number] {
			continue
		}
		unused[key] = time.Now()
		if since, known := w.unused[key]; known {
			unused[key] = since
		}
	}
	w.unused = unused
}

// reusable leaves out the numbers that nothing can use any more.
func (w *World) reusable(given compile.Numbers) compile.Numbers {
	if len(w.unused) == 0 || !w.nodesHoldCaptures() {
		return given
	}
	kept := maps.Clone(given)
	for key, since := range w.unused {
		if time.Since(since) > numberQuarantine {
			delete(kept, key)
		}
	}
	return kept
}

func (w *World) setEnrolled(names []string, seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retiring = namespacesOf(w.retired)
	enrolled := make(map[string]bool, len(names))
	for _, name := range names {
		enrolled[name] = true
		delete(w.leaving, name)
		delete(w.withdrawn, name)
	}
	for name := range w.enrolled {
		if !enrolled[name] {
			w.leaving[name] = seq
			w.withdrawn[name] = true
		}
	}
	if w.enrolled == nil || !maps.Equal(enrolled, w.enrolled) {
		w.memberChanged()
	}
	w.enrolled = enrolled
}

// memberChanged wakes those who wait for Membership. The lock is held.
func (w *World) memberChanged() {
	close(w.membership)
	w.membership = make(chan struct{})
}

// Membership returns a channel that is closed when a namespace is enrolled, leaves or has left. To miss
// nothing, call it first, then ask, then wait.
func (w *World) Membership() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.membership
}

// served are the namespaces whose proxies and identities are published; nil before the first pass.
func (w *World) served() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	served := maps.Clone(w.enrolled)
	if served == nil {
		return nil
	}
	for name := range w.leaving {
		served[name] = true
	}
	return served
}

// memberships returns the namespaces that are enrolled and not leaving, true for those whose proxies have
// been ready since; nil before the first pass.
func (w *World) memberships() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := maps.Clone(w.enrolled)
	for namespace := range out {
		out[namespace] = !w.starting[namespace]
	}
	return out
}

// Enrolment tells what is to happen with a namespace's objects.
type Enrolment int

// The states of a namespace.
const (
	// Unknown before the first pass.
	Unknown Enrolment = iota
	// Enrolled namespaces have proxies and certificates.
	Enrolled
	// Leaving namespaces keep them until nothing sends to them any more.
	Leaving
	// Left namespaces need nothing of the mesh.
	Left
)

// Enrolment answers for one namespace. A namespace is left once no node captures for it or towards it
// and every connected proxy has the publication in which nothing is sent to its proxies any more.
func (w *World) Enrolment(namespace string) Enrolment {
	clients := w.Hub.Clients()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.enrolled == nil {
		return Unknown
	}
	if w.enrolled[namespace] {
		return Enrolled
	}
	seq, known := w.leaving[namespace]
	switch {
	case !known && w.settled:
		// It left before this operator started, or never was enrolled.
		return Left
	case !known, w.retiring[namespace], w.withdrawn[namespace]:
		return Leaving
	}
	for _, c := range clients {
		if c.Kind == distribute.ClientProxy && c.Namespace != namespace && c.Seq < seq {
			return Leaving
		}
	}
	return Left
}

// Forget ends the service for a namespace whose objects are gone.
func (w *World) Forget(namespace string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.leaving[namespace]; !known {
		return
	}
	delete(w.leaving, namespace)
	w.memberChanged()
	w.wake()
}
