package testbed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/traffic"
)

// App is a pod of the tests. It is a backend and a client at once.
type App struct {
	Name string
	// Version is what the app says of itself, and its label version.
	Version string
	// Labels are further ones.
	Labels map[string]string
	// Node pins the pod to a node.
	Node string
	// ServiceAccount is the default one if empty.
	ServiceAccount string
	// Restart makes the container start again when it has ended.
	Restart bool
}

// besideContainer is the container of a pod's own proxy.
const besideContainer = "weft-proxy"

// Pod is an App that runs.
type Pod struct {
	Namespace, Name, Node string
	UID                   types.UID
	Addresses             []netip.Addr
	// Beside tells that the pod has a proxy of its own.
	Beside bool

	remote traffic.Remote
	bed    *Bed
}

func objectMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// Object returns the pod of an app, not created yet. args are the app's.
func (b *Bed) Object(namespace string, app App, args ...string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: objectMeta(namespace, app.Name)}
	pod.Labels = map[string]string{"app": app.Name, "version": app.Version}
	for key, value := range app.Labels {
		pod.Labels[key] = value
	}
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	grace, token := int64(1), false
	pod.Spec = corev1.PodSpec{
		ServiceAccountName: app.ServiceAccount, AutomountServiceAccountToken: &token,
		TerminationGracePeriodSeconds: &grace, RestartPolicy: corev1.RestartPolicyNever,
		Containers: []corev1.Container{{
			Name: "app", Image: b.image, ImagePullPolicy: corev1.PullNever, Args: args,
			Env: []corev1.EnvVar{
				field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"), field("NODE_NAME", "spec.nodeName"),
				{Name: "VERSION", Value: app.Version},
			},
		}},
	}
	if app.Restart {
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if app.Node != "" {
		pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: app.Node}
	}
	return pod
}

// Run starts apps and waits until they are ready. They live as long as the test.
func (b *Bed) Run(t testing.TB, namespace string, apps ...App) []*Pod {
	t.Helper()
	pods, err := b.Start(t.Context(), namespace, apps...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		t.Cleanup(func() { b.remove(t, &corev1.Pod{ObjectMeta: objectMeta(p.Namespace, p.Name)}) })
	}
	return pods
}

// Start starts apps and waits until they are ready.
func (b *Bed) Start(ctx context.Context, namespace string, apps ...App) ([]*Pod, error) {
	var objects []*corev1.Pod
	for _, app := range apps {
		pod := b.Object(namespace, app, "serve")
		pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(traffic.ControlPort)}},
			PeriodSeconds: 1,
		}
		if err := b.Client.Create(ctx, pod); err != nil {
			return nil, fmt.Errorf("create pod: %w", err)
		}
		objects = append(objects, pod)
	}
	var pods []*Pod
	for _, pod := range objects {
		if err := Poll(ctx, func(ctx context.Context) error {
			if err := b.Client.Get(ctx, client.ObjectKeyFromObject(pod), pod); err != nil {
				return err
			}
			if !podReady(pod) {
				return fmt.Errorf("pod %s/%s is not ready: %s", pod.Namespace, pod.Name, pod.Status.Phase)
			}
			return nil
		}); err != nil {
			return nil, err
		}
		pods = append(pods, b.pod(pod))
	}
	return pods, nil
}

func (b *Bed) pod(pod *corev1.Pod) *Pod {
	p := &Pod{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName, UID: pod.UID, Beside: pod.Labels[meshv1alpha1.SidecarLabel] == "true", bed: b}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.Addresses = append(p.Addresses, a)
		}
	}
	// The API server passes commands on, so that the tests need no way to the pods of their own.
	p.remote.Call = func(ctx context.Context, verb, path, after string, body []byte) ([]byte, error) {
		request := b.Clientset.CoreV1().RESTClient().Verb(verb).Namespace(p.Namespace).Resource("pods").
			Name(p.Name + ":" + strconv.Itoa(traffic.ControlPort)).SubResource("proxy").Suffix(path).Body(body)
		if after != "" {
			request.Param("after", after)
		}
		return request.DoRaw(ctx)
	}
	return p
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Has tells whether an address is one of the pod's.
func (p *Pod) Has(address string) bool {
	for _, a := range p.Addresses {
		if a.String() == address {
			return true
		}
	}
	return false
}

// Send has the pod send a request.
func (p *Pod) Send(t testing.TB, r traffic.Request) traffic.Answer {
	t.Helper()
	a, err := p.remote.Request(t.Context(), &r)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Try is Send for what is tried again.
func (p *Pod) Try(ctx context.Context, r traffic.Request) (traffic.Answer, error) {
	return p.remote.Request(ctx, &r)
}

// Seen returns how many requests with this key have come to the pod.
func (p *Pod) Seen(t testing.TB, key string) int {
	t.Helper()
	data, err := p.remote.Call(t.Context(), "GET", "seen/"+key, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(data))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Behave changes how the pod treats HTTP requests and returns how many it has had since its process
// started, for which it waits.
func (p *Pod) Behave(t testing.TB, b traffic.Behaviour) int {
	t.Helper()
	var n int
	Eventually(t, func(ctx context.Context) (err error) {
		n, err = p.remote.Behave(ctx, b)
		return err
	})
	return n
}

// Kill ends the pod's process at once, as a crash would.
func (p *Pod) Kill(t testing.TB) {
	t.Helper()
	// Whoever dies gives no answer.
	if _, err := p.remote.Behave(t.Context(), traffic.Behaviour{Die: true}); err == nil {
		t.Fatalf("pod %s/%s lives on", p.Namespace, p.Name)
	}
}

// Load is a load that a pod sends.
type Load struct {
	t      testing.TB
	remote *traffic.RemoteLoad
	ended  bool
}

// Load starts a load and waits until its first requests have ended. It ends with the test at the latest.
func (p *Pod) Load(t testing.TB, load traffic.Load) *Load {
	t.Helper()
	remote, err := p.remote.Start(t.Context(), &load)
	if err != nil {
		t.Fatal(err)
	}
	l := &Load{t: t, remote: remote}
	t.Cleanup(func() {
		if l.ended {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if _, err := l.remote.Stop(ctx); err != nil {
			t.Logf("stop a load: %v", err)
		}
	})
	l.More(1)
	return l
}

// Progress returns what the load has done so far.
func (l *Load) Progress() traffic.Progress {
	l.t.Helper()
	p, err := l.remote.Progress(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// More waits until n more requests have ended.
func (l *Load) More(n int) {
	l.t.Helper()
	want := l.Progress().Sent + n
	Eventually(l.t, func(context.Context) error {
		if sent := l.Progress().Sent; sent < want {
			return fmt.Errorf("the load has sent %d of %d requests", sent, want)
		}
		return nil
	})
}

// Stop ends the load and returns all of it.
func (l *Load) Stop() traffic.Progress {
	l.t.Helper()
	l.ended = true
	p, err := l.remote.Stop(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// LastWords returns what a pod that has ended left of type T, or an error while it has not.
func LastWords[T any](pod *corev1.Pod) (T, error) {
	var words T
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Terminated == nil {
			continue
		}
		if s.State.Terminated.ExitCode != 0 {
			return words, fmt.Errorf("the app ended with %d: %s", s.State.Terminated.ExitCode, s.State.Terminated.Message)
		}
		if err := json.Unmarshal([]byte(s.State.Terminated.Message), &words); err != nil {
			return words, fmt.Errorf("last words %q: %w", s.State.Terminated.Message, err)
		}
		return words, nil
	}
	return words, errors.New("the pod has not ended")
}

// Proxies waits until a namespace has all its proxies, ready, and returns them.
func (b *Bed) Proxies(t testing.TB, namespace string) []*Pod {
	t.Helper()
	deployment := &appsv1.Deployment{ObjectMeta: objectMeta(namespace, meshv1alpha1.ProxyName)}
	Await(t, b, deployment, func(d *appsv1.Deployment) string {
		if d.Spec.Replicas == nil || d.Status.UpdatedReplicas != *d.Spec.Replicas || d.Status.AvailableReplicas != *d.Spec.Replicas ||
			d.Status.Replicas != *d.Spec.Replicas || d.Status.ObservedGeneration != d.Generation {
			return fmt.Sprintf("not all replicas are available: %+v", d.Status)
		}
		return ""
	})
	proxies, err := b.Pods(t.Context(), namespace, client.MatchingLabels{meshv1alpha1.ComponentLabel: "proxy"})
	if err != nil {
		t.Fatal(err)
	}
	return proxies
}

// ProxiesOf returns the proxies that requests of pods, and to them, pass: each pod's own, or all those of its namespace,
// ready.
func (b *Bed) ProxiesOf(t testing.TB, pods ...*Pod) []*Pod {
	t.Helper()
	var proxies []*Pod
	seen := map[types.UID]bool{}
	for _, pod := range pods {
		of := []*Pod{pod}
		if !pod.Beside {
			of = b.Proxies(t, pod.Namespace)
		}
		for _, p := range of {
			if !seen[p.UID] {
				seen[p.UID] = true
				proxies = append(proxies, p)
			}
		}
	}
	return proxies
}

// ProxyLog reads what a proxy has written.
func (b *Bed) ProxyLog(ctx context.Context, proxy *Pod) (string, error) {
	options := &corev1.PodLogOptions{}
	if proxy.Beside {
		options.Container = besideContainer
	}
	text, err := b.Clientset.CoreV1().Pods(proxy.Namespace).GetLogs(proxy.Name, options).DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("log of %s: %w", proxy.Name, err)
	}
	return string(text), nil
}

// Pods returns the pods of a namespace that match and are not ending.
func (b *Bed) Pods(ctx context.Context, namespace string, match client.MatchingLabels) ([]*Pod, error) {
	var list corev1.PodList
	if err := b.Client.List(ctx, &list, client.InNamespace(namespace), match); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	var pods []*Pod
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			pods = append(pods, b.pod(&list.Items[i]))
		}
	}
	return pods, nil
}
