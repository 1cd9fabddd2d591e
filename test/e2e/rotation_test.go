//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

func theMesh() *meshv1alpha1.Mesh {
	return &meshv1alpha1.Mesh{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.MeshName}}
}

// authority returns what the Mesh says of roots.
func authority(t *testing.T) meshv1alpha1.CertificateAuthorityStatus {
	t.Helper()
	mesh := theMesh()
	testbed.Await(t, bed, mesh, func(m *meshv1alpha1.Mesh) string {
		if len(m.Status.CertificateAuthority.Roots) == 0 {
			return "no root is shown"
		}
		return ""
	})
	return mesh.Status.CertificateAuthority
}

// rotate asks for an exchange of the root by kubectl weft, with the rights of whoever configures the mesh, and returns a
// function that waits for its end and checks that there is another root then and no other.
func rotate(t *testing.T) (finish func()) {
	t.Helper()
	before, begun := authority(t), time.Now()
	editor := bed.Person(t, bed.Namespace(t, false), "editor", "weft-mesh-editor")
	says(t, editor, 0, "certs rotate-root", "The exchange has been asked for.")
	mesh := theMesh()
	if err := bed.Client.Get(t.Context(), client.ObjectKeyFromObject(mesh), mesh); err != nil {
		t.Fatal(err)
	}
	value := mesh.Annotations[meshv1alpha1.RotateRootAnnotation]
	return func() {
		t.Helper()
		testbed.Await(t, bed, theMesh(), func(m *meshv1alpha1.Mesh) string {
			ca := m.Status.CertificateAuthority
			if ca.RotateRoot != value || ca.Rotation != "Steady" {
				return fmt.Sprintf("the exchange is not over: %+v, %+v", ca, meta.FindStatusCondition(m.Status.Conditions, meshv1alpha1.MeshRootRotating))
			}
			return ""
		})
		t.Logf("the exchange took %s", time.Since(begun).Round(time.Second))
		after := authority(t)
		if len(after.Roots) != 1 || after.Roots[0].Fingerprint == before.Roots[0].Fingerprint {
			t.Errorf("roots before %+v and after %+v, want another one alone", before.Roots, after.Roots)
		}
	}
}

// TestRootRotation exchanges the root of all trust while requests go between namespaces, and kills the operator
// without notice in each phase. No request may fail, and in the end there is another root and nothing else is
// trusted. It is not parallel: an exchange waits for proxies and agents that other tests take away.
func TestRootRotation(t *testing.T) {
	s := newSite(t)
	loads := s.load(t)
	finish := rotate(t)
	killed := 0
	for last := ""; last != "DroppingTrust"; {
		var phase string
		testbed.Eventually(t, func(ctx context.Context) error {
			var secret corev1.Secret
			if err := bed.Client.Get(ctx, client.ObjectKey{Namespace: testbed.SystemNamespace, Name: "weft-ca"}, &secret); err != nil {
				return err
			}
			if phase = phaseOf(&secret); phase == last || phase == "Steady" && last == "" {
				return fmt.Errorf("the exchange goes on in phase %q", phase)
			}
			return nil
		})
		if phase == "Steady" {
			break // it was quicker
		}
		killOperator(t)
		t.Logf("killed the operator in phase %s", phase)
		killed++
		last = phase
	}
	if killed == 0 {
		t.Error("the operator was killed in no phase")
	}
	finish()
	more(loads)
	unharmed(t, loads)
}

// phaseOf tells how far an exchange of the root has come, as the operator's Secret says: its status is later.
func phaseOf(secret *corev1.Secret) string {
	previous := secret.Data["previous-ca.crt"]
	switch {
	case len(secret.Data["next-ca.crt"]) > 0:
		return "DistributingTrust"
	case len(previous) == 0:
		return "Steady"
	case bytes.Contains(secret.Data["ca.crt"], previous):
		return "ReissuingCertificates"
	default:
		return "DroppingTrust"
	}
}

// killOperator kills the operator's process without notice and takes its pod away, so that the next one need
// not wait out the pause that the kubelet makes after several ends of one container.
func killOperator(t *testing.T) {
	t.Helper()
	killed := operator(t)
	pid, err := processOf(killed)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := client.IgnoreNotFound(bed.Client.Delete(t.Context(), killed, client.GracePeriodSeconds(0))); err != nil {
		t.Fatal(err)
	}
}

// TestLeafRotation lets certificates live for 20 seconds, for far more identities than there are pods that run:
// certificates are made when a pod is created, and these are never scheduled. Each is renewed every ten seconds or
// so, a thousand times in all, and the root is exchanged meanwhile. No request may fail.
func TestLeafRotation(t *testing.T) {
	const identities, renewals, lifetime = 140, 1000, "20s"
	s := newSite(t)
	var before gwv1.Duration
	testbed.Update(t, bed, theMesh(), func(m *meshv1alpha1.Mesh) {
		before = *m.Spec.Certificates.Lifetime
		m.Spec.Certificates.Lifetime = new(gwv1.Duration(lifetime))
	})
	// The context of the test has ended when its cleanups run.
	defer testbed.Update(t, bed, theMesh(), func(m *meshv1alpha1.Mesh) { m.Spec.Certificates.Lifetime = &before })
	for n := range identities {
		name := fmt.Sprintf("many-%d", n)
		pod := bed.Object(s.abroad, testbed.App{Name: name, ServiceAccount: name})
		pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "weft.dev/never"}}
		// They go with their namespace.
		for _, object := range []client.Object{&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.abroad, Name: name}}, pod} {
			if err := bed.Client.Create(t.Context(), object); err != nil {
				t.Fatal(err)
			}
		}
	}
	loads := append(s.load(t), s.clients[0].Load(t, traffic.Load{Requests: []traffic.Request{s.request()}, Workers: 8, Rate: 112}))

	seen, renewed := map[string][sha256.Size]byte{}, map[string]int{}
	count := func(ctx context.Context) (total int, err error) {
		var list corev1.SecretList
		if err := bed.Client.List(ctx, &list, client.MatchingLabels{meshv1alpha1.ComponentLabel: "identity"}); err != nil {
			return 0, err
		}
		for _, secret := range list.Items {
			key, sum := secret.Namespace+"/"+secret.Name, sha256.Sum256(secret.Data[corev1.TLSCertKey])
			if was, ok := seen[key]; ok && was != sum {
				renewed[key]++
			}
			seen[key] = sum
		}
		for _, n := range renewed {
			total += n
		}
		return total, nil
	}
	reach := func(n int) {
		t.Helper()
		testbed.Eventually(t, func(ctx context.Context) error {
			total, err := count(ctx)
			if err == nil && total < n {
				err = fmt.Errorf("%d renewals of %d certificates, want %d", total, len(renewed), n)
			}
			return err
		})
	}
	reach(renewals / 2)
	finish := rotate(t)
	reach(renewals)
	finish()
	more(loads)
	unharmed(t, loads)
	total, err := count(t.Context())
	if err != nil || len(renewed) < identities {
		t.Errorf("%d certificates have been renewed, want more than %d; %v", len(renewed), identities, err)
	}
	t.Logf("%d renewals of %d certificates", total, len(renewed))
}
