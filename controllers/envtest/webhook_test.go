package envtest_test

import (
	"context"
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/webhooks"
)

// person is a user who sees warnings, and changes nothing: every write is a dry run.
type person struct {
	client.Client

	mu       sync.Mutex
	warnings []string
}

func newPerson() *person {
	GinkgoHelper()
	p := &person{}
	settings := rest.CopyConfig(userConfig)
	settings.WarningHandler = p
	c, err := client.New(settings, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	p.Client = client.NewDryRunClient(c)
	return p
}

// HandleWarningHeader implements rest.WarningHandler.
func (p *person) HandleWarningHeader(_ int, _, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, text)
}

// creates returns the warnings about an object that could be created.
func (p *person) creates(ctx context.Context, object client.Object) func() []string {
	return p.told(func() error { return p.Create(ctx, object.DeepCopyObject().(client.Object)) })
}

// told returns the warnings about a write that succeeds.
func (p *person) told(write func() error) func() []string {
	return func() []string {
		p.mu.Lock()
		p.warnings = nil
		p.mu.Unlock()
		Expect(write()).To(Succeed())
		p.mu.Lock()
		defer p.mu.Unlock()
		return slices.Clone(p.warnings)
	}
}

// installWebhook has the API server ask an operator, as the manifests say, until the end of the spec. A
// cluster IP would lead nowhere here, so the Service is an alias of this machine.
func installWebhook(ctx context.Context, asked *operator) *admissionregistrationv1.ValidatingWebhookConfiguration {
	GinkgoHelper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: webhooks.ServiceName},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}
	manifest, err := os.ReadFile(filepath.Join(root, "config", "webhook", "configuration.yaml"))
	Expect(err).NotTo(HaveOccurred())
	configuration := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	Expect(yaml.UnmarshalStrict(manifest, configuration)).To(Succeed())
	ask(configuration, asked)
	for _, object := range []client.Object{service, configuration} {
		Expect(user.Create(ctx, object)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(user.Delete(ctx, object))).To(Succeed()) })
	}
	return configuration
}

func ask(configuration *admissionregistrationv1.ValidatingWebhookConfiguration, asked *operator) {
	GinkgoHelper()
	_, text, err := net.SplitHostPort(asked.webhook)
	Expect(err).NotTo(HaveOccurred())
	port, err := strconv.ParseInt(text, 10, 32)
	Expect(err).NotTo(HaveOccurred())
	for i := range configuration.Webhooks {
		configuration.Webhooks[i].ClientConfig.Service.Port = new(int32(port))
		// Here it is the answer that counts, however busy the machine is.
		configuration.Webhooks[i].TimeoutSeconds = new(int32(10))
	}
}

var _ = Describe("The webhook", func() {
	// lost is a route to a Service that does not exist.
	lost := func(namespace string) *gwv1.HTTPRoute {
		return &gwv1.HTTPRoute{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lost"},
			Spec:       gwv1.HTTPRouteSpec{CommonRouteSpec: gwv1.CommonRouteSpec{ParentRefs: []gwv1.ParentReference{parentService("nowhere")}}},
		}
	}
	warned := func(namespace string) OmegaMatcher {
		return ConsistOf("Accepted=False, NoMatchingParent: Service " + namespace + "/nowhere does not exist")
	}

	It("says at once what the status will say", func(ctx SpecContext) {
		installWebhook(ctx, leader())
		someone, namespace := newPerson(), enrolled(ctx)
		Eventually(someone.creates(ctx, lost(namespace))).Should(warned(namespace))

		By("asking about what concerns the mesh alone")
		ofGateway := lost(namespace)
		ofGateway.Spec.ParentRefs = []gwv1.ParentReference{{Name: "nowhere"}}
		Expect(someone.creates(ctx, ofGateway)()).To(BeEmpty())
		Expect(someone.creates(ctx, lost(newNamespace(ctx)))()).To(BeEmpty())

		By("asking again only when the spec changes")
		newService(ctx, namespace, "web", nil)
		route := newRoute(ctx, namespace, "web", "web", parentService("web"))
		change := func(change func(*gwv1.HTTPRoute)) func() []string {
			return someone.told(func() error {
				before := route.DeepCopy()
				after := route.DeepCopy()
				change(after)
				return someone.Patch(ctx, after, client.MergeFrom(before))
			})
		}
		Expect(change(func(r *gwv1.HTTPRoute) { r.Spec.Hostnames = []gwv1.Hostname{"shop.example"} })()).
			To(ConsistOf(ContainSubstring("spec.hostnames")))
		edit(ctx, route, func(r *gwv1.HTTPRoute) { r.Spec.Hostnames = []gwv1.Hostname{"shop.example"} })
		Expect(change(func(r *gwv1.HTTPRoute) { r.Labels = map[string]string{"a": "b"} })()).To(BeEmpty())
	})

	It("refuses a policy that can never work", func(ctx SpecContext) {
		installWebhook(ctx, leader())
		someone, namespace := newPerson(), enrolled(ctx)
		Eventually(someone.creates(ctx, lost(namespace))).Should(warned(namespace))
		policy := func(namespace, value string) *meshv1alpha1.MeshPolicy {
			regex := gwv1.HeaderMatchRegularExpression
			return &meshv1alpha1.MeshPolicy{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "faults"},
				Spec: meshv1alpha1.MeshPolicySpec{TrafficPolicy: meshv1alpha1.TrafficPolicy{Fault: &meshv1alpha1.Fault{
					Headers: []gwv1.HTTPHeaderMatch{{Type: &regex, Name: "x-user", Value: value}},
					Abort:   &meshv1alpha1.FaultAbort{Status: 503},
				}}},
			}
		}
		err := someone.Create(ctx, policy(namespace, "(ann|bob"))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err.Error()).To(ContainSubstring(`admission webhook "policies.mesh.weft.dev" denied the request: MeshPolicy.mesh.weft.dev "faults" is invalid: ` +
			"spec.fault.headers[0].value: Invalid value: not an RE2 regular expression"))
		Expect(someone.creates(ctx, policy(namespace, "(ann|bob)"))()).To(BeEmpty())

		By("warning of one that has no effect")
		Expect(someone.creates(ctx, policy(newNamespace(ctx), "ann"))()).To(ConsistOf(ContainSubstring("NamespaceNotEnrolled")))

		By("warning of one that comes second")
		first := policy(namespace, "ann")
		first.Name = "first"
		Expect(user.Create(ctx, first)).To(Succeed())
		Eventually(someone.creates(ctx, policy(namespace, "ann"))).
			Should(ConsistOf(ContainSubstring("Conflicted: MeshPolicy " + namespace + "/first is for Namespace " + namespace + " too")))

		By("saying nothing about the cluster's own namespaces")
		Expect(someone.creates(ctx, policy("kube-system", "(ann|bob"))()).To(BeEmpty())

		By("refusing such defaults of the Mesh")
		before := getMesh(ctx)
		after := before.DeepCopy()
		after.Spec.Defaults = &policy(namespace, "(ann|bob").Spec.TrafficPolicy
		err = someone.Patch(ctx, after, client.MergeFrom(before))
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
		Expect(err.Error()).To(ContainSubstring("spec.defaults.fault.headers[0].value"))
		Expect(someone.told(func() error {
			after := before.DeepCopy()
			after.Spec.Certificates.Lifetime = new(gwv1.Duration("30m"))
			return someone.Patch(ctx, after, client.MergeFrom(before))
		})()).To(ConsistOf(ContainSubstring("spec.certificates.lifetime")))
	})

	It("is served by a replica that does not lead", func(ctx SpecContext) {
		standby := startOperator()
		DeferCleanup(standby.stop)
		installWebhook(ctx, standby)
		someone, namespace := newPerson(), enrolled(ctx)
		Eventually(someone.creates(ctx, lost(namespace))).Should(warned(namespace))
	})

	It("keeps nobody from anything while it is down", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		installWebhook(ctx, leader())
		someone := newPerson()
		Eventually(someone.creates(ctx, lost(namespace))).Should(warned(namespace))
		succeed(nil)
		Expect(someone.creates(ctx, lost(namespace))()).To(BeEmpty())
	})

	It("serves a certificate that others provide and leaves its roots to them", func(ctx SpecContext) {
		ca, err := identity.GenerateCA(time.Now())
		Expect(err).NotTo(HaveOccurred())
		authority, err := identity.ParseCA(ca)
		Expect(err).NotTo(HaveOccurred())
		directory := GinkgoT().TempDir()
		provide := func() {
			pair, err := authority.IssueServing([]string{"weft-webhook." + systemNamespace + ".svc"}, time.Hour, time.Now())
			Expect(err).NotTo(HaveOccurred())
			for name, content := range map[string]string{"tls.crt": pair.Chain, "tls.key": pair.Key} {
				Expect(os.WriteFile(filepath.Join(directory, name), []byte(content), 0o600)).To(Succeed())
			}
		}
		provide()
		succeed(startOperator(func(o *controllers.Options) {
			o.WebhookCertMode, o.WebhookCertPath = webhooks.CertAuto, directory
		}))
		DeferCleanup(func() { spent = true })
		configuration := installWebhook(ctx, leader())
		roots := []byte(authority.Bundle())
		for i := range configuration.Webhooks {
			configuration.Webhooks[i].ClientConfig.CABundle = roots
		}
		Expect(user.Update(ctx, configuration)).To(Succeed())
		someone, namespace := newPerson(), enrolled(ctx)
		Eventually(someone.creates(ctx, lost(namespace))).Should(warned(namespace))
		bystander(ctx)
		Expect(user.Get(ctx, client.ObjectKeyFromObject(configuration), configuration)).To(Succeed())
		for _, w := range configuration.Webhooks {
			Expect(w.ClientConfig.CABundle).To(Equal(roots))
		}
		Expect(leader().tried.all("validatingwebhookconfigurations")).To(BeEmpty())

		By("exchanging it")
		shown := func() string {
			connection, err := tls.Dial("tcp", leader().webhook, &tls.Config{InsecureSkipVerify: true})
			if err != nil {
				return err.Error()
			}
			defer connection.Close()
			return connection.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		before := shown()
		provide()
		Eventually(shown).ShouldNot(Equal(before))
		Expect(someone.creates(ctx, lost(namespace))()).To(warned(namespace))
	})

	It("keeps its roots in the configuration and nothing else", func(ctx SpecContext) {
		configuration := installWebhook(ctx, leader())
		ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: systemNamespace, Name: "weft-ca"}}
		Expect(user.Get(ctx, client.ObjectKeyFromObject(ca), ca)).To(Succeed())
		bundles := func() []string {
			Expect(user.Get(ctx, client.ObjectKeyFromObject(configuration), configuration)).To(Succeed())
			var found []string
			for _, w := range configuration.Webhooks {
				found = append(found, string(w.ClientConfig.CABundle))
			}
			return found
		}
		whole := HaveEach(string(ca.Data["ca.crt"]))
		Eventually(bundles).Should(whole)

		By("repairing them")
		for i := range configuration.Webhooks {
			configuration.Webhooks[i].ClientConfig.CABundle = nil
		}
		configuration.Webhooks[1].TimeoutSeconds = new(int32(1))
		Expect(user.Update(ctx, configuration)).To(Succeed())
		Eventually(bundles).Should(whole)
		Expect(*configuration.Webhooks[1].TimeoutSeconds).To(Equal(int32(1)))

		By("owning no other field")
		owned := slices.DeleteFunc(configuration.ManagedFields, func(e metav1.ManagedFieldsEntry) bool { return e.Manager != "weft-webhook" })
		Expect(owned).To(HaveLen(1))
		fields := owned[0].FieldsV1.GetRawString()
		// webhooks, and of each the name, clientConfig and caBundle.
		Expect(strings.Count(fields, `"f:`)).To(Equal(1+3*len(configuration.Webhooks)), fields)

		By("not bringing back a configuration that was deleted")
		const written = "validatingwebhookconfigurations"
		before := leader().tried.all(written)
		Expect(user.Delete(ctx, configuration)).To(Succeed())
		bystander(ctx)
		gone(ctx, configuration)(Default)
		Expect(leader().tried.all(written)).To(Equal(before))
	})
})
