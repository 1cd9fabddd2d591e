package envtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/source"
	"weft.dev/weft/proxy/wire"
)

// peer is a proxy or a node agent: a pod with a token of its own, and the stream client of both. It
// keeps what it is sent and forwards nothing.
type peer struct {
	pod *corev1.Pod
	// name is the pod's, for goroutines.
	name   string
	files  string
	stream *source.Stream
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	state  map[wire.Ref]wire.Resource
	deltas []wire.Delta
	// gate, if set, keeps deltas that match from being applied until it is closed.
	gate  chan struct{}
	match func(wire.Delta) bool
	// reject, if set, gives a reason not to use a resource.
	reject func(wire.Resource) string
	// unreachable, if set, keeps the peer from connecting until it is closed.
	unreachable chan struct{}
}

// newProxy runs a proxy in an enrolled namespace: a pod that belongs to the Deployment that the
// operator has made, not ready yet, connected.
func newProxy(ctx context.Context, namespace, name string) *peer {
	GinkgoHelper()
	deployment := &appsv1.Deployment{}
	Expect(user.Get(ctx, client.ObjectKey{Namespace: namespace, Name: meshv1alpha1.ProxyName}, deployment)).To(Succeed())
	replicaSet := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "weft-proxy-1"},
		Spec:       appsv1.ReplicaSetSpec{Selector: deployment.Spec.Selector, Template: deployment.Spec.Template},
	}
	Expect(controllerutil.SetControllerReference(deployment, replicaSet, scheme)).To(Succeed())
	Expect(client.IgnoreAlreadyExists(user.Create(ctx, replicaSet))).To(Succeed())
	Expect(user.Get(ctx, client.ObjectKeyFromObject(replicaSet), replicaSet)).To(Succeed())

	pod := newPod(namespace, name, meshv1alpha1.ProxyName, "node-of-"+namespace)
	pod.Labels = deployment.Spec.Template.Labels
	Expect(controllerutil.SetControllerReference(replicaSet, pod, scheme)).To(Succeed())
	return connect(ctx, pod)
}

// newNode adds a node with an agent that has not reported anything yet.
func newNode(ctx context.Context, name string) *peer {
	GinkgoHelper()
	spent = true
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Expect(user.Create(ctx, node)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { Expect(user.Delete(ctx, node)).To(Succeed()) })
	daemonSet := &appsv1.DaemonSet{}
	Expect(user.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "weft-node"}, daemonSet)).To(Succeed())
	pod := newPod(systemNamespace, "weft-node-"+name, "weft-node", name)
	pod.Labels = daemonSet.Spec.Template.Labels
	Expect(controllerutil.SetControllerReference(daemonSet, pod, scheme)).To(Succeed())
	return connect(ctx, pod)
}

// connect creates a pod and opens a stream with its token. Both end with the spec.
func connect(ctx context.Context, pod *corev1.Pod) *peer {
	GinkgoHelper()
	createPod(ctx, pod)
	p := &peer{pod: pod, name: pod.Name, files: GinkgoT().TempDir(), state: map[wire.Ref]wire.Resource{}}
	bundle := &corev1.ConfigMap{}
	Eventually(func() error {
		return user.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: "weft-ca-bundle"}, bundle)
	}).Should(Succeed())
	Expect(os.WriteFile(filepath.Join(p.files, "ca.crt"), []byte(bundle.Data["ca.crt"]), 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(p.files, "token"), []byte(token(ctx, pod)), 0o600)).To(Succeed())
	p.start()
	return p
}

// token is what the kubelet would project into a pod.
func token(ctx context.Context, pod *corev1.Pod) string {
	GinkgoHelper()
	seconds := int64(3600)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:         []string{wire.TokenAudience},
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Spec.ServiceAccountName}}
	Expect(user.SubResource("token").Create(ctx, account, request)).To(Succeed())
	return request.Status.Token
}

// start opens the stream of a process that holds nothing yet, until stop is called or the spec ends.
func (p *peer) start() {
	p.stream = &source.Stream{
		Addresses:  []string{"weft-config.weft-system.svc:15010"},
		CAFile:     filepath.Join(p.files, "ca.crt"),
		TokenFile:  filepath.Join(p.files, "token"),
		Build:      "test",
		Apply:      p.apply,
		MinBackoff: time.Millisecond,
		MaxBackoff: 100 * time.Millisecond,
		Dial:       p.dial,
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel, p.done = cancel, make(chan struct{})
	go func() {
		defer close(p.done)
		_ = p.stream.Run(ctx)
	}()
	DeferCleanup(p.stop)
}

// stop ends the stream, as the end of the process would.
func (p *peer) stop() {
	p.cancel()
	p.pass()
	p.reachable()
	<-p.done
}

// dial connects to the operator that leads now, wherever the name would lead.
func (p *peer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	p.mu.Lock()
	wait := p.unreachable
	p.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	o := leader()
	if o == nil {
		return nil, errors.New("nobody leads")
	}
	return (&net.Dialer{}).DialContext(ctx, network, o.address)
}

// apply puts a delta in force as soon as the gate is open.
func (p *peer) apply(d wire.Delta) []wire.Rejection {
	p.mu.Lock()
	p.deltas = append(p.deltas, d)
	gate := p.gate
	held := gate != nil && p.match(d)
	p.mu.Unlock()
	if held {
		<-gate
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var rejected []wire.Rejection
	for _, r := range d.Upserted {
		if p.reject != nil {
			if reason := p.reject(r); reason != "" {
				rejected = append(rejected, wire.Rejection{Ref: r.Ref, Version: r.Version, Reason: reason})
				continue
			}
		}
		p.state[r.Ref] = r
		events.add(fmt.Sprintf("%s has %s", p.name, r.Ref))
	}
	for _, ref := range d.Removed {
		delete(p.state, ref)
		events.add(fmt.Sprintf("%s has no %s", p.name, ref))
	}
	return rejected
}

// hold keeps deltas that match from being applied, and so from being acknowledged, until pass is called.
// Those after one that is held do not even arrive.
func (p *peer) hold(match func(wire.Delta) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate, p.match = make(chan struct{}), match
}

// anything matches every delta.
func anything(wire.Delta) bool { return true }

// removing matches deltas that remove a resource.
func removing(kind wire.Kind, key string) func(wire.Delta) bool {
	return func(d wire.Delta) bool { return slices.Contains(d.Removed, wire.Ref{Kind: kind, Key: key}) }
}

// blocked tells that a delta is being held.
func (p *peer) blocked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gate != nil && len(p.deltas) > 0 && p.match(p.deltas[len(p.deltas)-1])
}

func (p *peer) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gate != nil {
		close(p.gate)
		p.gate = nil
	}
}

// isolate keeps the peer from connecting until reachable is called. A stream that is open stays.
func (p *peer) isolate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unreachable = make(chan struct{})
}

func (p *peer) reachable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unreachable != nil {
		close(p.unreachable)
		p.unreachable = nil
	}
}

// refuse sets what the peer cannot use.
func (p *peer) refuse(reject func(wire.Resource) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reject = reject
}

// received returns the deltas that have arrived, whether in force or not.
func (p *peer) received() []wire.Delta {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.deltas)
}

// keys returns what is in force of a kind, sorted.
func (p *peer) keys(kind wire.Kind) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	keys := []string{}
	for ref := range p.state {
		if ref.Kind == kind {
			keys = append(keys, ref.Key)
		}
	}
	slices.Sort(keys)
	return keys
}

// kinds returns the kinds of everything that has arrived, sorted.
func (p *peer) kinds() []wire.Kind {
	kinds := map[wire.Kind]bool{}
	for _, d := range p.received() {
		for _, r := range d.Upserted {
			kinds[r.Kind] = true
		}
	}
	return slices.Sorted(maps.Keys(kinds))
}

// has returns a resource that is in force, or an empty one.
func (p *peer) has(kind wire.Kind, key string) wire.Resource {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state[wire.Ref{Kind: kind, Key: key}]
}

// number returns the number of a destination that is in force; zero when it is not.
func (p *peer) number(key string) uint16 {
	d := p.has(wire.KindDestination, key).Destination
	if d == nil {
		return 0
	}
	return d.Number
}

// captured returns the numbers that the pods of a namespace are sent to, as a node agent has it.
func (p *peer) captured(namespace string) []uint16 {
	numbers := []uint16{}
	if c := p.has(wire.KindCapture, namespace).Capture; c != nil {
		for _, port := range c.Ports {
			numbers = append(numbers, port.Number)
		}
	}
	return numbers
}

// changesSince returns what deltas after the first n have brought and taken, in words.
func (p *peer) changesSince(n int) []string {
	changes := []string{}
	for i, d := range p.received()[n:] {
		for _, r := range d.Upserted {
			content, err := json.Marshal(r.Content())
			changes = append(changes, fmt.Sprintf("delta %d has %s: %s%v", i, r.Ref, content, err))
		}
		for _, ref := range d.Removed {
			changes = append(changes, fmt.Sprintf("delta %d removes %s", i, ref))
		}
	}
	return changes
}

// newPod returns a pod that a scheduler has bound to a node.
func newPod(namespace, name, account, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, NodeName: node,
			Containers: []corev1.Container{{Name: "main", Image: "example.com/main"}},
		},
	}
}

// createPod creates a pod that goes with the spec.
func createPod(ctx context.Context, pod *corev1.Pod) {
	GinkgoHelper()
	Expect(user.Create(ctx, pod)).To(Succeed())
	DeferCleanup(func(ctx context.Context) { deletePod(ctx, pod) })
}

// deletePod deletes a pod as the kubelet does when its containers have ended.
func deletePod(ctx context.Context, pod *corev1.Pod) {
	GinkgoHelper()
	Expect(client.IgnoreNotFound(user.Delete(ctx, pod, client.GracePeriodSeconds(0)))).To(Succeed())
}

// run gives a pod its addresses and makes it ready.
func run(ctx context.Context, pod *corev1.Pod, addresses ...string) {
	GinkgoHelper()
	before := pod.DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP, pod.Status.PodIPs = addresses[0], nil
	for _, address := range addresses {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: address})
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	Expect(user.Status().Patch(ctx, pod, client.MergeFrom(before))).To(Succeed())
}

// key is how wire resources name a Service port.
func key(service *corev1.Service) string {
	return wire.ServicePortKey(service.Namespace, service.Name, uint16(service.Spec.Ports[0].Port))
}

// identityOf is how a report names a pod.
func identityOf(pod *corev1.Pod) wire.PodReport {
	return wire.PodReport{UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Captured: true}
}
