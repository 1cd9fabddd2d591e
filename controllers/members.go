package controllers

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

const (
	// leavingInterval is how often a namespace on its way out is looked at.
	leavingInterval = 200 * time.Millisecond
	// certificatesGrace is how long a new leader tries to read every namespace's certificates before it
	// serves those it could read.
	certificatesGrace = 15 * time.Second

	defaultTrustDomain = "cluster.local"
	defaultLifetime    = 24 * time.Hour
	defaultReplicas    = 2
)

// member is a topic of Members: one namespace's objects, all certificates, or the order in which namespaces are
// given new proxies.
type member string

// The topics that are no namespace's name.
const (
	certificates member = ""
	rollout      member = "/rollout"
)

// Members keeps what enrolled namespaces need: proxies with their accounts, and certificates.
type Members struct {
	client  client.Client
	world   *World
	hub     *distribute.Hub
	keeper  *identity.Keeper
	issuer  *identity.Issuer
	applier *infra.Applier
	owner   definition
	opts    Options

	wake chan struct{}

	// mu keeps the end of the issuer's watches apart from a pass that is under way.
	mu      sync.Mutex
	started time.Time
	// prepared namespaces have what it takes to keep certificates in them.
	prepared  map[string]bool
	published []wire.Resource
	complete  bool

	// state has a lock of its own: mu is held while the API server is asked.
	state struct {
		sync.Mutex
		issuance
		roll    roll
		changed chan struct{}
	}
}

// issuance is what the last pass over the certificates came to.
type issuance struct {
	// issuer is the authority that issued all that is published; nil while others' are among it. seq is
	// the publication since which that is so.
	issuer *identity.CA
	seq    uint64
	// soonest is the end of the certificate that ends first; zero when there is none.
	soonest time.Time
	// failure says what could not be issued.
	failure string
}

func newMembers(c client.Client, direct client.WithWatch, world *World, hub *distribute.Hub, keeper *identity.Keeper, opts Options) *Members {
	m := &Members{client: c, world: world, hub: hub, keeper: keeper, applier: &infra.Applier{Client: c}, owner: definition{reader: direct}, opts: opts, wake: make(chan struct{}, 1), prepared: map[string]bool{}}
	m.state.changed = make(chan struct{})
	m.issuer = &identity.Issuer{Client: direct, Now: time.Now, Wake: func() {
		select {
		case m.wake <- struct{}{}:
		default: // a wake-up is pending already
		}
	}}
	return m
}

// Reconcile handles one topic.
func (m *Members) Reconcile(ctx context.Context, topic member) (reconcile.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started.IsZero() {
		m.started = time.Now()
	}
	switch topic {
	case certificates:
		return m.certificates(ctx)
	case rollout:
		return m.roll(ctx)
	}
	namespace := string(topic)
	switch m.world.Enrolment(namespace) {
	case Enrolled:
		return reconcile.Result{}, m.apply(ctx, namespace)
	case Left:
		return m.remove(ctx, namespace)
	default:
		return reconcile.Result{RequeueAfter: leavingInterval}, nil
	}
}

// apply makes a namespace have what it needs. Proxies that serve and are to run with another template stay as
// they are, their Deployment with them: roll says when it is their turn.
func (m *Members) apply(ctx context.Context, namespace string) error {
	p, err := m.params(ctx)
	if err != nil {
		return err
	}
	objects, kept := m.objects(namespace, p), []runtime.ApplyConfiguration(nil)
	if namespace != m.opts.Namespace {
		there, ok, err := m.applier.DeployedIn(ctx, namespace)
		if err != nil {
			return err
		}
		last := len(objects) - 1
		switch {
		case !ok:
		case there.Template == infra.Template(p):
			p.Replaces = there.Replaces
			objects = m.objects(namespace, p)
		case !(proxySet{Deployed: there}).idle():
			objects, kept = objects[:last], objects[last:]
		}
	}
	if err := m.applier.Apply(ctx, namespace, objects, kept...); err != nil {
		return err
	}
	if !m.prepared[namespace] {
		m.prepared[namespace] = true
		m.issuer.Wake()
	}
	return nil
}

// params are what the objects of every namespace are made from.
func (m *Members) params(ctx context.Context) (infra.Params, error) {
	mesh, err := cluster.Mesh(ctx, m.client)
	if err != nil {
		return infra.Params{}, err
	}
	owner, err := m.owner.of(ctx, mesh)
	if err != nil {
		return infra.Params{}, err
	}
	if mesh == nil {
		mesh = &meshv1alpha1.Mesh{}
	}
	return infra.Params{
		Owner:           owner,
		Image:           proxyImage(mesh, m.opts),
		HTTPEngine:      m.opts.ProxyHTTPEngine,
		Replicas:        cmp.Or(mesh.Spec.Proxy.Replicas, defaultReplicas),
		Resources:       mesh.Spec.Proxy.Resources,
		OperatorAddress: configAddress(m.opts),
		Operator:        types.NamespacedName{Namespace: m.opts.Namespace, Name: operatorName},
		TrustBundle:     m.keeper.CA().Bundle(),

		WithoutNetworkPolicy: !managesNetworkPolicies(mesh),
	}, nil
}

func proxyImage(mesh *meshv1alpha1.Mesh, opts Options) string {
	return cmp.Or(mesh.Spec.Proxy.Image, opts.ProxyImage)
}

func configAddress(opts Options) string {
	return fmt.Sprintf("%s.%s.svc:%d", ConfigService, opts.Namespace, ConfigPort)
}

// injectConfig is what the proxies beside pods are made from.
func injectConfig(mesh *meshv1alpha1.Mesh, opts Options) webhooks.InjectConfig {
	if mesh == nil {
		mesh = &meshv1alpha1.Mesh{}
	}
	return webhooks.InjectConfig{
		Image: proxyImage(mesh, opts), HTTPEngine: opts.ProxyHTTPEngine, OperatorAddress: configAddress(opts),
		TrustBundle: infra.TrustBundleName, TrustBundleKey: infra.TrustBundleKey,
	}
}

// objects are what a namespace needs; Weft's own needs the roots alone.
func (m *Members) objects(namespace string, p infra.Params) []runtime.ApplyConfiguration {
	if namespace == m.opts.Namespace {
		return []runtime.ApplyConfiguration{infra.TrustBundle(namespace, p.TrustBundle)}
	}
	return infra.Objects(namespace, p)
}

// operatorName is the name of the operator's ServiceAccount.
const operatorName = "weft-operator"

// remove takes away what a namespace that has left does not need any more: the proxies first, which
// finish what they have begun; then, when they are gone, their certificates; then the rest, the right
// to touch the certificates among it.
func (m *Members) remove(ctx context.Context, namespace string) (reconcile.Result, error) {
	if namespace == m.opts.Namespace {
		return reconcile.Result{}, m.apply(ctx, namespace)
	}
	present, err := m.applier.Present(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !slices.Contains(present, namespace) {
		m.world.Forget(namespace)
		return reconcile.Result{}, nil
	}
	p, err := m.params(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	objects := m.objects(namespace, p)
	withoutProxies := objects[:len(objects)-1]
	if err := m.applier.Apply(ctx, namespace, withoutProxies); err != nil {
		return reconcile.Result{}, err
	}
	pods, err := cluster.Pods(ctx, m.client)
	if err != nil {
		return reconcile.Result{}, err
	}
	if slices.ContainsFunc(pods, func(p *corev1.Pod) bool {
		return p.Namespace == namespace && p.Labels[meshv1alpha1.ComponentLabel] == compile.ComponentProxy
	}) {
		return reconcile.Result{RequeueAfter: leavingInterval}, nil
	}
	delete(m.prepared, namespace)
	if err := m.issuer.Remove(ctx, namespace); err != nil {
		return reconcile.Result{}, err
	}
	if err := m.applier.Remove(ctx, namespace); err != nil {
		return reconcile.Result{}, err
	}
	m.world.Forget(namespace)
	return reconcile.Result{}, nil
}

// certificates issues and renews, and publishes what Secrets hold.
func (m *Members) certificates(ctx context.Context) (reconcile.Result, error) {
	served := m.world.served()
	if served == nil {
		return reconcile.Result{RequeueAfter: leavingInterval}, nil
	}
	authority := m.keeper.Authority()
	state := identity.State{
		CA: authority.CA, TrustDomain: defaultTrustDomain, Lifetime: defaultLifetime,
		Sidecar: compile.HasSidecar, Issuing: authority.Issuing, Reissue: authority.Phase == identity.ReissuingCertificates,
	}
	for namespace := range served {
		if m.prepared[namespace] || m.world.Enrolment(namespace) != Enrolled {
			state.Namespaces = append(state.Namespaces, namespace)
		}
	}
	mesh, err := cluster.Mesh(ctx, m.client)
	if err != nil {
		return reconcile.Result{}, err
	}
	if mesh != nil {
		state.TrustDomain = cmp.Or(mesh.Spec.TrustDomain, defaultTrustDomain)
		state.Lifetime = lifetime(mesh.Spec.Certificates.Lifetime)
	}
	if state.Pods, err = cluster.Pods(ctx, m.client); err != nil {
		return reconcile.Result{}, err
	}
	result, err := m.issuer.Reconcile(ctx, state)
	all := err == nil && len(state.Namespaces) == len(served)
	m.complete = m.complete || all || time.Since(m.started) > certificatesGrace
	done := issuance{}
	if err != nil {
		done.failure = err.Error()
	}
	if m.complete {
		m.published = merge(m.published, result.Certificates, served, !all, time.Now())
		done.seq = m.hub.Replace(distribute.LayerCertificates, m.published)
		if all && result.Superseded == 0 {
			done.issuer = state.CA
		}
		done.soonest = soonest(m.published)
	}
	m.note(done)
	if err != nil {
		return reconcile.Result{}, err
	}
	if !m.complete {
		return reconcile.Result{RequeueAfter: time.Second}, nil
	}
	return reconcile.Result{RequeueAfter: result.RequeueAfter}, nil
}

// note keeps the result of a pass and tells those who follow it.
func (m *Members) note(done issuance) {
	m.state.Lock()
	defer m.state.Unlock()
	before := m.state.issuance
	if done.issuer != nil && done.issuer == before.issuer {
		done.seq = before.seq
	}
	m.state.issuance = done
	if done.issuer != before.issuer || done.failure != before.failure {
		close(m.state.changed)
		m.state.changed = make(chan struct{})
	}
}

// issued returns what the last pass came to.
func (m *Members) issued() issuance {
	m.state.Lock()
	defer m.state.Unlock()
	return m.state.issuance
}

// reissued returns the publication since which every certificate is one of ca; false when some are not.
func (m *Members) reissued(ca *identity.CA) (seq uint64, all bool) {
	done := m.issued()
	return done.seq, done.issuer == ca
}

// changed returns a channel that is closed when rolled, or issuer or failure of issued, change.
func (m *Members) changed() <-chan struct{} {
	m.state.Lock()
	defer m.state.Unlock()
	return m.state.changed
}

// soonest returns the end of the certificate that ends first.
func soonest(certificates []wire.Resource) time.Time {
	var end time.Time
	for _, c := range certificates {
		if at := c.Certificate.NotAfter; end.IsZero() || at.Before(end) {
			end = at
		}
	}
	return end
}

// lifetime reads what the CRD has validated already.
func lifetime(d *gwv1.Duration) time.Duration {
	if d == nil {
		return defaultLifetime
	}
	parsed, err := time.ParseDuration(string(*d))
	if err != nil {
		return defaultLifetime
	}
	return parsed
}

// merge returns the certificates to publish. After a pass in which something failed, those that it did
// not find stay while they are valid: not being able to read a Secret is no reason to take a proxy's
// identity away.
func merge(before, found []wire.Resource, served map[string]bool, failed bool, now time.Time) []wire.Resource {
	if !failed {
		return found
	}
	merged := index(before)
	maps.DeleteFunc(merged, func(_ wire.Ref, r wire.Resource) bool {
		return !served[r.Certificate.Namespace] || now.After(r.Certificate.NotAfter)
	})
	for _, r := range found {
		merged[r.Ref] = r
	}
	return slices.Collect(maps.Values(merged))
}

// sources lists what wakes Members: namespaces that come and go, drift of what it applied, pods that
// may need a certificate, the Mesh.
func (m *Members) sources(c cache.Cache) []source.TypedSource[member] {
	sources := []source.TypedSource[member]{
		source.TypedFunc[member](m.watchWorld),
		follow(m.keeper.Changed, m.all),
		source.TypedKind(c, &meshv1alpha1.Mesh{},
			handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *meshv1alpha1.Mesh) []member { return m.all() }),
			predicate.TypedFuncs[*meshv1alpha1.Mesh]{UpdateFunc: func(e event.TypedUpdateEvent[*meshv1alpha1.Mesh]) bool {
				return generationChanged(e.ObjectOld, e.ObjectNew)
			}}),
		source.TypedKind(c, &corev1.Pod{},
			handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *corev1.Pod) []member { return []member{certificates} }),
			predicate.TypedFuncs[*corev1.Pod]{UpdateFunc: func(e event.TypedUpdateEvent[*corev1.Pod]) bool {
				return e.ObjectOld.Status.Phase != e.ObjectNew.Status.Phase
			}}),
	}
	for _, kind := range infra.Kinds() {
		sources = append(sources, source.TypedKind(c, kind, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, o client.Object) []member { return []member{member(o.GetNamespace()), rollout} })))
	}
	return sources
}

func (m *Members) watchWorld(ctx context.Context, queue workqueue.TypedRateLimitingInterface[member]) error {
	go func() {
		for {
			changed := m.world.Membership()
			for _, topic := range m.all() {
				queue.Add(topic)
			}
			if !m.followIssuer(ctx, changed, queue) {
				return
			}
		}
	}()
	return nil
}

// followIssuer hands on what wakes the issuer until namespaces have changed. It reports false when ctx has
// ended, with the issuer's watches.
func (m *Members) followIssuer(ctx context.Context, changed <-chan struct{}, queue workqueue.TypedRateLimitingInterface[member]) bool {
	for {
		select {
		case <-changed:
			return true
		case <-m.wake:
			queue.Add(certificates)
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			m.issuer.Close()
			return false
		}
	}
}

// all returns all topics; those of all namespaces come last, since they need what the others prepare.
func (m *Members) all() []member {
	all := []member{member(m.opts.Namespace)}
	for namespace := range m.world.served() {
		all = append(all, member(namespace))
	}
	return append(all, certificates, rollout)
}
