package compile_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/wire"
)

func TestPlacement(t *testing.T) {
	labelled := func(value string) map[string]string { return map[string]string{meshv1alpha1.PlacementLabel: value} }
	mesh := func(p meshv1alpha1.Placement) *meshv1alpha1.Mesh {
		return &meshv1alpha1.Mesh{Spec: meshv1alpha1.MeshSpec{Proxy: meshv1alpha1.ProxySpec{Placement: p}}}
	}
	for name, tc := range map[string]struct {
		pod, namespace map[string]string
		mesh           *meshv1alpha1.Mesh
		want           meshv1alpha1.Placement
		wrong          string
	}{
		"nobody says anything":              {want: "namespace"},
		"a Mesh that says nothing":          {mesh: mesh(""), want: "namespace"},
		"the Mesh":                          {mesh: mesh("sidecar"), want: "sidecar"},
		"the namespace over the Mesh":       {namespace: labelled("namespace"), mesh: mesh("sidecar"), want: "namespace"},
		"the pod over the namespace":        {pod: labelled("sidecar"), namespace: labelled("namespace"), want: "sidecar"},
		"the pod back":                      {pod: labelled("namespace"), namespace: labelled("sidecar"), want: "namespace"},
		"a pod that nobody understands":     {pod: labelled("Sidecar"), namespace: labelled("sidecar"), want: "sidecar", wrong: `label mesh.weft.dev/placement of the pod: "Sidecar" is neither "sidecar" nor "namespace"`},
		"a namespace that nobody does":      {namespace: labelled(""), mesh: mesh("sidecar"), want: "sidecar", wrong: `label mesh.weft.dev/placement of the namespace: "" is neither "sidecar" nor "namespace"`},
		"a pod that knows, in such a place": {pod: labelled("sidecar"), namespace: labelled("x"), want: "sidecar", wrong: `label mesh.weft.dev/placement of the namespace: "x" is neither "sidecar" nor "namespace"`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := compile.Placement(tc.pod, tc.namespace, tc.mesh)
			wrong := ""
			if err != nil {
				wrong = err.Error()
			}
			if got != tc.want || wrong != tc.wrong {
				t.Errorf("%s, %q; want %s, %q", got, wrong, tc.want, tc.wrong)
			}
		})
	}
}

// besidePod is a pod on a node that was given a proxy of its own, with changes.
func besidePod(namespace, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + "-" + name), Labels: map[string]string{meshv1alpha1.SidecarLabel: "true", "app": name}},
		Spec: corev1.PodSpec{NodeName: "n1", ServiceAccountName: name, InitContainers: []corev1.Container{
			{Name: compile.SidecarContainer, RestartPolicy: new(corev1.ContainerRestartPolicyAlways)},
		}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func TestHasAndLacksSidecar(t *testing.T) {
	for name, tc := range map[string]struct {
		change     func(*corev1.Pod)
		has, lacks bool
	}{
		"as it was made":          {change: func(*corev1.Pod) {}, has: true},
		"without the container":   {change: func(p *corev1.Pod) { p.Spec.InitContainers = nil }, lacks: true},
		"one that ends":           {change: func(p *corev1.Pod) { p.Spec.InitContainers[0].RestartPolicy = nil }, lacks: true},
		"without the label":       {change: func(p *corev1.Pod) { delete(p.Labels, meshv1alpha1.SidecarLabel) }, lacks: true},
		"on its node's network":   {change: func(p *corev1.Pod) { p.Spec.HostNetwork = true }},
		"one of Weft's":           {change: func(p *corev1.Pod) { p.Labels[meshv1alpha1.ComponentLabel] = "proxy" }},
		"kept out":                {change: func(p *corev1.Pod) { p.Labels[meshv1alpha1.EnabledLabel] = "false" }},
		"does not want one":       {change: func(p *corev1.Pod) { p.Labels = map[string]string{meshv1alpha1.PlacementLabel: "namespace"} }},
		"wants what nobody knows": {change: func(p *corev1.Pod) { p.Labels = map[string]string{meshv1alpha1.PlacementLabel: "x"} }, lacks: true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := besidePod("shop", "web", tc.change)
			if got := compile.HasSidecar(pod); got != tc.has {
				t.Errorf("has it: %v", got)
			}
			if got := compile.LacksSidecar(pod, meshv1alpha1.PlacementSidecar); got != tc.lacks {
				t.Errorf("lacks it: %v", got)
			}
			if compile.LacksSidecar(pod, meshv1alpha1.PlacementNamespace) {
				t.Error("it lacks what it is not to have")
			}
		})
	}
}

func TestSidecars(t *testing.T) {
	address := netip.MustParseAddr
	web, far := besidePod("shop", "web"), besidePod("elsewhere", "web")
	shared := besidePod("shop", "shared", func(p *corev1.Pod) { p.Spec.InitContainers = nil })
	waiting := besidePod("shop", "waiting", func(p *corev1.Pod) { p.Spec.NodeName = "" })
	done := besidePod("shop", "done", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	claimed := map[netip.Addr]*corev1.Pod{
		address("10.0.0.2"): web, address("10.0.0.1"): web, address("fd00::1"): web, address("10.0.0.3"): far, address("10.0.0.4"): shared,
	}
	served := map[string]bool{"shop": true}
	exposed := map[string]*compile.Exposed{"shop": compile.NewExposed([]compile.Exposure{
		{ServicePort: compile.ServicePort{Namespace: "shop", Service: "web", Port: 81}, Selector: map[string]string{"app": "web"}, Target: intstr.FromInt32(8081)},
		{ServicePort: compile.ServicePort{Namespace: "shop", Service: "web", Port: 80}, Selector: map[string]string{"app": "web"}, Target: intstr.FromInt32(8080)},
		{ServicePort: compile.ServicePort{Namespace: "shop", Service: "other", Port: 80}, Selector: map[string]string{"app": "other"}, Target: intstr.FromInt32(8080)},
	})}
	got := compile.Sidecars([]*corev1.Pod{web, far, shared, waiting, done}, claimed, served, exposed, map[string]string{"n1": "z1"})
	if len(got) != 1 || got[0].Scope != "workload/shop/web" || got[0].Key != "shop/web" {
		t.Fatalf("resources: %+v", got)
	}
	want := &wire.Sidecar{
		Namespace: "shop", Pod: "web", UID: "shop-web", ServiceAccount: "web", Node: "n1", Zone: "z1",
		Addresses: []netip.Addr{address("10.0.0.1"), address("10.0.0.2"), address("fd00::1")},
		Ports:     []wire.SidecarPort{{Backend: "shop/web:80", Port: 8080}, {Backend: "shop/web:81", Port: 8081}},
	}
	if diff := cmp.Diff(want, got[0].Sidecar, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	beside := compile.SidecarAddresses(claimed, served)
	account := types.NamespacedName{Namespace: "shop", Name: "web"}
	if diff := cmp.Diff(map[netip.Addr]types.NamespacedName{address("10.0.0.1"): account, address("10.0.0.2"): account, address("fd00::1"): account}, beside); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestSpeak(t *testing.T) {
	at := netip.MustParseAddrPort
	beside := map[netip.Addr]types.NamespacedName{
		netip.MustParseAddr("10.0.0.1"): {Namespace: "shop", Name: "web"}, netip.MustParseAddr("10.0.0.2"): {Namespace: "shop", Name: "web"},
		netip.MustParseAddr("10.0.0.3"): {Namespace: "bank", Name: "till"},
	}
	meshed := &wire.Backend{Namespace: "shop", Service: "web", Port: 80, Meshed: true}
	for name, tc := range map[string]struct {
		backend   *wire.Backend
		endpoints []string
		accounts  []string
		scope     wire.Scope
	}{
		"all":                        {meshed, []string{"10.0.0.1:80", "10.0.0.2:80"}, []string{"web", "web"}, "mesh"},
		"some":                       {meshed, []string{"10.0.0.1:80", "10.0.0.9:80"}, []string{"web", ""}, "namespace/shop"},
		"none":                       {meshed, []string{"10.0.0.9:80"}, []string{""}, "namespace/shop"},
		"no endpoint":                {meshed, nil, nil, "namespace/shop"},
		"a pod of another namespace": {meshed, []string{"10.0.0.3:80"}, []string{""}, "namespace/shop"},
		"a Service outside the mesh": {&wire.Backend{Namespace: "shop"}, []string{"10.0.0.1:80"}, []string{""}, "namespace/shop"},
	} {
		t.Run(name, func(t *testing.T) {
			content := &wire.Endpoints{}
			for _, e := range tc.endpoints {
				content.Endpoints = append(content.Endpoints, wire.Endpoint{Address: at(e), Zone: "z"})
			}
			given := wire.New("shop/web:80", "namespace/shop", wire.Origin{}, content)
			backend := wire.New("shop/web:80", wire.ScopeMesh, wire.Origin{}, tc.backend)
			got := compile.Speak(&given, &backend, beside)
			var accounts []string
			for _, e := range got.Endpoints.Endpoints {
				accounts = append(accounts, e.ServiceAccount)
			}
			if diff := cmp.Diff(tc.accounts, accounts); diff != "" || got.Scope != tc.scope {
				t.Errorf("scope %s, accounts (-want +got):\n%s", got.Scope, diff)
			}
			for _, e := range content.Endpoints {
				if e.ServiceAccount != "" {
					t.Error("the given resource was changed")
				}
			}
			if back := compile.Speak(got, &backend, nil); back.Version != given.Version || back.Scope != given.Scope {
				t.Errorf("without the proxies it is %+v, want what it was", back)
			}
		})
	}
}

func TestReadyBeside(t *testing.T) {
	isReady := func(pod *corev1.Pod) {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	pods := []*corev1.Pod{
		besidePod("shop", "till", isReady), besidePod("shop", "cart", isReady), besidePod("shop", "starting"), besidePod("other", "cart", isReady),
		besidePod("shop", "ending", isReady, func(pod *corev1.Pod) { pod.DeletionTimestamp = &metav1.Time{} }),
		besidePod("shop", "without", isReady, func(pod *corev1.Pod) { pod.Spec.InitContainers = nil }),
	}
	want := map[string][]string{"shop": {"cart", "till"}}
	if diff := cmp.Diff(want, compile.ReadyBeside(pods, map[string]bool{"shop": true})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
