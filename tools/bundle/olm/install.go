package olm

import (
	"encoding/json"
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Serving is a certificate for webhooks, all in PEM.
type Serving struct{ Certificate, Key, Root []byte }

// WebhookService returns the name of the Service through which OLM has API servers reach a Deployment.
func WebhookService(deployment string) string { return deployment + "-service" }

// certMount is where OLM mounts the serving certificate.
const certMount = "/tmp/k8s-webhook-server/serving-certs"

// Install returns the objects that OLM makes of a bundle in a namespace, for all namespaces, in the order in which
// they can be applied: what the bundle holds, the accounts, rights and Deployments of the CSV, and for webhooks a
// Service, a Secret with the serving certificate, its mount, and configurations that trust its root
// (operator-lifecycle-manager pkg/controller/install).
func Install(b *Bundle, namespace string, serving Serving) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	var failed error
	add := func(gv schema.GroupVersion, kind string, object any) {
		u, err := toUnstructured(gv.WithKind(kind), object)
		if err != nil && failed == nil {
			failed = err
		}
		out = append(out, u)
	}
	for _, crd := range b.CRDs {
		add(schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}, "CustomResourceDefinition", crd)
	}
	for _, u := range b.Others {
		u = u.DeepCopy()
		if namespaced[u.GetKind()] {
			u.SetNamespace(namespace)
		}
		out = append(out, u)
	}
	spec := b.CSV.Spec.Install.Spec
	name := b.CSV.Metadata.Name
	accounts := map[string]bool{}
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	for _, p := range slices.Concat(spec.Permissions, spec.ClusterPermissions) {
		if !accounts[p.ServiceAccountName] {
			accounts[p.ServiceAccountName] = true
			add(corev1.SchemeGroupVersion, "ServiceAccount", &corev1.ServiceAccount{ObjectMeta: meta(p.ServiceAccountName)})
		}
	}
	subjects := func(account string) []rbacv1.Subject {
		return []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}}
	}
	for _, p := range spec.Permissions {
		role := name + "-" + p.ServiceAccountName
		add(rbacv1.SchemeGroupVersion, "Role", &rbacv1.Role{ObjectMeta: meta(role), Rules: p.Rules})
		add(rbacv1.SchemeGroupVersion, "RoleBinding", &rbacv1.RoleBinding{
			ObjectMeta: meta(role), Subjects: subjects(p.ServiceAccountName),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
		})
	}
	for _, p := range spec.ClusterPermissions {
		role := name + "-" + p.ServiceAccountName
		add(rbacv1.SchemeGroupVersion, "ClusterRole", &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: p.Rules})
		add(rbacv1.SchemeGroupVersion, "ClusterRoleBinding", &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: role}, Subjects: subjects(p.ServiceAccountName),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})
	}
	for _, d := range spec.Deployments {
		deployment := &appsv1.Deployment{ObjectMeta: meta(d.Name), Spec: *d.Spec.DeepCopy()}
		deployment.Labels = d.Label
		asked := slices.DeleteFunc(slices.Clone(b.CSV.Spec.WebhookDefinitions), func(w WebhookDefinition) bool { return w.DeploymentName != d.Name })
		if len(asked) > 0 {
			secret := WebhookService(d.Name) + "-cert"
			mountCertificate(&deployment.Spec.Template.Spec, secret)
			add(corev1.SchemeGroupVersion, "Secret", &corev1.Secret{
				ObjectMeta: meta(secret), Type: corev1.SecretTypeTLS,
				Data: map[string][]byte{corev1.TLSCertKey: serving.Certificate, corev1.TLSPrivateKeyKey: serving.Key, "olmCAKey": serving.Root},
			})
			add(corev1.SchemeGroupVersion, "Service", &corev1.Service{ObjectMeta: meta(WebhookService(d.Name)), Spec: corev1.ServiceSpec{
				Selector: d.Spec.Selector.MatchLabels,
				Ports:    []corev1.ServicePort{{Name: "443", Port: asked[0].ContainerPort, TargetPort: intstr.FromInt32(asked[0].TargetPort)}},
			}})
		}
		add(appsv1.SchemeGroupVersion, "Deployment", deployment)
		for _, w := range asked {
			add(admissionregistrationv1.SchemeGroupVersion, "ValidatingWebhookConfiguration", webhookOf(&w, namespace, serving.Root))
		}
	}
	return out, failed
}

// namespaced are the supported kinds that live in namespaces.
var namespaced = map[string]bool{
	"Secret": true, "ConfigMap": true, "Service": true, "ServiceAccount": true, "Role": true, "RoleBinding": true, "PodDisruptionBudget": true,
}

func mountCertificate(pod *corev1.PodSpec, secret string) {
	const volume = "webhook-cert"
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: secret,
		Items:      []corev1.KeyToPath{{Key: corev1.TLSCertKey, Path: corev1.TLSCertKey}, {Key: corev1.TLSPrivateKeyKey, Path: corev1.TLSPrivateKeyKey}},
	}}})
	for i := range pod.Containers {
		pod.Containers[i].VolumeMounts = append(pod.Containers[i].VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: certMount})
	}
}

// webhookOf has no selector of namespaces: for all namespaces OLM sets none.
func webhookOf(w *WebhookDefinition, namespace string, root []byte) *admissionregistrationv1.ValidatingWebhookConfiguration {
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: w.GenerateName + "-olm"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: w.GenerateName, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: root, Service: &admissionregistrationv1.ServiceReference{
				Namespace: namespace, Name: WebhookService(w.DeploymentName), Path: &w.WebhookPath, Port: &w.ContainerPort,
			}},
		}},
	}
}

// toUnstructured encodes an object as it is applied: without a status.
func toUnstructured(gvk schema.GroupVersionKind, object any) (*unstructured.Unstructured, error) {
	data, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", gvk.Kind, err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(data, &u.Object); err != nil {
		return nil, fmt.Errorf("decode %s: %w", gvk.Kind, err)
	}
	u.SetGroupVersionKind(gvk)
	delete(u.Object, "status")
	return u, nil
}
