package envtest_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/go-jose/go-jose/v4"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/proxy/wire"
)

// authorizationOf is a MeshAuthorization with a spec in YAML, not created yet.
func authorizationOf(namespace, name, spec string) *unstructured.Unstructured {
	return specified("MeshAuthorization", namespace, name, spec)
}

func newAuthorization(ctx context.Context, namespace, name, spec string) *meshv1alpha1.MeshAuthorization {
	GinkgoHelper()
	Expect(user.Create(ctx, authorizationOf(namespace, name, spec))).To(Succeed())
	return &meshv1alpha1.MeshAuthorization{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// authorizationVerdict returns the conditions of an authorization as "Type=Status/Reason ...".
func authorizationVerdict(ctx context.Context, object *meshv1alpha1.MeshAuthorization) func() string {
	return func() string {
		there := &meshv1alpha1.MeshAuthorization{}
		if err := user.Get(ctx, client.ObjectKeyFromObject(object), there); err != nil {
			return err.Error()
		}
		var words []string
		for _, c := range ofGEP713(there.Status.Conditions) {
			words = append(words, fmt.Sprintf("%s=%s/%s", c.Type, c.Status, c.Reason))
		}
		return strings.Join(words, " ")
	}
}

func authorizationMessage(ctx context.Context, object *meshv1alpha1.MeshAuthorization) func() string {
	return func() string {
		there := &meshv1alpha1.MeshAuthorization{}
		if err := user.Get(ctx, client.ObjectKeyFromObject(object), there); err != nil {
			return err.Error()
		}
		c := meta.FindStatusCondition(there.Status.Conditions, meshv1alpha1.PolicyAccepted)
		if c == nil {
			return ""
		}
		return c.Message
	}
}

var _ = Describe("A MeshAuthorization", func() {
	It("reaches the proxies of its namespace alone, and tells what is in force", func(ctx SpecContext) {
		namespace, other := enrolled(ctx), enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		proxy, foreign := newProxy(ctx, namespace, "one"), newProxy(ctx, other, "one")
		Eventually(proxy.keys).WithArguments(wire.KindDestination).ShouldNot(BeEmpty())
		proxy.hold(anything)
		object := newAuthorization(ctx, namespace, "web",
			`{targetRefs: [{group: "", kind: Service, name: web}], action: Allow, rules: [{from: [{serviceAccounts: [{namespace: `+other+`, name: caller}]}]}]}`)
		Eventually(authorizationVerdict(ctx, object)).Should(Equal("Accepted=True/Accepted Programmed=False/Pending Enforced=False/Bypassable"))
		proxy.pass()
		Eventually(authorizationVerdict(ctx, object)).Should(Equal("Accepted=True/Accepted Programmed=True/Programmed Enforced=False/Bypassable"))
		Expect(proxy.has(wire.KindAuthorization, namespace+"/web").Authorization.Targets).To(Equal([]wire.AuthorizationTarget{{Service: "web"}}))
		Expect(foreign.keys(wire.KindAuthorization)).To(BeEmpty())

		By("naming ServiceAccounts that no pod runs as, until one does")
		Expect(authorizationMessage(ctx, object)()).To(ContainSubstring("no pod runs as ServiceAccount " + other + "/caller"))
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "caller"},
			Spec:       corev1.PodSpec{ServiceAccountName: "caller", Containers: []corev1.Container{{Name: "c", Image: "none"}}},
		}
		Expect(user.Create(ctx, pod)).To(Succeed())
		Eventually(authorizationMessage(ctx, object)).ShouldNot(ContainSubstring("no pod runs"))

		By("auditing")
		Expect(user.Get(ctx, client.ObjectKeyFromObject(object), object)).To(Succeed())
		before := object.DeepCopy()
		object.Spec.Mode = meshv1alpha1.AuthorizationAudit
		Expect(user.Patch(ctx, object, client.MergeFrom(before))).To(Succeed())
		Eventually(authorizationVerdict(ctx, object)).Should(Equal("Accepted=True/Accepted Programmed=True/Programmed Enforced=False/Audit"))
		Eventually(func() bool { return proxy.has(wire.KindAuthorization, namespace+"/web").Authorization.Audit }).Should(BeTrue())

		By("going")
		Expect(user.Delete(ctx, object)).To(Succeed())
		Eventually(proxy.keys).WithArguments(wire.KindAuthorization).Should(BeEmpty())
	})

	It("says whether the keys of its issuers are at hand", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		newService(ctx, namespace, "web", nil)
		proxy := newProxy(ctx, namespace, "one")
		object := newAuthorization(ctx, namespace, "tokens", `{action: Allow, rules: [{from: [{jwt: {}}]}],
			jwt: {issuers: [{issuer: id, audiences: [a], jwks: {configMapRef: {name: keys}}}]}}`)
		const unavailable = "Accepted=True/Accepted Programmed=True/Programmed Enforced=False/Bypassable KeysAvailable=False/Unavailable"
		Eventually(authorizationVerdict(ctx, object)).Should(Equal(unavailable))
		set := jwttest.Set(jwttest.New("one", jose.ES256))
		Expect(user.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "keys"}, Data: map[string]string{"jwks.json": set},
		})).To(Succeed())
		Eventually(authorizationVerdict(ctx, object), "60s").Should(HaveSuffix(" KeysAvailable=True/Available"))
		Eventually(func() string {
			return proxy.has(wire.KindAuthorization, namespace+"/tokens").Authorization.Tokens.Issuers[0].Keys
		}).Should(Equal(set))

		By("fetching from nowhere inside of the cluster")
		inside := newAuthorization(ctx, namespace, "inside", `{action: Allow, jwt: {issuers: [{issuer: id, audiences: [a], jwks: {url: "https://127.0.0.1/keys"}}]}}`)
		Eventually(func() string {
			there := &meshv1alpha1.MeshAuthorization{}
			if err := user.Get(ctx, client.ObjectKeyFromObject(inside), there); err != nil {
				return err.Error()
			}
			if c := meta.FindStatusCondition(there.Status.Conditions, meshv1alpha1.AuthorizationKeysAvailable); c != nil {
				return c.Message
			}
			return ""
		}).Should(ContainSubstring("no public address"))
	})

	It("says why it is not in force", func(ctx SpecContext) {
		namespace, outside := enrolled(ctx), newNamespace(ctx)
		object := newAuthorization(ctx, namespace, "later", `{targetRefs: [{group: "", kind: Service, name: later}], action: Allow}`)
		Eventually(authorizationVerdict(ctx, object)).Should(Equal("Accepted=False/TargetNotFound Programmed=False/NotAccepted Enforced=False/NotAccepted"))
		out := newAuthorization(ctx, outside, "all", `{action: Allow}`)
		Eventually(authorizationVerdict(ctx, out)).Should(Equal("Accepted=False/NamespaceNotEnrolled Programmed=False/NotAccepted Enforced=False/NotAccepted"))
		newService(ctx, namespace, "later", nil)
		newProxy(ctx, namespace, "one")
		Eventually(authorizationVerdict(ctx, object)).Should(Equal("Accepted=True/Accepted Programmed=True/Programmed Enforced=False/Bypassable"))
	})

	It("is refused where it cannot be meant", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		for spec, message := range map[string]string{
			`{}`:                           "spec.action",
			`{action: Deny}`:               "a Deny policy without rules denies nothing",
			`{action: Allow, mode: Maybe}`: "spec.mode",
			`{action: Allow, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]}`:                          "a target must be a Service",
			`{action: Allow, targetRefs: [{group: "", kind: Service, name: a}, {group: "", kind: Service, name: a}]}`:            "a target must be named once",
			`{action: Allow, rules: [{from: [{}]}]}`:                                                                             "spec.rules[0].from[0]",
			`{action: Allow, rules: [{to: [{}]}]}`:                                                                               "spec.rules[0].to[0]",
			`{action: Allow, rules: [{from: [{spiffe: ["spiffe://.*/ns/a/sa/b"]}]}]}`:                                            "spec.rules[0].from[0].spiffe[0]",
			`{action: Allow, rules: [{from: [{ipBlocks: [{cidr: 10.0.0.0/33}]}]}]}`:                                              "must be a network in CIDR notation",
			`{action: Allow, rules: [{from: [{ipBlocks: [{cidr: 10.0.0.0/8, except: [x]}]}]}]}`:                                  "must be a network in CIDR notation",
			`{action: Allow, rules: [{to: [{ports: [0]}]}]}`:                                                                     "spec.rules[0].to[0].ports[0]",
			`{action: Allow, rules: [{to: [{methods: ["GET, POST"]}]}]}`:                                                         "spec.rules[0].to[0].methods[0]",
			`{action: Allow, rules: [{to: [{paths: [{type: Regex, value: /.*}]}]}]}`:                                             "spec.rules[0].to[0].paths[0].type",
			`{action: Allow, rules: [{to: [{paths: [{type: Exact, value: a}]}]}]}`:                                               "spec.rules[0].to[0].paths[0].value",
			`{action: Allow, rules: [{to: [{paths: [{type: Template, value: "/a{*}"}]}]}]}`:                                      "a Template has segments",
			`{action: Allow, rules: [{to: [{grpc: [{}]}]}]}`:                                                                     "spec.rules[0].to[0].grpc[0]",
			`{action: Allow, rules: [{to: [{headers: [{name: a, type: Exact}]}]}]}`:                                              "value is for Exact and Prefix",
			`{action: Allow, rules: [{to: [{headers: [{name: a, type: Present, value: b}]}]}]}`:                                  "value is for Exact and Prefix",
			`{action: Allow, jwt: {}}`:                                                                                           "spec.jwt.issuers",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {}}]}}`:                                                           "name one of url, secretRef and configMapRef",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {url: "https://a", secretRef: {name: a}}}]}}`:                     "name one of url, secretRef and configMapRef",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {url: "file:///a"}}]}}`:                                           "spec.jwt.issuers[0].jwks.url",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {url: "https://a", refreshInterval: 1s}}]}}`:                      "refreshInterval must be between",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {url: "https://a"}}, {issuer: a, jwks: {url: "https://b"}}]}}`:    "Duplicate value",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {url: "https://a"}}], from: [{header: a, cookie: b}]}}`:           "name a header or a cookie",
			`{action: Allow, jwt: {issuers: [{issuer: a, jwks: {url: "https://a"}}]}, rules: [{from: [{jwt: {claims: [{}]}}]}]}`: "spec.rules[0].from[0].jwt.claims[0].path",
			`{action: Allow, rules: [{conditions: [""]}]}`:                                                                       "spec.rules[0].conditions[0]",
		} {
			err := user.Create(ctx, authorizationOf(namespace, "refused", spec))
			Expect(err).To(MatchError(ContainSubstring(message)), spec)
		}
		By("and accepted where it can")
		for i, spec := range []string{
			`{action: Allow}`, `{action: Deny, rules: [{}]}`,
			`{action: Allow, rules: [{to: [{paths: [{type: Template, value: "/{**}"}, {type: Template, value: "/a/{*}/{**}"}, {type: Exact, value: "/a%2Fb"}]}]}]}`,
			`{action: Allow, rules: [{from: [{spiffe: ["spiffe://*/ns/*/sa/a.b"], ipBlocks: [{cidr: "fd00::/8", except: ["fd00:1::/32"]}]}]}]}`,
		} {
			Expect(user.Create(ctx, authorizationOf(namespace, fmt.Sprintf("accepted-%d", i), spec))).To(Succeed(), spec)
		}
	})
})
