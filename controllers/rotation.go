package controllers

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/cluster"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/controllers/infra"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

// ackInterval gathers acknowledgements, which come in crowds, into one look at who is still waited for.
const ackInterval = 100 * time.Millisecond

// Rotation advances the certificate authority on evidence, and tells people of it and of the time that is
// left. What is to be done is decided by identity.Authority.
//
// Evidence is an acknowledgement, of everything that is in force, by every proxy, beside a pod or not, and node agent that
// has a stream, ready or not, and by every proxy that is ready, with a stream or without: one that still serves
// and has lost its stream would refuse what it has not heard of. The wait for such a proxy ends when it is
// back, or is not ready any more. Others without a stream take no traffic. They get what is in force in
// one piece when they come back, and let the operator's certificate pass by the mounted bundle, which the
// kubelet keeps, or by the bundle they acknowledged last, whichever has the root: see docs/adr/0010.
type Rotation struct {
	client    client.Client
	keeper    *identity.Keeper
	source    *identity.Source
	world     *World
	members   *Members
	hub       *distribute.Hub
	recorder  events.EventRecorder
	log       logr.Logger
	namespace string

	started time.Time
	// said holds the life that was left of a certificate when it was last told, by its fingerprint.
	said    map[string]int
	failure string

	mu      sync.Mutex
	waiting acknowledgement
	found   identity.Found
	changed chan struct{}
}

// acknowledgement tells how many, of those whom a phase concerns, have acknowledged it, and what is missing.
type acknowledgement struct {
	phase   identity.Phase
	n, m    int
	missing []string
}

func (a acknowledgement) complete() bool { return len(a.missing) == 0 }

func newRotation(mgr ctrl.Manager, direct client.Client, keeper *identity.Keeper, world *World, members *Members, hub *distribute.Hub, namespace string) *Rotation {
	return &Rotation{
		client: mgr.GetClient(), keeper: keeper, world: world, members: members, hub: hub,
		source:   &identity.Source{Client: direct, Keeper: keeper, Namespace: namespace, Now: time.Now},
		recorder: mgr.GetEventRecorder("weft"), log: mgr.GetLogger().WithName("rotation"), namespace: namespace,
		said: map[string]int{}, changed: make(chan struct{}),
	}
}

// Waiting returns what the phase still needs, as far as it is known.
func (r *Rotation) Waiting() acknowledgement {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.waiting
}

// Found returns what the Mesh names as certificate authority, as far as it is known.
func (r *Rotation) Found() identity.Found {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.found
}

// Changed returns a channel that is closed when Waiting or Found change.
func (r *Rotation) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Reconcile takes the step that is due, if any.
func (r *Rotation) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	if r.started.IsZero() {
		r.started = time.Now()
	}
	mesh, err := cluster.Mesh(ctx, r.client)
	if err != nil {
		return reconcile.Result{}, err
	}
	if mesh == nil {
		mesh = &meshv1alpha1.Mesh{}
		mesh.Name = meshv1alpha1.MeshName
	}
	found := r.find(ctx, mesh)
	authority := r.keeper.Authority()
	evidence := identity.Evidence{
		Request: mesh.Annotations[meshv1alpha1.RotateRootAnnotation], Source: found.Source, Offer: found.Offer,
	}
	waiting, err := r.gather(ctx, authority)
	if err != nil {
		return reconcile.Result{}, err
	}
	switch {
	case !waiting.complete():
	case authority.Phase == identity.ReissuingCertificates:
		evidence.Issuer = authority.CA.Fingerprint()
	default:
		evidence.Trusted = authority.CA.Bundle()
	}
	r.note(waiting, found)
	step, err := r.keeper.Advance(ctx, evidence)
	if err != nil {
		r.recorder.Eventf(mesh, nil, corev1.EventTypeWarning, "CertificateAuthorityNotWritten", "Rotate", "%v", err)
		return reconcile.Result{}, err
	}
	now := time.Now()
	if step != identity.None {
		r.log.Info("the certificate authority has taken a step", "step", string(step), "phase", string(r.keeper.Authority().Phase))
		r.recorder.Eventf(mesh, nil, corev1.EventTypeNormal, string(step), "Rotate", "%s", stepTexts[step])
	}
	r.tell(mesh, now)
	next := time.Hour
	for _, c := range authorityCertificates(r.keeper.Authority()) {
		next = min(next, max(c.certificate.NotAfter.Sub(now)/100, time.Second))
	}
	if found.Again > 0 {
		next = min(next, found.Again)
	}
	if authority.Phase == identity.DroppingTrust || authority.Phase == identity.DistributingTrust {
		next = min(next, time.Second) // what others write shows in the cache some time later
	}
	return reconcile.Result{RequeueAfter: next}, nil
}

// find looks for what the Mesh names as authority. That it cannot be asked for is no reason not to go on with
// an exchange that is under way.
func (r *Rotation) find(ctx context.Context, mesh *meshv1alpha1.Mesh) identity.Found {
	found, err := r.source.Find(ctx, identity.Wanted{
		Authority: mesh.Spec.CertificateAuthority,
		Request:   mesh.Annotations[meshv1alpha1.RotateRootAnnotation],
		Use: identity.Use{
			TrustDomain: cmp.Or(mesh.Spec.TrustDomain, defaultTrustDomain),
			Names:       append(identity.ServiceNames(ConfigService, r.namespace), identity.ServiceNames(webhooks.ServiceName, r.namespace)...),
		},
	})
	if err != nil {
		r.log.Error(err, "cannot look for the certificate authority")
		found.Fault, found.Again = err.Error(), retrySource
	}
	if found.Fault != "" && found.Fault != r.Found().Fault {
		r.recorder.Eventf(mesh, nil, corev1.EventTypeWarning, "CertificateAuthorityNotAccepted", "Find", "%s", truncate(found.Field+": "+found.Fault))
	}
	return found
}

// retrySource is how long after an error the authority is looked for again.
const retrySource = 5 * time.Second

var stepTexts = map[identity.Step]string{
	identity.RenewIntermediate: "a new intermediate issues certificates; all are reissued",
	identity.DistributeTrust:   "the next root is trusted as well; once everybody has acknowledged that, it issues",
	identity.SwitchIssuer:      "the next root issues; once every proxy has acknowledged new certificates, the previous root is dropped",
	identity.DropTrust:         "the previous root is trusted no more",
	identity.Finish:            "everybody has acknowledged that the previous root is dropped; the exchange is over",
}

// gather asks who has acknowledged what the phase is about.
func (r *Rotation) gather(ctx context.Context, authority *identity.Authority) (acknowledgement, error) {
	if authority.Phase == identity.Steady {
		return acknowledgement{phase: authority.Phase}, nil
	}
	pods, err := cluster.Pods(ctx, r.client)
	if err != nil {
		return acknowledgement{}, err
	}
	served := r.world.served()
	var clients []distribute.Client
	var seq uint64
	var published bool
	kind, what := wire.KindMesh, "the trust bundle is not published yet"
	if authority.Phase == identity.ReissuingCertificates {
		kind, what = wire.KindCertificate, "certificates are being reissued"
		seq, published = r.members.reissued(authority.CA)
		for _, c := range r.hub.Clients() {
			if c.Kind != distribute.ClientNode {
				clients = append(clients, c)
			}
		}
	} else {
		seq, published = r.world.trusted(authority.CA.Bundle())
		clients = r.hub.Clients()
	}
	waiting := acknowledged(clients, compile.ReadyProxies(pods, served, nil), compile.ReadyBeside(pods, served), seq, published)
	waiting.phase = authority.Phase
	if !published {
		waiting.missing = append(waiting.missing, what)
	}
	for _, rejected := range r.hub.Rejections() {
		if rejected.Kind == kind {
			waiting.missing = append(waiting.missing, fmt.Sprintf("%s rejects %s: %s", rejected.Client, rejected.Ref, rejected.Reason))
		}
	}
	if authority.Phase == identity.ReissuingCertificates {
		return waiting, nil
	}
	if grace := r.world.ConnectGrace - time.Since(r.started); grace > 0 && r.agentsMissing(ctx, pods) {
		waiting.missing = append(waiting.missing, "node agents may still connect to this leader")
	}
	unwritten, err := r.unwritten(ctx, served, authority.CA.Bundle())
	waiting.missing = append(waiting.missing, unwritten...)
	return waiting, err
}

// acknowledged counts who has the publication seq: all clients, and the ready proxies without a stream: those that
// namespaces share, and those beside pods.
func acknowledged(clients []distribute.Client, ready map[string][]wire.Proxy, beside map[string][]string, seq uint64, published bool) acknowledgement {
	var a acknowledgement
	connected := map[distribute.ClientKind]map[distribute.Pod]bool{distribute.ClientProxy: {}, distribute.ClientSidecar: {}}
	for _, c := range clients {
		a.m++
		if of := connected[c.Kind]; of != nil {
			of[distribute.Pod{Namespace: c.Namespace, Name: c.Pod}] = true
		}
		if published && c.Seq >= seq {
			a.n++
		} else {
			a.missing = append(a.missing, c.String())
		}
	}
	expect := func(kind distribute.ClientKind, namespace, pod string) {
		if !connected[kind][distribute.Pod{Namespace: namespace, Name: pod}] {
			a.m++
			a.missing = append(a.missing, fmt.Sprintf("%s %s/%s, which is ready and not connected", kind, namespace, pod))
		}
	}
	for namespace, proxies := range ready {
		for _, p := range proxies {
			expect(distribute.ClientProxy, namespace, p.Pod)
		}
	}
	for namespace, pods := range beside {
		for _, pod := range pods {
			expect(distribute.ClientSidecar, namespace, pod)
		}
	}
	slices.Sort(a.missing)
	return a
}

// agentsMissing tells whether a node agent is ready and not connected.
func (r *Rotation) agentsMissing(ctx context.Context, pods []*corev1.Pod) bool {
	nodes, err := cluster.Nodes(ctx, r.client)
	if err != nil {
		return true
	}
	reports := r.hub.Nodes()
	for node, ready := range agents(nodes, pods, r.namespace) {
		if ready && !reports[node].Connected {
			return true
		}
	}
	return false
}

// unwritten names where the bundle is not written yet: pods that start would mount, and API servers would
// use, another one.
func (r *Rotation) unwritten(ctx context.Context, served map[string]bool, bundle string) ([]string, error) {
	var missing []string
	var list corev1.ConfigMapList
	if err := r.client.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list trust bundles: %w", err)
	}
	has := map[string]bool{}
	for i := range list.Items {
		has[list.Items[i].Namespace] = list.Items[i].Data[infra.TrustBundleKey] == bundle
	}
	if !has[r.namespace] {
		missing = append(missing, "ConfigMap "+infra.TrustBundleName+" of namespace "+r.namespace)
	}
	for namespace := range served {
		if !has[namespace] {
			missing = append(missing, "ConfigMap "+infra.TrustBundleName+" of namespace "+namespace)
		}
	}
	slices.Sort(missing)
	unasked, err := r.unasked(ctx, []byte(bundle))
	return append(missing, unasked...), err
}

// unasked names the webhook configurations with other roots. API servers could not ask the operator then, and pods would
// be made without the proxies that they are to have.
func (r *Rotation) unasked(ctx context.Context, bundle []byte) ([]string, error) {
	var missing []string
	other := func(config admissionregistrationv1.WebhookClientConfig) bool {
		return !bytes.Equal(config.CABundle, bundle)
	}
	key := client.ObjectKey{Name: webhooks.ConfigurationName}
	var validating admissionregistrationv1.ValidatingWebhookConfiguration
	if err := r.client.Get(ctx, key, &validating); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("webhook configuration: %w", err)
	}
	if slices.ContainsFunc(validating.Webhooks, func(w admissionregistrationv1.ValidatingWebhook) bool { return other(w.ClientConfig) }) {
		missing = append(missing, "the roots in ValidatingWebhookConfiguration "+webhooks.ConfigurationName)
	}
	var mutating admissionregistrationv1.MutatingWebhookConfiguration
	if err := r.client.Get(ctx, key, &mutating); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("webhook configuration: %w", err)
	}
	if slices.ContainsFunc(mutating.Webhooks, func(w admissionregistrationv1.MutatingWebhook) bool { return other(w.ClientConfig) }) {
		missing = append(missing, "the roots in MutatingWebhookConfiguration "+webhooks.ConfigurationName)
	}
	return missing, nil
}

// note keeps what is waited for and what was found, for the Mesh's status.
func (r *Rotation) note(waiting acknowledgement, found identity.Found) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.found
	r.found = found
	if was.Source == found.Source && was.Fault == found.Fault && was.Pending == found.Pending &&
		r.waiting.phase == waiting.phase && r.waiting.n == waiting.n && r.waiting.m == waiting.m &&
		slices.Equal(r.waiting.missing, waiting.missing) {
		return
	}
	r.waiting = waiting
	close(r.changed)
	r.changed = make(chan struct{})
}

// tell makes Events of certificates that come to their end and of those that cannot be issued. A new
// leader says what it finds once more.
func (r *Rotation) tell(mesh *meshv1alpha1.Mesh, now time.Time) {
	for _, c := range authorityCertificates(r.keeper.Authority()) {
		left := c.certificate.LifeLeft(now)
		if before, told := r.said[c.certificate.Fingerprint]; left == 100 || told && before <= left {
			continue
		}
		r.said[c.certificate.Fingerprint] = left
		kind, reason := corev1.EventTypeWarning, "CertificateExpiring"
		text := fmt.Sprintf("%d %% or less of its life is left", left)
		switch left {
		case 50:
			kind = corev1.EventTypeNormal
		case 0:
			reason, text = "CertificateExpired", "it has expired"
		}
		r.recorder.Eventf(mesh, nil, kind, reason, "Rotate", "the %s %s ends at %s: %s",
			c.name, c.certificate.Fingerprint[:16], c.certificate.NotAfter.UTC().Format(time.RFC3339), text)
	}
	failure := r.members.issued().failure
	if failure != "" && failure != r.failure {
		r.recorder.Eventf(mesh, nil, corev1.EventTypeWarning, "CertificateNotIssued", "Issue", "%s", truncate(failure))
	}
	r.failure = failure
}

type namedCertificate struct {
	name        string
	certificate identity.Certificate
}

// authorityCertificates are those on which everything that is issued depends.
func authorityCertificates(a *identity.Authority) []namedCertificate {
	return []namedCertificate{{"root", a.Root()}, {"intermediate", a.Intermediate()}}
}

// watchHub wakes the controller when a client acknowledges, while a phase waits for that.
func (r *Rotation) watchHub(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	go func() {
		for {
			clients, authority := r.hub.Changed(), r.keeper.Changed()
			if r.keeper.Authority().Phase != identity.Steady {
				queue.AddAfter(theMesh, ackInterval)
			}
			select {
			case <-ctx.Done():
				return
			case <-authority:
			case <-clients:
			}
		}
	}()
	return nil
}

// sources lists what wakes the controller. Pods that are not ready any more end a wait.
func (r *Rotation) sources(c cache.Cache) []source.TypedSource[reconcile.Request] {
	always := func() []reconcile.Request { return []reconcile.Request{theMesh} }
	return []source.TypedSource[reconcile.Request]{
		source.TypedFunc[reconcile.Request](r.watchHub),
		follow(r.keeper.Changed, always),
		follow(r.members.changed, always),
		source.TypedKind(c, &meshv1alpha1.Mesh{},
			handler.TypedEnqueueRequestsFromMapFunc(func(context.Context, *meshv1alpha1.Mesh) []reconcile.Request { return always() }),
			predicate.TypedFuncs[*meshv1alpha1.Mesh]{UpdateFunc: func(e event.TypedUpdateEvent[*meshv1alpha1.Mesh]) bool {
				return generationChanged(e.ObjectOld, e.ObjectNew) ||
					e.ObjectOld.Annotations[meshv1alpha1.RotateRootAnnotation] != e.ObjectNew.Annotations[meshv1alpha1.RotateRootAnnotation]
			}}),
		source.TypedKind(c, &corev1.Pod{},
			handler.TypedEnqueueRequestsFromMapFunc(func(_ context.Context, pod *corev1.Pod) []reconcile.Request {
				if pod.Labels[meshv1alpha1.ComponentLabel] != compile.ComponentProxy && !compile.HasSidecar(pod) || r.keeper.Authority().Phase == identity.Steady {
					return nil
				}
				return always()
			})),
	}
}

// follow makes a source of a channel that is closed at each change.
func follow[T comparable](changed func() <-chan struct{}, topics func() []T) source.TypedSource[T] {
	return source.TypedFunc[T](func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[T]) error {
		go func() {
			for {
				c := changed()
				for _, topic := range topics() {
					queue.Add(topic)
				}
				select {
				case <-ctx.Done():
					return
				case <-c:
				}
			}
		}()
		return nil
	})
}

// expiry is a metric of when certificates end, computed when it is asked for: root and intermediate, and of the
// workloads' certificates the one that ends first. Proxies have one of the same name.
type expiry struct {
	keeper  *identity.Keeper
	members *Members
}

var expiryDescription = prometheus.NewDesc("weft_certificate_expiration_timestamp_seconds",
	"When a certificate ends, as seconds since 1970; of the workloads', the one that ends first. Those are known to the leader alone.",
	[]string{"certificate"}, nil)

// Describe implements prometheus.Collector.
func (e *expiry) Describe(c chan<- *prometheus.Desc) { c <- expiryDescription }

// Collect implements prometheus.Collector.
func (e *expiry) Collect(c chan<- prometheus.Metric) {
	ends := map[string]time.Time{"workload": e.members.issued().soonest}
	for _, a := range authorityCertificates(e.keeper.Authority()) {
		ends[a.name] = a.certificate.NotAfter
	}
	for name, end := range ends {
		if !end.IsZero() {
			c <- prometheus.MustNewConstMetric(expiryDescription, prometheus.GaugeValue, float64(end.Unix()), name)
		}
	}
}
