package olm

import (
	"slices"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestInstall holds the objects to what the operator needs of OLM.
func TestInstall(t *testing.T) {
	objects, err := Install(committed(t), "elsewhere", Serving{[]byte("certificate"), []byte("key"), []byte("root")})
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, u := range objects {
		kinds[u.GetKind()]++
		if u.GetNamespace() != "" && u.GetNamespace() != "elsewhere" {
			t.Errorf("%s %s is in namespace %s", u.GetKind(), u.GetName(), u.GetNamespace())
		}
	}
	if kinds["CustomResourceDefinition"] != 3 || kinds["DaemonSet"] != 0 || kinds["NetworkPolicy"] != 0 || kinds["Deployment"] != 1 {
		t.Errorf("kinds %v", kinds)
	}
	deployment := only[appsv1.Deployment](t, objects, "Deployment", "weft-operator")
	container := deployment.Spec.Template.Spec.Containers[0]
	if !slices.Contains(container.Args, "--webhook-cert-mode=provided") {
		t.Errorf("the operator's arguments are %v", container.Args)
	}
	if !slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == "WEFT_NODE_IMAGE" && e.Value != "" }) {
		t.Errorf("the operator does not know the image of the node agents: %v", container.Env)
	}
	if !slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == certMount }) {
		t.Errorf("the certificate is not mounted: %v", container.VolumeMounts)
	}
	webhook := only[admissionregistrationv1.ValidatingWebhookConfiguration](t, objects, "ValidatingWebhookConfiguration", "policies.mesh.weft.dev-olm").Webhooks[0]
	service := only[corev1.Service](t, objects, "Service", webhook.ClientConfig.Service.Name)
	if string(webhook.ClientConfig.CABundle) != "root" || service.Spec.Ports[0].Port != *webhook.ClientConfig.Service.Port || service.Spec.Ports[0].TargetPort.IntVal != WebhookPort {
		t.Errorf("the webhook is asked at %+v, the Service has %+v", webhook.ClientConfig, service.Spec.Ports)
	}
	account := deployment.Spec.Template.Spec.ServiceAccountName
	for _, right := range []string{"daemonsets weft-node patch", "deployments weft-operator get", "meshes any watch"} {
		if rights := granted(t, objects)[account]; !slices.Contains(rights, right) {
			t.Errorf("%s lacks %q: %v", account, right, rights)
		}
	}
}

// only returns the object of a kind and name in its Go type.
func only[T any](t *testing.T, objects []*unstructured.Unstructured, kind, name string) *T {
	t.Helper()
	for _, u := range objects {
		if u.GetKind() == kind && u.GetName() == name {
			typed, err := convert[T](u)
			if err != nil {
				t.Fatal(err)
			}
			return typed
		}
	}
	t.Fatalf("there is no %s %s", kind, name)
	return nil
}

// granted lists what ServiceAccounts may do, as "resource name verb".
func granted(t *testing.T, objects []*unstructured.Unstructured) map[string][]string {
	t.Helper()
	rules := map[string][]string{}
	for _, u := range objects {
		if u.GetKind() != "Role" && u.GetKind() != "ClusterRole" {
			continue
		}
		role, err := convert[rbacv1.Role](u)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, name := range append(rule.ResourceNames, "any") {
					for _, verb := range rule.Verbs {
						rules[u.GetKind()+u.GetName()] = append(rules[u.GetKind()+u.GetName()], resource+" "+name+" "+verb)
					}
				}
			}
		}
	}
	out := map[string][]string{}
	for _, u := range objects {
		if u.GetKind() != "RoleBinding" && u.GetKind() != "ClusterRoleBinding" {
			continue
		}
		b, err := convert[rbacv1.RoleBinding](u)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range b.Subjects {
			out[s.Name] = append(out[s.Name], rules[b.RoleRef.Kind+b.RoleRef.Name]...)
		}
	}
	return out
}
