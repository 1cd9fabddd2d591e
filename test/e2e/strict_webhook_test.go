//go:build e2e

package e2e

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/e2e/testbed"
)

// reviewed is the label of what the webhook of the matrix is asked about.
const reviewed = "weft.dev/e2e-reviewed"

// reviews makes the backend a webhook, which the API server asks about ConfigMaps of the matrix.
func (m *matrix) reviews(pod *corev1.Pod) {
	m.t.Helper()
	certificate, key := signed(m.t, &x509.Certificate{
		DNSNames: []string{"webhook." + m.home + ".svc"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IsCA: true,
	})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: m.home, Name: "webhook"}, Type: corev1.SecretTypeTLS, Data: map[string][]byte{
		corev1.TLSCertKey: []byte(certificate), corev1.TLSPrivateKeyKey: []byte(key),
	}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: m.home, Name: "webhook"}, Spec: corev1.ServiceSpec{
		Selector: onlyV1, Ports: []corev1.ServicePort{{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443)}},
	}}
	fail, none, patience := admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone, int32(30)
	configuration := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: m.home},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name: "matrix.e2e.weft.dev", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none, TimeoutSeconds: &patience,
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				Service:  &admissionregistrationv1.ServiceReference{Namespace: m.home, Name: "webhook"},
				CABundle: []byte(certificate),
			},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
			}},
			ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{reviewed: m.home}},
		}},
	}
	bed.Create(m.t, secret, service, configuration)
	pod.Spec.Containers[0].Args = append(pod.Spec.Containers[0].Args, "--webhook=/webhook")
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "webhook", MountPath: "/webhook", ReadOnly: true}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "webhook", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "webhook"}}}}
}

// review has the API server ask the webhook, and returns how it answers.
func (m *matrix) review(ctx context.Context) error {
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: m.beside, Name: "reviewed", Labels: map[string]string{reviewed: m.home}}}
	err := bed.Client.Create(ctx, object, client.DryRunAll)
	if err == nil {
		err = errors.New("the webhook was not asked")
	}
	return err
}

// reviewer waits until the webhook is asked and returns the address that this came from.
func (m *matrix) reviewer() string {
	m.t.Helper()
	var address string
	testbed.Eventually(m.t, func(ctx context.Context) error {
		err := m.review(ctx)
		_, rest, found := strings.Cut(err.Error(), "reviewed by "+m.server.Name+" for ")
		if !found {
			return err
		}
		address = strings.TrimSuffix(rest, ".")
		_, err = netip.ParseAddr(address)
		return err
	})
	return address
}

// byWebhook has the API server ask the webhook, each time on a new connection.
func (m *matrix) byWebhook() func() verdict {
	return func() verdict {
		m.t.Helper()
		switch err := m.review(m.t.Context()); {
		case strings.Contains(err.Error(), "reviewed by "+m.server.Name):
			return served
		case strings.Contains(err.Error(), "connection refused"):
			return reset
		default:
			m.t.Fatalf("no verdict: %v", err)
			return 0
		}
	}
}

// plainCaller is a caller as the operator counts it: by its ServiceAccount, if it is a pod, and what it calls.
type plainCaller struct{ service, namespace, account string }

// plainRows are the callers past the mesh by the rows of the matrix.
func (m *matrix) plainRows() map[string]plainCaller {
	return map[string]plainCaller{
		"a pod outside the mesh":                          {"web", m.beside, "stranger"},
		"a pod of the mesh by the address of the pod":     {"web", m.abroad, "meant"},
		"whoever has the address of a scraper that ended": {"web", m.beside, "stranger"},
		"whoever has the address of a completed Job":      {"web", m.beside, "stranger"},
		"a scraper, Prometheus say":                       {"web", m.beside, "scraper"},
		"the API server on its way to a webhook":          {"webhook", "", ""},
	}
}

// plainCount is what the operator has counted of a caller.
type plainCount struct{ letIn, refused int }

// plain returns what the operator has counted of each.
func (m *matrix) plain() map[plainCaller]plainCount {
	m.t.Helper()
	var out map[plainCaller]plainCount
	testbed.Eventually(m.t, func(ctx context.Context) (err error) {
		out, err = m.tryPlain(ctx)
		return err
	})
	return out
}

func (m *matrix) tryPlain(ctx context.Context) (map[plainCaller]plainCount, error) {
	scrape, err := m.scraper.Scrape(ctx)
	if err != nil {
		return nil, err
	}
	out := map[plainCaller]plainCount{}
	for _, caller := range m.plainRows() {
		count := func(verdict string) int {
			return scrape.Sum("weft_plain_connections_total", map[string]string{
				"weft_destination_namespace": m.home, "weft_destination_service": caller.service, "weft_source_namespace": caller.namespace,
				"weft_source_service_account": caller.account, "verdict": verdict,
			})
		}
		out[caller] = plainCount{letIn: count("permitted") + count("allowed"), refused: count("refused")}
	}
	return out, nil
}

// told waits until the operator has counted for each caller what has become of its calls in a mode. Those whom a
// strict port lets in are not counted.
func (m *matrix) told(in mode, before map[plainCaller]plainCount) {
	m.t.Helper()
	want := map[plainCaller]plainCount{}
	for row, caller := range m.plainRows() {
		n := want[caller]
		isPermissive := in >= audit || caller.service == "webhook" && in >= allow
		switch verdict := verdict(verdicts[row][in]); {
		case verdict == served && isPermissive:
			n.letIn += tries
		case verdict == reset:
			n.refused += tries
		}
		want[caller] = n
	}
	testbed.Eventually(m.t, func(ctx context.Context) error {
		now, err := m.tryPlain(ctx)
		if err != nil {
			return err
		}
		for caller, n := range want {
			letIn, refused := now[caller].letIn-before[caller].letIn, now[caller].refused-before[caller].refused
			if letIn < n.letIn || refused < n.refused {
				return fmt.Errorf("%s: of %+v the operator has counted %d let in and %d refused, want %d and %d", modeNames[in], caller, letIn, refused, n.letIn, n.refused)
			}
		}
		return nil
	})
}

// announced waits for an Event about callers past the mesh: whoever owns the namespace may see nothing else of them.
func (m *matrix) announced() {
	m.t.Helper()
	testbed.Eventually(m.t, func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := bed.Client.List(ctx, &list, client.InNamespace(m.home)); err != nil {
			return err
		}
		for i := range list.Items {
			if e := &list.Items[i]; e.Reason == "PlainCallers" && e.Regarding.Kind == "Service" && e.Regarding.UID != "" {
				return nil
			}
		}
		return fmt.Errorf("no Event tells of callers past the mesh, of %d", len(list.Items))
	})
}
