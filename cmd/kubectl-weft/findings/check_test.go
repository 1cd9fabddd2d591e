package findings

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

var today = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// root returns a certificate in PEM that ends at a time.
func root(t *testing.T, end time.Time) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: today.AddDate(-1, 0, 0), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// good are the facts of a cluster in which everything is well.
func good(t *testing.T) Facts {
	t.Helper()
	image := func(name string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "r.example:5000/" + name + ":v1"}}}}
	}
	status := meshv1alpha1.MeshStatus{Captured: "1/1", Nodes: []meshv1alpha1.NodeStatus{{Name: "n1", UncapturedPods: new(int32)}}}
	for _, c := range []string{"Ready", "Captured", "ProxiesReady", "DefaultsAccepted", "CertificatesValid"} {
		status.Conditions = append(status.Conditions, metav1.Condition{Type: c, Status: metav1.ConditionTrue})
	}
	status.CertificateAuthority.Roots = []meshv1alpha1.AuthorityCertificate{{NotAfter: &metav1.Time{Time: today.AddDate(1, 0, 0)}}}
	status.CertificateAuthority.Intermediates = []meshv1alpha1.AuthorityCertificate{{NotAfter: &metav1.Time{Time: today.AddDate(0, 0, 30)}}}
	crds := map[string]string{}
	for name, own := range NeededCRDs {
		if crds[name] = ""; !own {
			crds[name] = "v1.7.0"
		}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.NodeInfo = corev1.NodeSystemInfo{OperatingSystem: "linux", ContainerRuntimeVersion: "containerd://2.4.2"}
	return Facts{
		Now: today, Build: "v1", Kubernetes: "v1.36.3", CRDs: crds, Nodes: []*corev1.Node{node},
		Operator: &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: image("weft-operator")}, Status: appsv1.DeploymentStatus{AvailableReplicas: 1}},
		Agents:   &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: image("weft-node")}, Status: appsv1.DaemonSetStatus{NumberReady: 1, DesiredNumberScheduled: 1}},
		Webhook: &admissionv1.ValidatingWebhookConfiguration{Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "w", ClientConfig: admissionv1.WebhookClientConfig{CABundle: root(t, today.AddDate(1, 0, 0))},
		}}},
		Mesh: &meshv1alpha1.Mesh{Status: status},
		Proxies: []appsv1.Deployment{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop"},
			Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2)), Template: image("weft-proxy")}, Status: appsv1.DeploymentStatus{AvailableReplicas: 2},
		}},
	}
}

func TestChecksPass(t *testing.T) {
	want := []string{
		"Kubernetes v1.36.3", "Gateway API v1.7.0", "Weft's kinds are installed", "operator ready, 1 of 1", "node agents ready, 1 of 1",
		"admission webhook configured", "Mesh ready", "capture proven on 1/1 nodes", "every enrolled namespace has a ready proxy",
		"defaults of the Mesh in force", "certificates valid, root and intermediate for 30 days", "every pod of enrolled namespaces captured",
		"version v1 everywhere",
	}
	var got []string
	for _, c := range CheckAfter(good(t)) {
		if c.State != Passed || c.Link != "" {
			t.Errorf("%s: %s", c.State, c.Says)
		}
		got = append(got, c.Says)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("checks (-want +got):\n%s", diff)
	}
	for _, c := range CheckBefore(good(t)) {
		if c.State != Passed {
			t.Errorf("before: %s: %s", c.State, c.Says)
		}
	}
}

func TestChecksFail(t *testing.T) {
	condition := func(name string) func(*Facts) {
		return func(f *Facts) {
			for i := range f.Mesh.Status.Conditions {
				if c := &f.Mesh.Status.Conditions[i]; c.Type == name {
					c.Status, c.Reason, c.Message = metav1.ConditionFalse, "Because", "of this"
				}
			}
		}
	}
	tests := map[string]struct {
		before bool
		spoil  func(*Facts)
		// want is the state, the code and the beginning of what is said.
		want string
	}{
		"an old Kubernetes":        {false, func(f *Facts) { f.Kubernetes = "v1.29.4" }, "failed WEFT001 Kubernetes v1.29.4 is older than 1.30.0"},
		"no Gateway API":           {true, func(f *Facts) { delete(f.CRDs, "grpcroutes.gateway.networking.k8s.io") }, "failed WEFT002 missing grpcroutes.gateway.networking.k8s.io"},
		"an old Gateway API":       {true, func(f *Facts) { f.CRDs["httproutes.gateway.networking.k8s.io"] = "v1.2.1" }, "warned WEFT003 Gateway API v1.2.1 is older than v1.7.0"},
		"an old containerd":        {true, func(f *Facts) { f.Nodes[0].Status.NodeInfo.ContainerRuntimeVersion = "containerd://1.7.20" }, "warned WEFT004 no NRI on n1 (containerd://1.7.20)"},
		"another runtime":          {true, func(f *Facts) { f.Nodes[0].Status.NodeInfo.ContainerRuntimeVersion = "docker://27.0" }, "warned WEFT004 no NRI on n1 (docker://27.0)"},
		"an old CRI-O":             {true, func(f *Facts) { f.Nodes[0].Status.NodeInfo.ContainerRuntimeVersion = "cri-o://1.25.1" }, "warned WEFT004"},
		"Cilium at sockets":        {true, func(f *Facts) { f.Network = mesh.Network{Plugin: "Cilium", SocketLB: true} }, "failed WEFT005"},
		"no rights":                {true, func(f *Facts) { f.Denied = []string{"create namespaces"} }, "failed WEFT006 you may not create namespaces"},
		"Windows alone":            {true, func(f *Facts) { f.Nodes[0].Status.NodeInfo.OperatingSystem = "windows" }, "failed WEFT007 no node runs Linux"},
		"no Weft":                  {false, func(f *Facts) { delete(f.CRDs, "meshes.mesh.weft.dev") }, "failed WEFT010 missing meshes.mesh.weft.dev"},
		"no operator":              {false, func(f *Facts) { f.Operator = nil }, "failed WEFT011 Deployment weft-operator does not exist"},
		"an operator that is down": {false, func(f *Facts) { f.Operator.Status.AvailableReplicas = 0 }, "failed WEFT011 none of 1 pod"},
		"no agents":                {false, func(f *Facts) { f.Agents = nil }, "failed WEFT012 DaemonSet weft-node does not exist"},
		"an agent that is down":    {false, func(f *Facts) { f.Agents.Status.NumberReady = 0 }, "failed WEFT012 0 of 1 node agents are ready"},
		"no webhook":               {false, func(f *Facts) { f.Webhook = nil }, "warned WEFT013 ValidatingWebhookConfiguration weft-webhook does not exist"},
		"no roots":                 {false, func(f *Facts) { f.Webhook.Webhooks[0].ClientConfig.CABundle = nil }, "warned WEFT013 w: caBundle is empty"},
		"an expired root":          {false, func(f *Facts) { f.Now = today.AddDate(2, 0, 0) }, "warned WEFT013 w: no root in caBundle is valid now"},
		"no Mesh":                  {false, func(f *Facts) { f.Mesh = nil }, "failed WEFT014 there is no Mesh named default"},
		"a Mesh without status":    {false, func(f *Facts) { f.Mesh.Status.Conditions = f.Mesh.Status.Conditions[1:] }, "failed WEFT014 the Mesh has no condition Ready"},
		"not captured":             {false, condition("Captured"), "failed WEFT015 Because: of this"},
		"no proxies":               {false, condition("ProxiesReady"), "failed WEFT016 Because: of this"},
		"certificates":             {false, condition("CertificatesValid"), "warned WEFT017 Because: of this"},
		"defaults":                 {false, condition("DefaultsAccepted"), "failed WEFT018 Because: of this"},
		"a collector": {false, func(f *Facts) {
			meta.SetStatusCondition(&f.Mesh.Status.Conditions, metav1.Condition{Type: "TelemetryAccepted", Status: "False", Reason: "Because", Message: "of this"})
		}, "failed WEFT018 Because: of this"},
		"a proxy down": {false, func(f *Facts) { f.Proxies[0].Status.AvailableReplicas = 1 }, "warned WEFT016 1 of 2 proxies of namespace shop are available"},
		"an older proxy": {false, func(f *Facts) { f.Proxies[0].Spec.Template.Spec.Containers[0].Image = "p:v0@sha256:1" },
			"warned WEFT019 v0: proxies of shop; v1: operator, node agents, this command"},
		"pods outside": {false, func(f *Facts) { *f.Mesh.Status.Nodes[0].UncapturedPods = 3 }, "warned WEFT020 not captured: 3 pods on n1"},
	}
	failing := map[Code]bool{}
	for name, tc := range tests {
		failing[Code(strings.Fields(tc.want)[1])] = true
		t.Run(name, func(t *testing.T) {
			facts := good(t)
			tc.spoil(&facts)
			all := CheckAfter(facts)
			if tc.before {
				all = CheckBefore(facts)
			}
			all = slices.DeleteFunc(all, func(c Checked) bool { return c.State == Passed })
			if len(all) != 1 {
				t.Fatalf("what did not pass = %+v, want one", all)
			}
			if got := string(all[0].State) + " " + string(all[0].Code) + " " + all[0].Says; !strings.HasPrefix(got, tc.want) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
			if all[0].Link != all[0].Code.Link() {
				t.Errorf("link = %q", all[0].Link)
			}
		})
	}
	for _, e := range Codes() {
		if strings.HasPrefix(string(e.Code), "WEFT0") && !failing[e.Code] {
			t.Errorf("no test fails with %s, %s", e.Code, e.Title)
		}
	}
}
