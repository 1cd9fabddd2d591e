package preflight_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/controllers/preflight"
)

func pod(namespace, name string, labels map[string]string, addresses ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, a := range addresses {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	return p
}

// town is two enrolled namespaces, in one of which a pod is called by the name of its port.
func town(policies ...*networkingv1.NetworkPolicy) preflight.Cluster {
	web := pod("shop", "web", map[string]string{"app": "web"}, "10.0.0.1", "fd00::1")
	web.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 8080, Protocol: corev1.ProtocolUDP}}}}
	proxy := map[string]string{"app.kubernetes.io/name": "weft-proxy", "mesh.weft.dev/component": "proxy"}
	return preflight.Cluster{
		System: "weft-system", Enrolled: []string{"bank", "shop"}, Managed: true,
		Namespaces: []*corev1.Namespace{
			{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"team": "a"}}},
			{ObjectMeta: metav1.ObjectMeta{Name: "bank", Labels: map[string]string{"team": "b"}}},
		},
		Pods: []*corev1.Pod{
			web,
			pod("shop", "weft-proxy-1", proxy, "10.0.0.8", "fd00::8"), pod("shop", "weft-proxy-2", proxy, "10.0.1.8", "fd00::1:8"),
			pod("bank", "till", map[string]string{"app": "till"}, "10.0.0.2"), pod("bank", "weft-proxy-1", proxy, "10.0.2.8"),
			pod("weft-system", "weft-operator-1", map[string]string{"app.kubernetes.io/name": "weft-operator", "mesh.weft.dev/component": "operator"}, "10.0.3.3"),
		},
		Exposures: []compile.Exposure{{
			ServicePort: compile.ServicePort{Namespace: "shop", Service: "web", Port: 80},
			Selector:    map[string]string{"app": "web"}, Target: intstr.FromString("http"),
		}},
		Policies: policies,
	}
}

func policy(t testing.TB, namespace, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

const (
	egressToProxies    = "shop/p Egress ToProxy [web]"
	ingressFromProxies = "shop/p Ingress FromProxy [web]"
)

func texts(found []preflight.Finding) []string {
	out := []string{}
	for _, f := range found {
		out = append(out, f.Policy.String()+" "+string(f.Direction)+" "+string(f.Flow)+" ["+strings.Join(f.Pods, " ")+"]")
	}
	return out
}

// TestSemantics holds the reading of policies to what the documentation of networking.k8s.io/v1 says: each case is
// one sentence of it.
func TestSemantics(t *testing.T) {
	cases := map[string]struct {
		spec string
		want []string
	}{
		// podSelector
		"an empty podSelector selects all pods of the namespace": {`podSelector: {}`, []string{ingressFromProxies}},
		"a podSelector selects by labels":                        {`podSelector: {matchLabels: {app: web}}`, []string{ingressFromProxies}},
		"pods that are not selected are not isolated":            {`podSelector: {matchLabels: {app: db}}`, nil},
		"a podSelector selects by expressions":                   {`podSelector: {matchExpressions: [{key: app, operator: In, values: [db, web]}]}`, []string{ingressFromProxies}},
		"expressions and labels must all hold":                   {`podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: NotIn, values: [web]}]}`, nil},
		// policyTypes
		"without policyTypes there is always ingress":                  {`podSelector: {}`, []string{ingressFromProxies}},
		"without policyTypes there is egress if there are rules of it": {`{podSelector: {}, ingress: [{}], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`, []string{egressToProxies}},
		"an empty list of egress rules is none":                        {`{podSelector: {}, ingress: [{}], egress: []}`, nil},
		"policyTypes Egress leaves ingress open":                       {`{podSelector: {}, policyTypes: [Egress]}`, []string{egressToProxies}},
		"policyTypes Ingress leaves egress open, whatever its rules":   {`{podSelector: {}, policyTypes: [Ingress], ingress: [{}], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`, nil},
		"both":                            {`{podSelector: {}, policyTypes: [Ingress, Egress]}`, []string{egressToProxies, ingressFromProxies}},
		"an empty rule admits everything": {`{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`, nil},
		"a rule with an empty list of peers as well": {`{podSelector: {}, ingress: [{from: []}]}`, nil},
		// peers
		"a podSelector alone is for pods of the policy's namespace":    {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}}]}]}`, nil},
		"it is not for other pods":                                     {`{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`, []string{ingressFromProxies}},
		"a namespaceSelector alone is for all pods of its namespaces":  {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}]}]}`, nil},
		"an empty namespaceSelector is for all namespaces":             {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}`, nil},
		"it is not for other namespaces":                               {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}]}`, []string{ingressFromProxies}},
		"every namespace has its name for a label":                     {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}]}`, nil},
		"with both, both must hold":                                    {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: web}}}]}]}`, []string{ingressFromProxies}},
		"both hold":                                                    {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchExpressions: [{key: mesh.weft.dev/component, operator: Exists}]}}]}]}`, nil},
		"of several peers one is enough":                               {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}, {podSelector: {}}]}]}`, nil},
		"of several rules one is enough":                               {`{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}, {from: [{podSelector: {}}]}]}`, nil},
		"an ipBlock is for its addresses":                              {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16}}, {ipBlock: {cidr: "fd00::/64"}}]}]}`, nil},
		"it is not for others":                                         {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/24}}, {ipBlock: {cidr: "fd00::/64"}}]}]}`, []string{ingressFromProxies}},
		"a family that is forgotten is closed":                         {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`, []string{ingressFromProxies}},
		"an ipBlock is not for its exceptions":                         {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.1.0/24]}}, {ipBlock: {cidr: "::/0"}}]}]}`, []string{ingressFromProxies}},
		"exceptions of others do not matter":                           {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.7.0/24]}}, {ipBlock: {cidr: "::/0"}}]}]}`, nil},
		"what one block excepts another may have":                      {`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/16, except: [10.0.1.0/24]}}, {ipBlock: {cidr: 10.0.1.8/32}}, {ipBlock: {cidr: "::/0"}}]}]}`, nil},
		"an egress rule is for where connections go":                   {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}}]}]}`, nil},
		"it does not help that proxies admit":                          {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}]}]}`, []string{egressToProxies}},
		"a policy does not isolate by the rules of the other end":      {`{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: cron}}}]}]}`, nil},
		"selectors of an ingress rule are not about the selected pods": {`{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}`, []string{ingressFromProxies}},
		// ports
		"a port is admitted by its number":                         {`{podSelector: {}, ingress: [{ports: [{port: 8080}]}]}`, nil},
		"the port is that of the pod, not of the Service":          {`{podSelector: {}, ingress: [{ports: [{port: 80}]}]}`, []string{ingressFromProxies}},
		"the protocol is TCP where none is said":                   {`{podSelector: {}, ingress: [{ports: [{protocol: UDP, port: 8080}]}]}`, []string{ingressFromProxies}},
		"a protocol without a port is for all of its ports":        {`{podSelector: {}, ingress: [{ports: [{protocol: TCP}]}]}`, nil},
		"a port is admitted by the name of the container's":        {`{podSelector: {}, ingress: [{ports: [{port: http}]}]}`, nil},
		"a name is that of the port of the protocol":               {`{podSelector: {}, ingress: [{ports: [{port: dns}]}]}`, []string{ingressFromProxies}},
		"a name that the pod does not have is for nothing":         {`{podSelector: {}, ingress: [{ports: [{port: web}]}]}`, []string{ingressFromProxies}},
		"endPort is the last of a range":                           {`{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8080}]}]}`, nil},
		"the range ends there":                                     {`{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8079}]}]}`, []string{ingressFromProxies}},
		"the range begins at port":                                 {`{podSelector: {}, ingress: [{ports: [{port: 8081, endPort: 9000}]}]}`, []string{ingressFromProxies}},
		"of several ports one is enough":                           {`{podSelector: {}, ingress: [{ports: [{port: 443}, {port: 8080}]}]}`, nil},
		"peers and ports must both hold":                           {`{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: 443}]}, {from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 8080}]}]}`, []string{ingressFromProxies}},
		"captured connections have any number for a port":          {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 16384, endPort: 65535}]}]}`, nil},
		"ranges may add up":                                        {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 40000, endPort: 65535}]}, {to: [{podSelector: {}}], ports: [{port: 1, endPort: 39999}]}]}`, nil},
		"a number that is left out is closed":                      {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 16384, endPort: 39999}, {port: 40001, endPort: 65535}]}]}`, []string{egressToProxies}},
		"the port of the listener is not on the network":           {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 15001}]}]}`, []string{egressToProxies}},
		"the port that the application calls is not either":        {`{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]}`, []string{egressToProxies}},
		"the pod that was called without the mesh is not any more": {`{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}`, []string{egressToProxies}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			want := append([]string{}, tc.want...)
			c := town(policy(t, "shop", "p", tc.spec))
			found := preflight.Find(c)
			if diff := cmp.Diff(want, texts(found)); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			mend(t, c, found)
		})
	}
}

// mend adds what findings say, one after the other, and expects each to be gone then.
func mend(t *testing.T, c preflight.Cluster, found []preflight.Finding) {
	t.Helper()
	for i := range found {
		for _, p := range c.Policies {
			if p.Namespace+"/"+p.Name != found[i].Policy.String() {
				continue
			}
			var err error
			if found[i].Direction == networkingv1.PolicyTypeIngress {
				var rule networkingv1.NetworkPolicyIngressRule
				err = json.Unmarshal([]byte(found[i].Rule), &rule)
				p.Spec.Ingress = append(p.Spec.Ingress, rule)
			} else {
				var rule networkingv1.NetworkPolicyEgressRule
				err = json.Unmarshal([]byte(found[i].Rule), &rule)
				p.Spec.Egress = append(p.Spec.Egress, rule)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, left := range preflight.Find(c) {
			if left.Policy == found[i].Policy && left.Direction == found[i].Direction && left.Flow == found[i].Flow {
				t.Errorf("after adding %s it is still found: %s", found[i].Rule, left.String())
			}
		}
	}
	if left := preflight.Find(c); len(left) > 0 {
		t.Errorf("after adding everything there is still %v", texts(left))
	}
}

func TestFind(t *testing.T) {
	const deny = `{podSelector: {}, policyTypes: [Ingress, Egress]}`
	cases := map[string]struct {
		change   func(*preflight.Cluster)
		policies []*networkingv1.NetworkPolicy
		want     []string
	}{
		"no policies": {},
		"a namespace that is not enrolled": {
			policies: []*networkingv1.NetworkPolicy{policy(t, "other", "p", deny)},
		},
		"policies add up": {
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", deny), policy(t, "shop", "open", `{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}`)},
		},
		"each that isolates is named": {
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", `{podSelector: {}}`), policy(t, "shop", "q", `{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: db}}}]}]}`)},
			want:     []string{ingressFromProxies, "shop/q Ingress FromProxy [web]"},
		},
		"pods that are not captured call nobody": {
			change:   func(c *preflight.Cluster) { c.Pods[0].Labels["mesh.weft.dev/enabled"] = "false" },
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", deny)},
			want:     []string{ingressFromProxies},
		},
		"pods on the network of their node, and those that have ended": {
			change: func(c *preflight.Cluster) {
				c.Pods[0].Spec.HostNetwork = true
				c.Pods[3].Status.Phase = corev1.PodSucceeded
			},
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", `{podSelector: {matchLabels: {app: web}}}`), policy(t, "bank", "p", `{podSelector: {matchLabels: {app: till}}, policyTypes: [Egress]}`)},
		},
		"pods that nobody calls": {
			policies: []*networkingv1.NetworkPolicy{policy(t, "bank", "p", `{podSelector: {}}`)},
		},
		"before there is any pod": {
			change:   func(c *preflight.Cluster) { c.Pods = nil },
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", deny)},
			want:     []string{"shop/p Egress ToProxy []"},
		},
		"before there is any proxy, by an address": {
			change:   func(c *preflight.Cluster) { c.Pods = c.Pods[:1] },
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`)},
			want:     []string{egressToProxies},
		},
		"before there is any proxy, by all addresses": {
			change:   func(c *preflight.Cluster) { c.Pods = c.Pods[:1] },
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", `{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}]}]}`)},
		},
		"the operator's end": {
			policies: []*networkingv1.NetworkPolicy{policy(t, "weft-system", "p", `{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}}], ports: [{port: 15010}]}]}`)},
			want:     []string{"weft-system/p Ingress Operator [weft-operator-1]"},
		},
		"the proxies' ends where the operator keeps them open": {
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", `{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}, policyTypes: [Ingress, Egress]}`)},
		},
		"the proxies' ends where nobody does": {
			change:   func(c *preflight.Cluster) { c.Managed = false },
			policies: []*networkingv1.NetworkPolicy{policy(t, "shop", "p", `{podSelector: {matchLabels: {mesh.weft.dev/component: proxy}}, policyTypes: [Ingress, Egress]}`)},
			want: []string{
				"shop/p Egress FromProxy [weft-proxy-1 weft-proxy-2]",
				"shop/p Egress Hop [weft-proxy-1 weft-proxy-2]",
				"shop/p Egress Operator [weft-proxy-1 weft-proxy-2]",
				"shop/p Ingress Health [weft-proxy-1 weft-proxy-2]",
				"shop/p Ingress Hop [weft-proxy-1 weft-proxy-2]",
				"shop/p Ingress ToProxy [weft-proxy-1 weft-proxy-2]",
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := town(tc.policies...)
			if tc.change != nil {
				tc.change(&c)
			}
			found := preflight.Find(c)
			if diff := cmp.Diff(append([]string{}, tc.want...), texts(found)); diff != "" {
				t.Errorf("found (-want +got):\n%s", diff)
			}
			if name != "each that isolates is named" { // there the first rule mends both
				mend(t, c, found)
			}
		})
	}
}

func TestFindingSays(t *testing.T) {
	c := town(policy(t, "shop", "p", `{podSelector: {}, policyTypes: [Ingress, Egress]}`))
	c.Pods = append(c.Pods, pod("shop", "aux", map[string]string{"app": "web"}, "10.0.0.4"))
	c.Exposures[0].Target = intstr.FromInt32(8080)
	var got []string
	for _, f := range preflight.Find(c) {
		got = append(got, f.String())
	}
	want := []string{
		`blocks egress of pod aux and 1 more, between pods and their proxies: add to spec.egress {"to":[{"podSelector":{"matchLabels":{"mesh.weft.dev/component":"proxy"}}}]}`,
		`blocks ingress of pod aux and 1 more, between proxies and the pods that are called: add to spec.ingress {"ports":[{"protocol":"TCP","port":8080}],"from":[{"podSelector":{"matchLabels":{"mesh.weft.dev/component":"proxy"}}}]}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}
