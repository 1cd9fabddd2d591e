package controllers

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
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
type topic struct{ what what }

type what string

const (
	// topicConfig: something has changed that concerns all namespaces, or a whole one.
	topicConfig what = "config"
	// topicObjects: objects have changed, which are noted.
	topicObjects what = "objects"
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
	// noted are the objects that events have told of since the last pass.
	noted noted
	// compiler knows what was declared and what it means, nil before the first pass; unpublished is what it has said
	// since the last publication. unsettled tells that a pass over the settings has failed.
	compiler    *compile.Compiler
	unpublished compile.Delta
	unsettled   bool
	// followed are the endpoints of retired backends that have changed since the last publication.
	followed []wire.Resource

	// published are the compiled resources that the hub has, nil before the first pass; retired are
	// those among them that are kept only until no node captures them any more.
	published map[wire.Ref]*wire.Resource
	retired   map[wire.Ref]*wire.Resource
	// proxies are those that are ready, by namespace, ready those among them that others may send to.
	proxies, ready map[string][]wire.Proxy
	// readyBeside are the pods with proxies of their own that are ready, by namespace.
	readyBeside map[string][]string
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
	// inboundChanges is what of them nodes have not been told yet, nil for what is gone; inboundsTold tells that they
	// have been told anything.
	inboundChanges map[wire.Ref]*wire.Resource
	inboundsTold   bool
	admitted       admittance
	// workloads is what is said of pods, published.
	workloads map[wire.Ref]*wire.Resource
	// beside are the addresses of pods that have proxies of their own, with their ServiceAccounts.
	beside map[netip.Addr]types.NamespacedName
	// placements are those of namespaces, for pods that do not say; replaced tells that they have changed since pods were
	// looked at.
	placements map[string]meshv1alpha1.Placement
	replaced   bool
	releases   releases
	// authorizations are those among what is published.
	authorizations map[wire.Ref]*wire.Resource
	// numbered counts the published destinations of each number, unused tells since when a number has none. recount has
	// that found out anew: what was compiled was not published at once, so that a number may have had none from the
	// beginning.
	numbered map[uint16]int
	unused   map[compile.NumberKey]time.Time
	recount  bool
	started  time.Time
	opened   bool
	removal

	mu sync.Mutex
	// absent counts, by namespace, the ready proxies that have no stream yet and that a new leader waits
	// for.
	absent map[string]int
	// membership is closed when enrolled changes.
	membership chan struct{}
	// names are the enrolled namespaces, sorted; enrolled ones are served; leaving ones are served until no node needs their proxies any
	// more and every proxy has the publication given here.
	names    []string
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
		inForce:      inForce{},
		leaving:      map[string]uint64{},
		withdrawn:    map[string]bool{},
	}
}

// Reconcile handles one topic.
func (w *World) Reconcile(ctx context.Context, t topic) (reconcile.Result, error) {
	switch t.what {
	case topicConfig:
		return w.compile(ctx, true)
	case topicObjects:
		return w.compile(ctx, false)
	case topicPods:
		result, err := w.pods(ctx)
		if err != nil || !w.joining() && !w.otherAccounts && !w.agentsChanged {
			return result, err
		}
		return w.compile(ctx, true)
	default:
		result, err := w.acknowledged()
		if err != nil || !w.joining() {
			return result, err
		}
		return w.compile(ctx, true)
	}
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

func (w *World) setEnrolled(names []string, seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.retiring = namespacesOf(w.retired)
	if w.enrolled != nil && slices.Equal(names, w.names) {
		return
	}
	w.names = names
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
		if c.Kind != distribute.ClientNode && c.Namespace != namespace && c.Seq < seq {
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

// setTrusted notes a publication and the trust bundle in it.
func (w *World) setTrusted(bundle string, seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bundle != bundle {
		w.bundle, w.bundleSeq = bundle, seq
	}
}

// trusted returns the publication since which a trust bundle is the one that is published; false when
// another is.
func (w *World) trusted(bundle string) (seq uint64, published bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bundleSeq, w.bundle == bundle
}
