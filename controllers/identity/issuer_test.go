package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/proxy/wire"
)

// server is the API server of a test.
type server struct {
	client.WithWatch
	mu     sync.Mutex
	refuse error // answers every list
	writes int
}

// IsWatchListSemanticsUnSupported tells reflectors that the fake sends no initial events.
func (s *server) IsWatchListSemanticsUnSupported() bool { return true }

func newServer(objects ...client.Object) *server {
	s := &server{}
	count := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.writes++
	}
	s.WithWatch = interceptor.NewClient(
		fake.NewClientBuilder().WithObjects(objects...).WithReturnManagedFields().Build(),
		interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				s.mu.Lock()
				err := s.refuse
				s.mu.Unlock()
				if err != nil {
					return err
				}
				return c.List(ctx, list, opts...)
			},
			Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				count()
				return c.Apply(ctx, obj, opts...)
			},
			Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
				count()
				return c.Delete(ctx, obj, opts...)
			},
		})
	return s
}

func (s *server) setRefuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

func (s *server) countWrites() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *server) secret(t *testing.T, namespace, name string) *corev1.Secret {
	t.Helper()
	var secret corev1.Secret
	if err := s.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, &secret); err != nil {
		t.Fatal(err)
	}
	return &secret
}

func (s *server) names(t *testing.T, namespace string) []string {
	t.Helper()
	var list corev1.SecretList
	if err := s.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	slices.Sort(names)
	return names
}

// newIssuer returns an issuer on the bubble's clock and a channel that holds an item after a wake-up.
func newIssuer(t *testing.T, s *server) (*identity.Issuer, <-chan struct{}) {
	woken := make(chan struct{}, 1)
	issuer := &identity.Issuer{
		Client: s,
		Now:    time.Now,
		Wake: func() {
			select {
			case woken <- struct{}{}:
			default:
			}
		},
	}
	t.Cleanup(issuer.Close)
	return issuer, woken
}

// settle waits until nothing moves any more and tells whether there was a wake-up.
func settle(woken <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-woken:
		return true
	default:
		return false
	}
}

func newState(t *testing.T, lifetime time.Duration, pods ...*corev1.Pod) identity.State {
	return identity.State{
		CA: newCA(t, time.Now()), TrustDomain: trustDomain, Lifetime: lifetime,
		Namespaces: []string{"shop"}, Pods: pods,
	}
}

func keys(resources []wire.Resource) []string {
	var list []string
	for _, r := range resources {
		list = append(list, r.Key)
	}
	return list
}

func reconcile(t *testing.T, issuer *identity.Issuer, state identity.State) identity.Result {
	t.Helper()
	result, err := issuer.Reconcile(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestIssuerWritesSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		issuer, woken := newIssuer(t, s)
		state := newState(t, time.Hour, makePod("shop", "cart"), makePod("other", "web"))
		result := reconcile(t, issuer, state)

		if diff := cmp.Diff([]string{"shop/cart", "shop/weft-proxy"}, keys(result.Certificates)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		secret := s.secret(t, "shop", "weft-identity-cart")
		if got, want := result.Certificates[0], identity.Inspect(state.CA, secret).Certificate; got.Version != want.Version {
			t.Errorf("published is %+v, the Secret holds %+v", got.Certificate, want.Certificate)
		}
		wantMeta := metav1.ObjectMeta{
			Labels: map[string]string{
				"mesh.weft.dev/component":      "identity",
				"app.kubernetes.io/managed-by": "weft",
				"app.kubernetes.io/part-of":    "weft",
			},
			Annotations: map[string]string{
				"mesh.weft.dev/spiffe-id":       "spiffe://example.org/ns/shop/sa/cart",
				"mesh.weft.dev/service-account": "cart",
				"mesh.weft.dev/not-after":       time.Now().Add(time.Hour).UTC().Format(time.RFC3339),
			},
		}
		if diff := cmp.Diff(wantMeta, metav1.ObjectMeta{Labels: secret.Labels, Annotations: secret.Annotations}); diff != "" {
			t.Errorf("metadata (-want +got):\n%s", diff)
		}
		if secret.Type != corev1.SecretTypeTLS {
			t.Errorf("type = %s, want %s", secret.Type, corev1.SecretTypeTLS)
		}
		if len(secret.ManagedFields) != 1 || secret.ManagedFields[0].Manager != "weft" ||
			secret.ManagedFields[0].Operation != metav1.ManagedFieldsOperationApply {
			t.Errorf("fields are owned by %+v, want weft by apply alone", secret.ManagedFields)
		}

		settle(woken) // the echo of a write may overtake its answer
		before := s.countWrites()
		again := reconcile(t, issuer, state)
		if after := s.countWrites(); after != before {
			t.Errorf("a second pass wrote %d times", after-before)
		}
		if diff := cmp.Diff(keys(result.Certificates), keys(again.Certificates)); diff != "" || len(again.Issued) != 0 {
			t.Errorf("a second pass issued %v and published (-want +got):\n%s", again.Issued, diff)
		}
		if settle(woken) {
			t.Error("a pass that changed nothing woke the issuer")
		}
	})
}

// TestIssuerKeepsCertificatesFresh lives through many lifetimes and looks at every pass as peers would.
func TestIssuerKeepsCertificatesFresh(t *testing.T) {
	cases := map[string]struct{ lifetime, span time.Duration }{
		"a day's certificates for 30 days":        {24 * time.Hour, 30 * 24 * time.Hour},
		"the shortest certificates for 5 minutes": {10 * time.Second, 5 * time.Minute},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				issuer, _ := newIssuer(t, s)
				state := newState(t, tc.lifetime, makePod("shop", "cart"), makePod("shop", "web"))
				published := map[string]wire.Resource{}
				issued := 0
				for end := time.Now().Add(tc.span); time.Now().Before(end); {
					for key, r := range published {
						if !time.Now().Before(r.Certificate.NotAfter) {
							t.Fatalf("%s expired before it was replaced", key)
						}
					}
					result := reconcile(t, issuer, state)
					issued += len(result.Issued)
					if diff := cmp.Diff([]string{"shop/cart", "shop/web", "shop/weft-proxy"}, keys(result.Certificates)); diff != "" {
						t.Fatalf("published (-want +got):\n%s", diff)
					}
					for _, r := range result.Certificates {
						published[r.Key] = r
						if err := verify(t, state.CA.Bundle(), r.Certificate.Chain, x509.ExtKeyUsageClientAuth, time.Now()); err != nil {
							t.Fatalf("peers refuse %s: %v", r.Key, err)
						}
					}
					if result.RequeueAfter <= 0 || result.RequeueAfter > tc.lifetime/2 {
						t.Fatalf("next pass after %v, want within half of %v", result.RequeueAfter, tc.lifetime)
					}
					<-time.After(result.RequeueAfter) // of the bubble
				}
				lives := int(tc.span / tc.lifetime)
				if low, high := 3*2*lives, 3*(lives*3+1); issued < low || issued > high {
					t.Errorf("%d certificates issued in %d lifetimes, want %d to %d", issued, lives, low, high)
				}
			})
		})
	}
}

func TestIssuerTakesOverWhatALeaderLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		state := newState(t, time.Hour, makePod("shop", "cart"))
		first, _ := newIssuer(t, s)
		want := reconcile(t, first, state).Certificates
		first.Close()
		second, _ := newIssuer(t, s)
		result := reconcile(t, second, state)
		if len(result.Issued) != 0 {
			t.Errorf("the next leader issued %v anew", result.Issued)
		}
		if diff := cmp.Diff(want, result.Certificates); diff != "" {
			t.Errorf("the next leader publishes other certificates (-want +got):\n%s", diff)
		}
	})
}

func TestIssuerRepairsDrift(t *testing.T) {
	cases := map[string]func(t *testing.T, s *server, secret *corev1.Secret){
		"deleted": func(t *testing.T, s *server, secret *corev1.Secret) {
			if err := s.Delete(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		},
		"emptied": func(t *testing.T, s *server, secret *corev1.Secret) {
			secret.Data["tls.key"] = nil
			if err := s.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		},
		"key of another": func(t *testing.T, s *server, secret *corev1.Secret) {
			secret.Data = s.secret(t, "shop", "weft-identity-weft-proxy").Data
			if err := s.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		},
		"annotations changed": func(t *testing.T, s *server, secret *corev1.Secret) {
			secret.Annotations["mesh.weft.dev/not-after"] = "tomorrow"
			if err := s.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServer()
				issuer, woken := newIssuer(t, s)
				state := newState(t, time.Hour, makePod("shop", "cart"))
				reconcile(t, issuer, state)
				settle(woken)
				damage(t, s, s.secret(t, "shop", "weft-identity-cart"))
				<-woken
				result := reconcile(t, issuer, state)
				if len(result.Issued) != 1 || result.Issued[0].ID.ServiceAccount != "cart" {
					t.Errorf("issued %v, want cart's again", result.Issued)
				}
				h := identity.Inspect(state.CA, s.secret(t, "shop", "weft-identity-cart"))
				if h.Fault != "" {
					t.Errorf("the Secret is of no use still: %s", h.Fault)
				}
			})
		})
	}
}

func TestIssuerDeletesIdleIdentities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "password"}}
		s := newServer(foreign)
		issuer, _ := newIssuer(t, s)
		state := newState(t, time.Hour, makePod("shop", "cart"))
		reconcile(t, issuer, state)
		state.Pods = nil
		if result := reconcile(t, issuer, state); len(result.Deleted) != 0 {
			t.Errorf("deleted %v at once", result.Deleted)
		}
		<-time.After(30 * time.Minute) // of the bubble
		result := reconcile(t, issuer, state)
		if diff := cmp.Diff([]string{"shop/weft-proxy"}, keys(result.Certificates)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"password", "weft-identity-weft-proxy"}, s.names(t, "shop")); diff != "" {
			t.Errorf("Secrets left (-want +got):\n%s", diff)
		}
	})
}

func TestIssuerRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "password"}},
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "weft-identity-mine"}})
		issuer, woken := newIssuer(t, s)
		state := newState(t, time.Hour, makePod("shop", "cart"), makePod("bank", "till"))
		state.Namespaces = []string{"bank", "shop"}
		reconcile(t, issuer, state)
		settle(woken)
		if err := issuer.Remove(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		state.Namespaces = []string{"bank"}
		result := reconcile(t, issuer, state)
		if diff := cmp.Diff([]string{"bank/till", "bank/weft-proxy"}, keys(result.Certificates)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"password", "weft-identity-mine"}, s.names(t, "shop")); diff != "" {
			t.Errorf("Secrets left (-want +got):\n%s", diff)
		}
		if settle(woken) {
			t.Error("a namespace that left still wakes the issuer")
		}
	})
}

// TestIssuerNeverIssuesUnread: what Secrets hold is unknown as long as they cannot be listed, and
// issuing over them would change every certificate of the namespace.
func TestIssuerNeverIssuesUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		issuer, _ := newIssuer(t, s)
		state := newState(t, time.Hour, makePod("shop", "cart"))
		s.setRefuse(apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", errors.New("no RoleBinding yet")))
		result, err := issuer.Reconcile(t.Context(), state)
		if !apierrors.IsForbidden(err) || !strings.Contains(fmt.Sprint(err), "shop") {
			t.Errorf("error = %v, want the refusal for namespace shop", err)
		}
		if writes := s.countWrites(); writes != 0 || len(result.Certificates) != 0 {
			t.Errorf("%d writes, published %v", writes, keys(result.Certificates))
		}
		s.setRefuse(nil)
		if result := reconcile(t, issuer, state); len(result.Issued) != 2 {
			t.Errorf("issued %v once Secrets could be read, want both", result.Issued)
		}
	})
}

// TestIssuerOneFailureIsItsOwn: a namespace at its quota must not keep others from being served.
func TestIssuerOneFailureIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		base := s.WithWatch
		s.WithWatch = interceptor.NewClient(base, interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				if *obj.(interface{ GetNamespace() *string }).GetNamespace() == "full" {
					return apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "", errors.New("exceeded quota"))
				}
				return c.Apply(ctx, obj, opts...)
			},
		})
		issuer, _ := newIssuer(t, s)
		state := newState(t, time.Hour)
		state.Namespaces = []string{"full", "shop"}
		result, err := issuer.Reconcile(t.Context(), state)
		if err == nil || !strings.Contains(err.Error(), "secret full/weft-identity-weft-proxy") || !strings.Contains(err.Error(), "exceeded quota") {
			t.Errorf("error = %v, want the one of namespace full", err)
		}
		if diff := cmp.Diff([]string{"shop/weft-proxy"}, keys(result.Certificates)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
	})
}

// TestIssuerReplacesWhatCannotBeChanged: the type of a Secret is immutable, and users can freeze one.
func TestIssuerReplacesWhatCannotBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frozen := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "weft-identity-cart",
				Labels: map[string]string{"mesh.weft.dev/component": "identity"},
			},
			Type: corev1.SecretTypeOpaque,
		}
		s := newServer()
		if err := s.Create(t.Context(), frozen); err != nil {
			t.Fatal(err)
		}
		base := s.WithWatch
		s.WithWatch = interceptor.NewClient(base, interceptor.Funcs{
			Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
				var now corev1.Secret
				name := *obj.(interface{ GetName() *string }).GetName()
				err := c.Get(ctx, types.NamespacedName{Namespace: "shop", Name: name}, &now)
				if err == nil && now.Type != corev1.SecretTypeTLS {
					return apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, name, nil)
				}
				return c.Apply(ctx, obj, opts...)
			},
		})
		issuer, woken := newIssuer(t, s)
		state := newState(t, time.Hour, makePod("shop", "cart"))
		reconcile(t, issuer, state)
		// The fake numbers an object's versions from one, so the old Secret's end can hide the new one
		// until the next pass; the API server numbers all changes in one sequence.
		settle(woken)
		result := reconcile(t, issuer, state)
		if diff := cmp.Diff([]string{"shop/cart", "shop/weft-proxy"}, keys(result.Certificates)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if got := s.secret(t, "shop", "weft-identity-cart").Type; got != corev1.SecretTypeTLS {
			t.Errorf("type = %s, want %s", got, corev1.SecretTypeTLS)
		}
	})
}

func TestASecretGoesWithItsServiceAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart", UID: "uid-of-cart"}}
		s := newServer(account)
		issuer, _ := newIssuer(t, s)
		state := newState(t, time.Hour, makePod("shop", "cart"), makePod("shop", "orphan"))
		owners := func(name string) string {
			var found []string
			for _, o := range s.secret(t, "shop", name).OwnerReferences {
				found = append(found, o.Kind+" "+o.Name+" "+string(o.UID))
			}
			return strings.Join(found, ", ")
		}
		for _, pass := range []string{"issued", "renewed"} {
			if result, err := issuer.Reconcile(t.Context(), state); err != nil || len(result.Issued) != 3 {
				t.Fatalf("%s: %v, error %v", pass, result.Issued, err)
			}
			if got := owners("weft-identity-cart"); got != "ServiceAccount cart uid-of-cart" {
				t.Errorf("%s: owned by %q", pass, got)
			}
			if got := owners("weft-identity-orphan"); got != "" {
				t.Errorf("%s: without an account it is owned by %q", pass, got)
			}
			<-time.After(31 * time.Minute)
		}
	})
}
