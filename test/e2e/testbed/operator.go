package testbed

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/test/e2e/traffic"
)

// portOperatorMetrics is where the operator serves metrics, over TLS and to those alone that may read them.
const portOperatorMetrics = 8443

// Scraper reads the metrics of the operator that leads as Prometheus does: from a pod, with a ServiceAccount's token.
type Scraper struct {
	bed    *Bed
	pod    *Pod
	header map[string]string
}

// Scraper gives a pod's ServiceAccount the right to read the operator's metrics.
func (b *Bed) Scraper(t testing.TB, pod *Pod, account string) *Scraper {
	t.Helper()
	b.Create(t, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace + "-" + account},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "weft-metrics-reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: pod.Namespace, Name: account}},
	})
	request := &authenticationv1.TokenRequest{}
	at := &corev1.ServiceAccount{ObjectMeta: objectMeta(pod.Namespace, account)}
	if err := b.Client.SubResource("token").Create(t.Context(), at, request); err != nil {
		t.Fatalf("token of %s: %v", account, err)
	}
	return &Scraper{bed: b, pod: pod, header: map[string]string{"Authorization": "Bearer " + request.Status.Token}}
}

// Scrape reads all of them.
func (s *Scraper) Scrape(ctx context.Context) (Metrics, error) {
	leader, err := s.leader(ctx)
	if err != nil {
		return nil, err
	}
	url := fmt.Sprintf("https://%s/metrics", netip.AddrPortFrom(leader, portOperatorMetrics))
	a, err := s.pod.Try(ctx, traffic.Request{URL: url, Header: s.header})
	switch {
	case err != nil:
		return nil, err
	case a.Error != "" || a.Status != 200:
		return nil, fmt.Errorf("metrics of the operator: status %d, %s %s", a.Status, a.Error, a.Body[:min(len(a.Body), 200)])
	}
	return parse(strings.NewReader(a.Body))
}

// leader is the address that the leader has announced.
func (s *Scraper) leader(ctx context.Context) (netip.Addr, error) {
	var list discoveryv1.EndpointSliceList
	if err := s.bed.Client.List(ctx, &list, client.InNamespace("weft-system"), client.MatchingLabels{discoveryv1.LabelServiceName: "weft-config"}); err != nil {
		return netip.Addr{}, fmt.Errorf("leader: %w", err)
	}
	for i := range list.Items {
		for _, e := range list.Items[i].Endpoints {
			if address, err := netip.ParseAddr(e.Addresses[0]); err == nil && address.Is4() {
				return address, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("no operator leads, by %d slices", len(list.Items))
}
