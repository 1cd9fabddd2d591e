package findings

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

// read reads a mesh of one file.
func read(t *testing.T, documents ...string) *mesh.Mesh {
	t.Helper()
	m, err := mesh.Files([]string{"-"}, mesh.FileOptions{
		SystemNamespace: "weft-system", Stdin: strings.NewReader(strings.Join(documents, "\n---\n")),
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func service(name, more string) string {
	return `{apiVersion: v1, kind: Service, metadata: {name: ` + name + `, namespace: shop}, spec: {ports: [{name: http, port: 80}]` + more + `}}`
}

// httpRoute is a route of Service web.
func httpRoute(name, spec string) string {
	return `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: ` + name + `, namespace: shop}, spec: {parentRefs: [{group: "", kind: Service, name: web}], ` + spec + `}}`
}

func policy(name, spec string) string {
	return `{apiVersion: mesh.weft.dev/v1alpha1, kind: MeshPolicy, metadata: {name: ` + name + `, namespace: shop}, spec: {` + spec + `}}`
}

func authorization(name, spec string) string {
	return `{apiVersion: mesh.weft.dev/v1alpha1, kind: MeshAuthorization, metadata: {name: ` + name + `, namespace: shop}, spec: {` + spec + `}}`
}

const toWeb = `backendRefs: [{name: web, port: 80}]`

var analyzed = map[string]struct {
	documents []string
	want      []string
}{
	"nothing wrong": {documents: []string{service("web", ""), httpRoute("a", `rules: [{`+toWeb+`}]`)}},
	"a parent that does not exist": {
		documents: []string{service("other", ""), httpRoute("a", `rules: [{}]`)},
		want:      []string{"error WEFT101 HTTPRoute shop/a: for parent web: NoMatchingParent: Service shop/web does not exist"},
	},
	"a backend that does not exist": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{backendRefs: [{name: nobody, port: 80}]}]`)},
		want:      []string{"error WEFT102 HTTPRoute shop/a: BackendNotFound: spec.rules[0].backendRefs[0].name: Service shop/nobody does not exist"},
	},
	"one rule invalid": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{`+toWeb+`, matches: [{path: {type: RegularExpression, value: "("}}]}, {matches: [{path: {value: /b}}], `+toWeb+`}]`)},
		want:      []string{"error WEFT103 HTTPRoute shop/a: Dropped Rule 0"},
	},
	"a rule behind another of its route": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{name: first, matches: [{path: {value: /a}, headers: [{name: x, value: "1"}]}], `+toWeb+`}, {matches: [{path: {value: /a/}, headers: [{name: X, value: "1"}]}], `+toWeb+`}]`)},
		want:      []string{`warning WEFT104 HTTPRoute shop/a: matches[0] of rule 1: rule "first" of the same route, match 0, takes its requests`},
	},
	"a rule behind another route's": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{`+toWeb+`}]`), httpRoute("b", `rules: [{`+toWeb+`}]`)},
		want:      []string{`warning WEFT104 HTTPRoute shop/b: matches[0] of rule 0: rule 0 of HTTPRoute shop/a, match 0, takes its requests`},
	},
	"more specific rules": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{`+toWeb+`}, {matches: [{method: GET}, {path: {value: /a}}, {path: {type: Exact, value: /a}}, {queryParams: [{name: q, value: "a&b"}]}, {headers: [{name: host, value: x}]}, {path: {type: RegularExpression, value: /b.*}}], `+toWeb+`}]`)},
	},
	"gRPC methods": {
		documents: []string{service("web", ""), `{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: g, namespace: shop}, spec: {parentRefs: [{group: "", kind: Service, name: web}], rules: [{matches: [{method: {service: s}}, {method: {service: s, method: M}}], ` + toWeb + `}, {matches: [{method: {service: s}}], ` + toWeb + `}]}}`},
		want:      []string{`warning WEFT104 GRPCRoute shop/g: matches[0] of rule 1: rule 0 of the same route, match 0, takes its requests`},
	},
	"weights of zero": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{backendRefs: [{name: web, port: 80, weight: 0}]}]`)},
		want:      []string{"error WEFT105 HTTPRoute shop/a: rule 0 has 1 backends, all of weight 0"},
	},
	"no backend": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{name: empty}, {matches: [{path: {value: /old}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]}]`)},
		want:      []string{`error WEFT106 HTTPRoute shop/a: rule "empty" has no backendRefs`},
	},
	"hostnames": {
		documents: []string{service("web", ""), httpRoute("a", `hostnames: [a.example], rules: [{`+toWeb+`}]`)},
		want:      []string{"info WEFT107 HTTPRoute shop/a: spec.hostnames is ignored for Services"},
	},
	"a consumer route": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{`+toWeb+`}]`), `{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: mine, namespace: front}, spec: {parentRefs: [{group: "", kind: Service, name: web, namespace: shop}], rules: [{backendRefs: [{name: web, namespace: shop, port: 80}]}]}}`},
		want:      []string{"info WEFT108 HTTPRoute front/mine: clients in namespace front get none of HTTPRoute shop/a for shop/web:80"},
	},
	"no pods": {
		documents: []string{service("web", ""), httpRoute("a", `rules: [{`+toWeb+`}]`), `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: other-1, namespace: shop, labels: {kubernetes.io/service-name: other}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{name: http, port: 80}]}`},
		want:      []string{"error WEFT110 HTTPRoute shop/a: rule 0 sends to shop/web:80, which has no ready pod"},
	},
	"an invalid policy": {
		documents: []string{service("web", ""), policy("p", `timeouts: {request: soon}`)},
		want:      []string{`error WEFT111 MeshPolicy shop/p: spec.timeouts.request: "soon" is not a duration`},
	},
	"a policy for nothing": {
		documents: []string{service("web", ""), policy("p", `targetRefs: [{group: "", kind: Service, name: nobody}], timeouts: {request: 1s}`)},
		want:      []string{"error WEFT112 MeshPolicy shop/p: TargetNotFound: Service shop/nobody does not exist"},
	},
	"two policies for one target": {
		documents: []string{service("web", ""), policy("p", `timeouts: {request: 1s}`), policy("q", `timeouts: {request: 2s}`)},
		want:      []string{"error WEFT112 MeshPolicy shop/q: Conflicted"},
	},
	"policies that contradict": {
		documents: []string{service("web", ""), policy("p", `timeouts: {request: 1s}`), policy("q", `targetRefs: [{group: "", kind: Service, name: web}], timeouts: {backendRequest: 2s}`)},
		want:      []string{"warning WEFT113 MeshPolicy shop/q: spec.timeouts.backendRequest=2s is longer than timeouts.request=1s (MeshPolicy shop/p)"},
	},
	"defaults of the Mesh": {
		documents: []string{service("web", ""), `{apiVersion: mesh.weft.dev/v1alpha1, kind: Mesh, metadata: {name: default}, spec: {defaults: {timeouts: {request: soon}}}}`},
		want:      []string{`error WEFT018 Mesh default: spec.defaults.timeouts.request: "soon" is not a duration`},
	},
	"an invalid authorization": {
		documents: []string{service("web", ""), authorization("z", `action: Allow, rules: [{to: [{paths: [{type: Exact, value: ""}]}]}]`)},
		want:      []string{"error WEFT120 MeshAuthorization shop/z: spec.rules[0].to[0].paths[0]"},
	},
	"an authorization for nothing": {
		documents: []string{service("web", ""), authorization("z", `targetRefs: [{group: "", kind: Service, name: nobody}], action: Allow`)},
		want:      []string{"error WEFT121 MeshAuthorization shop/z: TargetNotFound"},
	},
	"an authorization that allows everybody": {
		documents: []string{service("web", ""), authorization("z", `action: Allow, rules: [{}]`)},
		want:      []string{"warning WEFT122 MeshAuthorization shop/z:"},
	},
	"a pod on the host's network": {
		documents: []string{service("web", ""), `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: logs, namespace: shop}, spec: {template: {spec: {hostNetwork: true}}}}`},
		want:      []string{"warning WEFT131 Pod shop/logs: it is on the host's network, so that its calls are not captured"},
	},
	"a network policy": {
		documents: []string{
			service("web", ", selector: {app: web}"),
			`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: []}}}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: dns, namespace: shop}, spec: {podSelector: {}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}]}]}}`,
		},
		want: []string{
			`error WEFT130 NetworkPolicy shop/deny: it blocks egress of pod web, between pods and their proxies: add to spec.egress {"to":[{"podSelector":`,
			`error WEFT130 NetworkPolicy shop/deny: it blocks ingress of pod web, between proxies and the pods that are called: add to spec.ingress {"ports":[{"protocol":"TCP","port":80}],"from":[{"podSelector":`,
			`error WEFT130 NetworkPolicy shop/dns: it blocks egress of pod web, between pods and their proxies: add to spec.egress {"to":[{"podSelector":`,
		},
	},
	"network policies that know the mesh": {
		documents: []string{
			service("web", ", selector: {app: web}"),
			`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {metadata: {labels: {app: web}}, spec: {containers: []}}}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: mesh, namespace: shop}, spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}}]}], egress: [{to: [{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}}]}]}}`,
		},
	},
	"a Mesh without network policies for proxies": {
		documents: []string{
			service("web", ""), `{apiVersion: mesh.weft.dev/v1alpha1, kind: Mesh, metadata: {name: default}, spec: {proxy: {networkPolicy: None}}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop}, spec: {podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}, policyTypes: [Egress]}}`,
		},
		want: []string{`error WEFT130 NetworkPolicy shop/deny: it blocks egress of pods that it selects, between proxies and the operator: add to spec.egress {"ports":[{"protocol":"TCP","port":15010}],"to":[{"podSelector":`},
	},
	"a node port": {
		documents: []string{service("web", ", type: NodePort"), httpRoute("a", `rules: [{`+toWeb+`}]`), service("plain", ", type: LoadBalancer")},
		want:      []string{"warning WEFT132 Service shop/web: it is of type NodePort: who comes in by it passes HTTPRoute a"},
	},
	"pods on two nodes": {
		documents: []string{service("web", ""), pod("a", "n1"), pod("b", "n2")},
		want:      []string{"info WEFT133 Namespace shop: its pods and proxies are on 2 nodes, and the network plugin, which is not known here, does not encrypt between them"},
	},
	"a headless Service": {
		documents: []string{service("web", ", clusterIP: None")},
		want:      []string{"info WEFT134 Service shop/web: Service shop/web is headless"},
	},
	"a port without protocol": {
		documents: []string{`{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {ports: [{port: 5000}, {name: tcp-x, port: 5001}]}}`},
		want:      []string{"info WEFT135 Service shop/db: port 5000 has neither appProtocol nor a name"},
	},
}

func pod(name, node string) string {
	return `{apiVersion: v1, kind: Pod, metadata: {name: ` + name + `, namespace: shop}, spec: {nodeName: ` + node + `, containers: []}}`
}

func TestAnalyze(t *testing.T) {
	for name, tc := range analyzed {
		t.Run(name, func(t *testing.T) { checkFound(t, Analyze(read(t, tc.documents...)), tc.want) })
	}
}

// checkFound compares findings, each with the beginning of what it should say.
func checkFound(t *testing.T, found []Finding, want []string) {
	t.Helper()
	var got []string
	for _, f := range found {
		text := string(f.Severity) + " " + string(f.Code) + " " + f.Object.String() + ": " + f.Message
		if i := len(got); i < len(want) && strings.HasPrefix(text, want[i]) {
			text = want[i]
		}
		got = append(got, text)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// What a cluster knows beyond what is declared.
func TestAnalyzeLive(t *testing.T) {
	m := read(t, service("web", ""), httpRoute("a", `rules: [{`+toWeb+`}]`), policy("p", `timeouts: {request: 1s}`), authorization("z", `action: Deny, mode: Audit, rules: [{from: [{namespaces: [x]}]}]`), pod("a", "n1"), pod("b", "n2"))
	m.Live, m.Network = true, mesh.Network{Plugin: "Cilium", Encrypts: true}
	conditions := func(programmed metav1.ConditionStatus, generation int64) []metav1.Condition {
		return []metav1.Condition{
			{Type: "Accepted", Status: metav1.ConditionTrue, ObservedGeneration: generation},
			{Type: "Programmed", Status: programmed, ObservedGeneration: generation, Reason: "Pending", Message: "1/2 proxies"},
		}
	}
	m.Snapshot.HTTPRoutes[0].Status.Parents = []gwv1.RouteParentStatus{
		{ControllerName: "example.com/other", Conditions: conditions(metav1.ConditionFalse, 1)},
		{ControllerName: meshv1alpha1.ControllerName, Conditions: conditions(metav1.ConditionFalse, 1)},
	}
	m.Snapshot.MeshPolicies[0].Generation = 2
	m.Snapshot.MeshPolicies[0].Status.Conditions = conditions(metav1.ConditionTrue, 1)
	m.Snapshot.MeshAuthorizations[0].Status.Conditions = append(conditions(metav1.ConditionTrue, 0),
		metav1.Condition{Type: "Enforced", Status: metav1.ConditionFalse, Reason: "Bypassable", Message: "0 of 2 pods"})
	m.Pods = append(m.Pods, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "done", Namespace: "shop"},
		Spec:       corev1.PodSpec{HostNetwork: true}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded},
	})
	checkFound(t, Analyze(m), []string{
		"error WEFT110 HTTPRoute shop/a: rule 0 sends to shop/web:80, which has no ready pod",
		"warning WEFT109 HTTPRoute shop/a: Pending: 1/2 proxies",
		"warning WEFT123 MeshAuthorization shop/z: 0 of 2 pods",
		"warning WEFT109 MeshPolicy shop/p: the operator has not looked at the last change yet",
	})
}

// Every code of what is declared is found by some test.
func TestEveryCodeIsFound(t *testing.T) {
	found := map[string]bool{string(NotProgrammed): true, string(Bypassable): true}
	for _, tc := range analyzed {
		for _, text := range tc.want {
			found[strings.Fields(text)[1]] = true
		}
	}
	for _, e := range Codes() {
		if strings.HasPrefix(string(e.Code), "WEFT1") && !found[string(e.Code)] {
			t.Errorf("no test finds %s, %s", e.Code, e.Title)
		}
	}
}

func TestPositionsAreOfFiles(t *testing.T) {
	found := Analyze(read(t, service("web", ", clusterIP: None")))
	want := mesh.Position{File: "stdin", Line: 1, Column: 1}
	if len(found) != 1 || found[0].Position != want {
		t.Errorf("findings = %+v, want one at %v", found, want)
	}
}
