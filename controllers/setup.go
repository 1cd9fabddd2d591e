package controllers

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/source"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/controllers/jwks"
	"weft.dev/weft/controllers/status"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

// Options configure the operator.
type Options struct {
	// Namespace is the operator's own, PodName and PodAddresses its own pod's.
	Namespace    string
	PodName      string
	PodAddresses []netip.Addr
	// ProxyImage is used for proxies unless the Mesh names another.
	ProxyImage string
	// ProxyHTTPEngine is the --http-engine of all proxies; empty for their default.
	ProxyHTTPEngine string
	// NodeImage is the image of the node agents where the operator deploys them itself; empty where the
	// installation does.
	NodeImage string
	// ConfigListen is where the leader serves configuration, host:port.
	ConfigListen string
	// WebhookListen is where every operator answers the API server's admission reviews, host:port.
	WebhookListen string
	// WebhookCertMode and WebhookCertPath say whose certificate it answers with.
	WebhookCertMode webhooks.CertMode
	WebhookCertPath string
	// ConnectGrace is how long a new leader waits for the proxies and node agents that are ready to
	// connect before it acts on what the others say; zero means ten seconds.
	ConnectGrace time.Duration
}

// Setup adds the whole control plane to a manager. The certificate authority is loaded, or made, here:
// an operator without one must not start.
func Setup(ctx context.Context, mgr ctrl.Manager, direct client.WithWatch, opts Options, registerer prometheus.Registerer) error {
	keeper, err := identity.OpenKeeper(ctx, direct, opts.Namespace, time.Now)
	if err != nil {
		return err
	}
	found, err := findInstalled(ctx, direct)
	if err != nil {
		return err
	}
	log := mgr.GetLogger()
	installation := newInstallation(direct, log.WithName("installation"), found)
	world := NewWorld()
	hub := distribute.NewHub(distribute.HubOptions{
		Layers: []distribute.Layer{
			distribute.LayerCompiled, distribute.LayerWorkloads, distribute.LayerCertificates, distribute.LayerProxies,
		},
		NodeLayers: []distribute.Layer{distribute.LayerCapture, distribute.LayerInbound},
		Observer: &observer{
			world: world, recorder: mgr.GetEventRecorder("weft"),
			cache: mgr.GetClient(), direct: direct, log: log.WithName("clients"),
		},
	})
	writer := status.NewWriter(mgr.GetClient(), world, mgr.GetEventRecorder("weft"), log.WithName("status"))
	world.Client, world.Direct = mgr.GetClient(), direct
	world.Mark = &meshMark{client: direct, reader: direct, namespace: opts.Namespace}
	world.Hub, world.Status, world.Log = hub, writer, log.WithName("world")
	world.SystemNamespace, world.TrustBundle = opts.Namespace, func() string { return keeper.CA().Bundle() }
	world.TrustChanged = keeper.Changed
	world.Keys = jwks.New(mgr.GetClient(), direct, opts.Namespace, log.WithName("jwks"))
	world.ConnectGrace = cmp.Or(opts.ConnectGrace, connectGrace)
	members := newMembers(mgr.GetClient(), direct, world, hub, keeper, opts)
	rotation := newRotation(mgr, direct, keeper, world, members, hub, opts.Namespace)
	plain := newPlainCounter()
	mesh := &MeshReconciler{
		Client: mgr.GetClient(), Hub: hub, World: world, keeper: keeper, rotation: rotation, members: members, plain: plain, installation: installation,
		blockNotices:     blockNotices{recorder: mgr.GetEventRecorder("weft")},
		plainNotices:     plainNotices{recorder: mgr.GetEventRecorder("weft")},
		placementNotices: placementNotices{recorder: mgr.GetEventRecorder("weft")},
	}
	builder := ctrl.NewControllerManagedBy(mgr).Named("mesh").
		For(&meshv1alpha1.Mesh{}).
		WatchesRawSource(source.Func(mesh.watchHub)).
		WatchesRawSource(mesh.watchNodes(mgr.GetCache()))
	for _, policies := range mesh.watchPolicies(mgr.GetCache()) {
		builder = builder.WatchesRawSource(policies)
	}
	if err := builder.Complete(mesh); err != nil {
		return fmt.Errorf("mesh controller: %w", err)
	}
	if opts.NodeImage != "" {
		if err := mgr.Add(&Agents{Client: direct, Log: log.WithName("agents"), Namespace: opts.Namespace, Image: opts.NodeImage}); err != nil {
			return fmt.Errorf("add the node agents: %w", err)
		}
	}
	if err := mgr.Add(installation); err != nil {
		return fmt.Errorf("follow what is installed: %w", err)
	}
	if len(found.missing) > 0 {
		return nil
	}
	if err := indexSlices(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	if err := addController(mgr, "world", world, world.sources(mgr.GetCache())); err != nil {
		return err
	}
	if err := addController(mgr, "members", members, members.sources(mgr.GetCache())); err != nil {
		return err
	}
	if err := addController(mgr, "rotation", rotation, rotation.sources(mgr.GetCache())); err != nil {
		return err
	}
	if err := registerer.Register(&expiry{keeper, members}); err != nil {
		return fmt.Errorf("metric of certificates: %w", err)
	}
	if err := registerer.Register(distribute.NewLag(hub)); err != nil {
		return fmt.Errorf("metric of how far clients are behind: %w", err)
	}
	if err := registerer.Register(plain.connections); err != nil {
		return fmt.Errorf("metric of callers past the mesh: %w", err)
	}
	if err := registerer.Register(world.Keys); err != nil {
		return fmt.Errorf("metric of key sets: %w", err)
	}
	authenticator, err := newAuthenticator(mgr, direct, world, opts)
	if err != nil {
		return err
	}
	if err := webhooks.Setup(ctx, mgr, webhooks.Options{
		Namespace: opts.Namespace, Listen: opts.WebhookListen, CertMode: opts.WebhookCertMode, CertPath: opts.WebhookCertPath,
		CA: keeper.CA, Changed: keeper.Changed, Inject: func(mesh *meshv1alpha1.Mesh) webhooks.InjectConfig {
			return injectConfig(mesh, opts)
		},
	}); err != nil {
		return err
	}
	leader := &Leader{
		Client: mgr.GetClient(), CA: keeper.CA, Log: log.WithName("leader"),
		Server: &distribute.Server{
			Hub: hub, Authenticator: authenticator, Metrics: distribute.NewMetrics(registerer), Log: log.WithName("config"),
		},
		Namespace: opts.Namespace, PodName: opts.PodName, PodAddresses: opts.PodAddresses, Listen: opts.ConfigListen,
	}
	for _, runnable := range []interface {
		Start(context.Context) error
	}{keeper, world.Keys, writer, leader} {
		if err := mgr.Add(runnable); err != nil {
			return fmt.Errorf("add %T: %w", runnable, err)
		}
	}
	return nil
}

// DescribeMetrics sends the descriptions of all metrics of the operator that are Weft's own, for documentation.
func DescribeMetrics(all chan<- *prometheus.Desc) {
	distribute.Describe(all)
	(&expiry{}).Describe(all)
	newPlainCounter().connections.Describe(all)
	jwks.Describe(all)
}

// addController adds a controller with one worker: its topics are handled one after the other.
func addController[T comparable](mgr ctrl.Manager, name string, r reconciler[T], sources []source.TypedSource[T]) error {
	c, err := controller.NewTyped(name, mgr, controller.TypedOptions[T]{
		Reconciler:              r,
		MaxConcurrentReconciles: 1,
		// A topic stands for much more than the object that failed: it is tried again soon.
		RateLimiter:    workqueue.NewTypedItemExponentialFailureRateLimiter[T](10*time.Millisecond, 3*time.Second),
		LogConstructor: func(*T) logr.Logger { return mgr.GetLogger().WithName(name) },
	})
	if err != nil {
		return fmt.Errorf("controller %s: %w", name, err)
	}
	for _, s := range sources {
		if err := c.Watch(s); err != nil {
			return fmt.Errorf("controller %s: watch: %w", name, err)
		}
	}
	return nil
}

type reconciler[T comparable] interface {
	Reconcile(ctx context.Context, request T) (ctrl.Result, error)
}

func newAuthenticator(mgr ctrl.Manager, direct client.Reader, world *World, opts Options) (distribute.Authenticator, error) {
	clientset, err := kubernetes.NewForConfig(mgr.GetConfig())
	if err != nil {
		return nil, fmt.Errorf("client for token reviews: %w", err)
	}
	return distribute.NewTokenAuthenticator(distribute.TokenAuthenticatorOptions{
		Reviewer: clientset.AuthenticationV1().TokenReviews(),
		Pods:     podLookup{direct},
		Proxy: distribute.Workload{
			Kind: "Deployment", Name: meshv1alpha1.ProxyName, ServiceAccount: meshv1alpha1.ProxyName,
			Labels: map[string]string{meshv1alpha1.ComponentLabel: compile.ComponentProxy},
		},
		Node: distribute.Workload{
			Kind: "DaemonSet", Namespace: opts.Namespace, Name: nodeName, ServiceAccount: nodeName,
			Labels: map[string]string{meshv1alpha1.ComponentLabel: componentNode},
		},
		Sidecar:  compile.HasSidecar,
		Enrolled: func(namespace string) bool { return world.served()[namespace] },
	}), nil
}

// nodeName is the name of the DaemonSet and of the ServiceAccount of the node agents.
const nodeName = "weft-node"

// podLookup reads from the API server: whether a pod exists must be true now, not in some cache's past.
type podLookup struct{ reader client.Reader }

func (l podLookup) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	return pod, l.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, pod)
}

func (l podLookup) Owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (metav1.Object, error) {
	var owner client.Object
	switch ref.Kind {
	case "ReplicaSet":
		owner = &appsv1.ReplicaSet{}
	case "Deployment":
		owner = &appsv1.Deployment{}
	default:
		owner = &appsv1.DaemonSet{}
	}
	return owner, l.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, owner)
}

// lookupTimeout bounds the search for the object that an Event is about, which delays a client's stream.
const lookupTimeout = 5 * time.Second

// observer hands on what clients report.
type observer struct {
	world    *World
	recorder events.EventRecorder
	// cache has every kind that resources are made from but Secrets; those are read from direct.
	cache  client.Client
	direct client.Reader
	log    logr.Logger
}

// Rejected implements distribute.Observer: what a proxy cannot use becomes an Event on its origin.
func (o *observer) Rejected(r distribute.Rejected) {
	o.log.Info("a proxy rejected configuration", "resource", r.String(), "client", r.Client.String(), "reason", r.Reason)
	if r.Origin.Name == "" {
		return
	}
	o.recorder.Eventf(o.reference(r.Origin), nil, corev1.EventTypeWarning, "Rejected", "Program", "%s keeps its previous configuration of %s: %s", r.Client, r.Ref, r.Reason)
}

// reference refers to an origin, with its UID if it still exists: without one an Event is not among
// those that "kubectl describe" shows.
func (o *observer) reference(origin wire.Origin) *corev1.ObjectReference {
	reference := &corev1.ObjectReference{APIVersion: origin.APIVersion, Kind: origin.Kind, Namespace: origin.Namespace, Name: origin.Name}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	var reader client.Reader = o.cache
	if origin.Kind == "Secret" {
		reader = o.direct
	}
	made, err := o.cache.Scheme().New(schema.FromAPIVersionAndKind(origin.APIVersion, origin.Kind))
	object, ok := made.(client.Object)
	if err == nil && ok {
		err = reader.Get(ctx, types.NamespacedName{Namespace: origin.Namespace, Name: origin.Name}, object)
	}
	if err != nil {
		o.log.V(1).Info("an Event will have no UID", "origin", reference.String(), "reason", err.Error())
		return reference
	}
	reference.UID = object.GetUID()
	return reference
}

// NodeReported implements distribute.Observer.
func (o *observer) NodeReported(_ string, report wire.NodeReport) {
	if report.Full || len(report.Pods) > 0 {
		o.world.NodesReported()
	}
}

// NodeAway implements distribute.Observer: pods that the agent has not seen start are known by their status now.
func (o *observer) NodeAway(string) { o.world.NodesReported() }

// NodeLost implements distribute.Observer.
func (o *observer) NodeLost(node string) {
	o.log.Info("a node agent did not come back, its pods' addresses are taken from their status", "node", node)
	o.world.NodesReported()
}
