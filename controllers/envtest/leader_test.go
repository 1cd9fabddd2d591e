package envtest_test

import (
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

var _ = Describe("The leader", func() {
	// announced returns the endpoints of the Service that clients connect to, as address and pod.
	announced := func(ctx SpecContext) func() []string {
		return func() []string {
			var list discoveryv1.EndpointSliceList
			Expect(user.List(ctx, &list, client.InNamespace(systemNamespace),
				client.MatchingLabels{discoveryv1.LabelServiceName: "weft-config"})).To(Succeed())
			var found []string
			for _, slice := range list.Items {
				Expect(*slice.Ports[0].Port).To(Equal(int32(15010)))
				for _, endpoint := range slice.Endpoints {
					found = append(found, endpoint.Addresses[0]+" "+endpoint.TargetRef.Name)
				}
			}
			return found
		}
	}

	It("announces its own addresses, and its successor does", func(ctx SpecContext) {
		Eventually(announced(ctx)).Should(ConsistOf("10.1.2.3 "+leader().name, "fd00::123 "+leader().name))
		standby := startOperator()
		bystander(ctx)
		Expect(announced(ctx)()).To(ConsistOf("10.1.2.3 "+leader().name, "fd00::123 "+leader().name))
		succeed(standby)
		Eventually(announced(ctx)).Should(ConsistOf("10.1.2.3 "+standby.name, "fd00::123 "+standby.name))
	})

	It("sends endpoints on without compiling", func(ctx SpecContext) {
		namespace := enrolled(ctx)
		service := newService(ctx, namespace, "web", nil)
		slice := newSlice(ctx, service, "10.2.0.8")
		proxy := newProxy(ctx, namespace, "one")
		endpoints := func() []string {
			found := []string{}
			if e := proxy.has(wire.KindEndpoints, key(service)).Endpoints; e != nil {
				for _, endpoint := range e.Endpoints {
					found = append(found, endpoint.Address.String())
				}
			}
			return found
		}
		Eventually(endpoints).Should(Equal([]string{"10.2.0.8:8080"}))
		passes, deltas := leader().compiled(), len(proxy.received())
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.2.0.9"}})
		Expect(user.Update(ctx, slice)).To(Succeed())
		Eventually(endpoints).Should(Equal([]string{"10.2.0.8:8080", "10.2.0.9:8080"}))
		Expect(leader().compiled()).To(Equal(passes))
		Expect(proxy.received()).To(HaveLen(deltas + 1))
		Expect(proxy.received()[deltas].Upserted).To(HaveLen(1))
		Expect(user.Delete(ctx, slice)).To(Succeed())
		Eventually(endpoints).Should(BeEmpty())
		Expect(leader().compiled()).To(Equal(passes))
	})

	It("ends in order to start anew when the Gateway API and its own resources are installed", func(ctx SpecContext) {
		succeed(nil)
		own := envtest.CRDInstallOptions{
			Scheme: scheme, ErrorIfPathMissing: true, Paths: []string{
				filepath.Join(root, "config", "crd", "bases", "mesh.weft.dev_meshpolicies.yaml"),
				filepath.Join(root, "config", "crd", "bases", "mesh.weft.dev_meshauthorizations.yaml"),
			},
		}
		Expect(envtest.UninstallCRDs(userConfig, gatewayAPI)).To(Succeed())
		Expect(envtest.UninstallCRDs(userConfig, own)).To(Succeed())
		for _, name := range []string{
			"httproutes.gateway.networking.k8s.io", "grpcroutes.gateway.networking.k8s.io", "meshpolicies.mesh.weft.dev", "meshauthorizations.mesh.weft.dev",
		} {
			crd := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name}}
			crd.APIVersion, crd.Kind = "apiextensions.k8s.io/v1", "CustomResourceDefinition"
			Eventually(gone(ctx, crd)).Should(Succeed())
		}
		waiting := startOperator()
		DeferCleanup(waiting.cancel)
		Eventually(meshCondition(ctx, meshv1alpha1.MeshGatewayAPI)).Should(Equal("False/Missing"))
		Expect(meshCondition(ctx, meshv1alpha1.MeshReady)()).To(Equal("False/Missing"))
		ready := meta.FindStatusCondition(getMesh(ctx).Status.Conditions, meshv1alpha1.MeshReady)
		Expect(ready.Message).To(ContainSubstring("of this release of Weft: missing meshpolicies, meshauthorizations"))

		By("installing all but GRPCRoute")
		missing := func() string {
			c := meta.FindStatusCondition(getMesh(ctx).Status.Conditions, meshv1alpha1.MeshGatewayAPI)
			_, names, _ := strings.Cut(c.Message, ": missing ")
			return names
		}
		Expect(missing()).To(Equal("httproutes, grpcroutes"))
		part := gatewayAPI
		part.Paths, part.CRDs = slices.DeleteFunc(slices.Clone(part.Paths), func(path string) bool { return strings.Contains(path, "grpcroutes") }), nil
		_, err := envtest.InstallCRDs(userConfig, part)
		Expect(err).NotTo(HaveOccurred())
		Eventually(missing).Should(Equal("grpcroutes"))

		By("installing the rest")
		_, err = envtest.InstallCRDs(userConfig, gatewayAPI)
		Expect(err).NotTo(HaveOccurred())
		_, err = envtest.InstallCRDs(userConfig, own)
		Expect(err).NotTo(HaveOccurred())
		Eventually(waiting.done).Should(BeClosed())
		Expect(waiting.err).To(MatchError(ContainSubstring("starting anew")))
		succeed(startOperator())
		Eventually(meshCondition(ctx, meshv1alpha1.MeshGatewayAPI)).Should(Equal("True/Installed"))
		bystander(ctx)
	})
})
