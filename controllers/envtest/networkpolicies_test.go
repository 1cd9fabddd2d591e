package envtest_test

import (
	"context"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
)

// blockedEvents returns the notes of the Events about a NetworkPolicy.
func blockedEvents(ctx context.Context, policy *networkingv1.NetworkPolicy) func() []string {
	return func() []string {
		var list eventsv1.EventList
		if err := user.List(ctx, &list, client.InNamespace(policy.Namespace)); err != nil {
			return []string{err.Error()}
		}
		var notes []string
		for i := range list.Items {
			if e := &list.Items[i]; e.Regarding.Kind == "NetworkPolicy" && e.Regarding.UID == policy.UID {
				notes = append(notes, e.Reason+": "+e.Note)
			}
		}
		return notes
	}
}

var _ = Describe("NetworkPolicies", func() {
	It("that would block meshed traffic are named when a namespace is enrolled", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		newService(ctx, namespace, "web", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
		pod := newPod(namespace, "web-1", "default", "")
		pod.Labels = map[string]string{"app": "web"}
		createPod(ctx, pod)
		deny := &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "deny"},
			Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}},
		}
		Expect(user.Create(ctx, deny)).To(Succeed())
		label(ctx, namespace, "true")

		Eventually(blockedEvents(ctx, deny)).Should(ConsistOf(
			HavePrefix("BlockedByNetworkPolicy: blocks egress of pod web-1, between pods and their proxies: add to spec.egress {"),
			HavePrefix("BlockedByNetworkPolicy: blocks ingress of pod web-1, between proxies and the pods that are called: add to spec.ingress {"),
		))
		message := meshSays(ctx, meshv1alpha1.MeshTrafficAdmitted)
		Eventually(message).Should(And(HavePrefix("False/BlockedByNetworkPolicy: 2 found"), ContainSubstring("NetworkPolicy "+namespace+"/deny blocks egress")))

		By("adding what is said")
		proxies := []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{meshv1alpha1.ComponentLabel: "proxy"}}}}
		before := deny.DeepCopy()
		deny.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: proxies}}
		deny.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: proxies}}
		Expect(user.Patch(ctx, deny, client.MergeFrom(before))).To(Succeed())
		Eventually(message).Should(HavePrefix("True/Admitted"))

		By("letting another operator lead, which has nothing new to say")
		succeed(startOperator())
		bystander(ctx)
		Expect(blockedEvents(ctx, deny)()).To(HaveLen(2))
	})

	It("are kept for proxies, unless the Mesh says None", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: meshv1alpha1.ProxyName}}
		present(ctx, policy)
		Expect(policy.OwnerReferences).To(HaveLen(1))
		Expect(user.Delete(ctx, policy)).To(Succeed())
		present(ctx, policy.DeepCopy())

		theirs := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "proxies"}, Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{meshv1alpha1.ComponentLabel: "proxy"}},
		}}
		Expect(user.Create(ctx, theirs)).To(Succeed())
		configure(ctx, func(s *meshv1alpha1.MeshSpec) { s.Proxy.NetworkPolicy = meshv1alpha1.NetworkPolicyNone })
		Eventually(gone(ctx, policy)).Should(Succeed())
		Eventually(func() string { return strings.Join(blockedEvents(ctx, theirs)(), "\n") }).Should(ContainSubstring("between node agents and proxies"))
	})
})
