package identity_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/controllers/identity"
)

const trustDomain = "example.org"

func makeID(namespace, account string) identity.ID {
	return identity.ID{TrustDomain: trustDomain, Namespace: namespace, ServiceAccount: account}
}

func makePod(namespace, account string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account + "-0"},
		Spec:       corev1.PodSpec{ServiceAccountName: account},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func inPhase(pod *corev1.Pod, phase corev1.PodPhase) *corev1.Pod {
	pod.Status.Phase = phase
	return pod
}

// makeSecret returns the Secret of an identity as the issuer writes it.
func makeSecret(t *testing.T, ca *identity.CA, id identity.ID, lifetime time.Duration, issued time.Time, change ...func(*corev1.Secret)) *corev1.Secret {
	t.Helper()
	pair, err := ca.Issue(id, lifetime, issued)
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: id.Namespace,
			Name:      identity.SecretName(id.ServiceAccount),
			Labels: map[string]string{
				"mesh.weft.dev/component":      "identity",
				"app.kubernetes.io/managed-by": "weft",
				"app.kubernetes.io/part-of":    "weft",
			},
			Annotations: map[string]string{
				"mesh.weft.dev/spiffe-id":       id.String(),
				"mesh.weft.dev/service-account": id.ServiceAccount,
				"mesh.weft.dev/not-after":       pair.NotAfter.UTC().Format(time.RFC3339),
			},
		},
		Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{"tls.crt": []byte(pair.Chain), "tls.key": []byte(pair.Key)},
	}
	for _, c := range change {
		c(secret)
	}
	return secret
}

// summary is a Plan in words.
type summary struct {
	Issue, Delete, Publish []string
	Next                   time.Duration
}

func summarise(plan identity.Plan, now time.Time) summary {
	var s summary
	for _, r := range plan.Issue {
		s.Issue = append(s.Issue, fmt.Sprintf("%s as %s: %s", r.Secret, r.ID, r.Reason))
	}
	for _, d := range plan.Delete {
		s.Delete = append(s.Delete, d.String())
	}
	for _, c := range plan.Certificates {
		s.Publish = append(s.Publish, c.Key)
	}
	if !plan.Next.IsZero() {
		s.Next = plan.Next.Sub(now)
	}
	return s
}

func TestDesired(t *testing.T) {
	ca, foreign := newCA(t, start), newCA(t, start)
	hour := time.Hour
	fresh := func(account string, change ...func(*corev1.Secret)) *corev1.Secret {
		return makeSecret(t, ca, makeID("shop", account), hour, start, change...)
	}
	proxy := fresh("weft-proxy")
	issueProxy := "shop/weft-identity-weft-proxy as spiffe://example.org/ns/shop/sa/weft-proxy: there is no Secret"
	// The moments lie between 40 % and 50 % of the hour and follow from the identities alone.
	const proxyDue, cartDue = 29*time.Minute + 47*time.Second, 28*time.Minute + 59*time.Second

	cases := map[string]struct {
		namespaces []string
		lifetime   time.Duration // an hour when zero
		pods       []*corev1.Pod
		secrets    []*corev1.Secret
		after      time.Duration // since the Secrets were made
		want       summary
	}{
		"nothing is enrolled": {
			pods: []*corev1.Pod{makePod("shop", "cart")},
		},
		"a namespace without pods needs its proxies' identity": {
			namespaces: []string{"shop"},
			want:       summary{Issue: []string{issueProxy}},
		},
		"one per account that runs pods, pending ones included, finished ones not": {
			namespaces: []string{"shop"},
			pods: []*corev1.Pod{
				makePod("shop", "cart"), makePod("shop", "cart"),
				inPhase(makePod("shop", "web"), corev1.PodPending),
				inPhase(makePod("shop", "fresh"), ""),
				inPhase(makePod("shop", "job"), corev1.PodSucceeded),
				inPhase(makePod("shop", "broken"), corev1.PodFailed),
				makePod("shop", ""),
				makePod("elsewhere", "cart"),
			},
			want: summary{Issue: []string{
				"shop/weft-identity-cart as spiffe://example.org/ns/shop/sa/cart: there is no Secret",
				"shop/weft-identity-default as spiffe://example.org/ns/shop/sa/default: there is no Secret",
				"shop/weft-identity-fresh as spiffe://example.org/ns/shop/sa/fresh: there is no Secret",
				"shop/weft-identity-web as spiffe://example.org/ns/shop/sa/web: there is no Secret",
				issueProxy,
			}},
		},
		"what is there is published and nothing is done": {
			namespaces: []string{"shop"},
			pods:       []*corev1.Pod{makePod("shop", "cart")},
			secrets:    []*corev1.Secret{proxy, fresh("cart")},
			want:       summary{Publish: []string{"shop/cart", "shop/weft-proxy"}, Next: cartDue},
		},
		"just before the renewal": {
			namespaces: []string{"shop"},
			secrets:    []*corev1.Secret{proxy},
			after:      proxyDue,
			want:       summary{Publish: []string{"shop/weft-proxy"}, Next: 0},
		},
		"due for renewal, and published until it is renewed": {
			namespaces: []string{"shop"},
			pods:       []*corev1.Pod{makePod("shop", "cart")},
			secrets:    []*corev1.Secret{proxy, fresh("cart")},
			after:      30 * time.Minute,
			want: summary{
				Issue: []string{
					"shop/weft-identity-cart as spiffe://example.org/ns/shop/sa/cart: it is due for renewal",
					"shop/weft-identity-weft-proxy as spiffe://example.org/ns/shop/sa/weft-proxy: it is due for renewal",
				},
				Publish: []string{"shop/cart", "shop/weft-proxy"},
			},
		},
		"expired, and no longer published": {
			namespaces: []string{"shop"},
			secrets:    []*corev1.Secret{proxy},
			after:      hour,
			want: summary{Issue: []string{
				"shop/weft-identity-weft-proxy as spiffe://example.org/ns/shop/sa/weft-proxy: it is due for renewal",
			}},
		},
		"the configured lifetime became shorter": {
			namespaces: []string{"shop"},
			lifetime:   10 * time.Minute,
			secrets:    []*corev1.Secret{proxy},
			want: summary{
				Issue: []string{
					"shop/weft-identity-weft-proxy as spiffe://example.org/ns/shop/sa/weft-proxy: it lives longer than configured",
				},
				Publish: []string{"shop/weft-proxy"},
			},
		},
		"the configured lifetime became longer: the next renewal brings it": {
			namespaces: []string{"shop"},
			lifetime:   24 * hour,
			secrets:    []*corev1.Secret{proxy},
			want:       summary{Publish: []string{"shop/weft-proxy"}, Next: proxyDue},
		},
		"contents that are of no use": {
			namespaces: []string{"shop"},
			pods: []*corev1.Pod{
				makePod("shop", "another-ca"), makePod("shop", "another-domain"), makePod("shop", "copied"),
				makePod("shop", "described"), makePod("shop", "emptied"), makePod("shop", "renamed"),
			},
			secrets: []*corev1.Secret{
				proxy,
				makeSecret(t, foreign, makeID("shop", "another-ca"), hour, start),
				makeSecret(t, ca, identity.ID{TrustDomain: "old.org", Namespace: "shop", ServiceAccount: "another-domain"}, hour, start),
				fresh("cart", func(s *corev1.Secret) { s.Name = "weft-identity-copied" }),
				fresh("described", func(s *corev1.Secret) { s.Annotations = nil }),
				fresh("emptied", func(s *corev1.Secret) { s.Data = nil }),
				fresh("renamed", func(s *corev1.Secret) { s.Annotations["mesh.weft.dev/service-account"] = "cart" }),
			},
			want: summary{
				Issue: []string{
					"shop/weft-identity-another-ca as spiffe://example.org/ns/shop/sa/another-ca: another authority signed it",
					"shop/weft-identity-another-domain as spiffe://example.org/ns/shop/sa/another-domain: it names spiffe://old.org/ns/shop/sa/another-domain",
					"shop/weft-identity-copied as spiffe://example.org/ns/shop/sa/copied: it names spiffe://example.org/ns/shop/sa/cart",
					"shop/weft-identity-described as spiffe://example.org/ns/shop/sa/described: its annotations do not describe it",
					"shop/weft-identity-emptied as spiffe://example.org/ns/shop/sa/emptied: it is malformed: tls: failed to find any PEM data in certificate input",
					"shop/weft-identity-renamed as spiffe://example.org/ns/shop/sa/renamed: it names spiffe://example.org/ns/shop/sa/renamed, for cart",
				},
				Publish: []string{"shop/weft-proxy"},
				Next:    proxyDue,
			},
		},
		"the last pod is gone: kept for its return": {
			namespaces: []string{"shop"},
			pods:       []*corev1.Pod{inPhase(makePod("shop", "cart"), corev1.PodSucceeded)},
			secrets:    []*corev1.Secret{proxy, fresh("cart")},
			want:       summary{Publish: []string{"shop/cart", "shop/weft-proxy"}, Next: cartDue},
		},
		"the last pod is gone: deleted instead of renewed": {
			namespaces: []string{"shop"},
			secrets:    []*corev1.Secret{makeSecret(t, ca, makeID("shop", "weft-proxy"), hour, start.Add(30*time.Minute)), fresh("cart")},
			after:      30 * time.Minute,
			want: summary{
				Delete: []string{"shop/weft-identity-cart"}, Publish: []string{"shop/weft-proxy"}, Next: proxyDue,
			},
		},
		"the last pod is gone and what is left is of no use": {
			namespaces: []string{"shop"},
			secrets:    []*corev1.Secret{proxy, fresh("cart", func(s *corev1.Secret) { s.Data = nil })},
			want: summary{
				Delete: []string{"shop/weft-identity-cart"}, Publish: []string{"shop/weft-proxy"}, Next: proxyDue,
			},
		},
		"the namespace is no longer enrolled": {
			pods:    []*corev1.Pod{makePod("shop", "cart")},
			secrets: []*corev1.Secret{proxy, fresh("cart")},
			want:    summary{Delete: []string{"shop/weft-identity-cart", "shop/weft-identity-weft-proxy"}},
		},
		"Secrets without our label are not ours to delete": {
			namespaces: []string{"shop"},
			secrets: []*corev1.Secret{
				proxy,
				fresh("cart", func(s *corev1.Secret) { delete(s.Labels, "mesh.weft.dev/component") }),
				fresh("web", func(s *corev1.Secret) { s.Labels["mesh.weft.dev/component"] = "operator" }),
			},
			want: summary{Publish: []string{"shop/weft-proxy"}, Next: proxyDue},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.lifetime == 0 {
				tc.lifetime = hour
			}
			var held []identity.Held
			for _, s := range tc.secrets {
				held = append(held, identity.Inspect(ca, s))
			}
			now := start.Add(tc.after)
			plan := identity.Desired(identity.State{
				CA: ca, TrustDomain: trustDomain, Lifetime: tc.lifetime, Namespaces: tc.namespaces, Pods: tc.pods,
			}, held, now)
			got := summarise(plan, now)
			got.Next = got.Next.Truncate(time.Second)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

// TestThirtyDays runs Desired against a clock that jumps from one due moment to the next.
func TestThirtyDays(t *testing.T) {
	const accounts, days, lifetime = 20, 30, 24 * time.Hour
	ca := newCA(t, start)
	state := identity.State{CA: ca, TrustDomain: trustDomain, Lifetime: lifetime, Namespaces: []string{"shop"}}
	for n := range accounts {
		state.Pods = append(state.Pods, makePod("shop", fmt.Sprintf("account-%d", n)))
	}
	type times struct{ issued, notAfter time.Time }
	last := map[string]times{}
	held := map[types.NamespacedName]identity.Held{}
	renewals := 0
	for now := start; now.Before(start.Add(days * 24 * time.Hour)); {
		var list []identity.Held
		for _, h := range held {
			list = append(list, h)
		}
		plan := identity.Desired(state, list, now)
		for _, r := range plan.Issue {
			key := r.Secret.String()
			if before, ok := last[key]; ok {
				renewals++
				age := now.Sub(before.issued)
				if age < lifetime*4/10 || age > lifetime/2 {
					t.Errorf("%s renewed at the age of %v, want between 40 %% and 50 %% of %v", key, age, lifetime)
				}
				if !now.Before(before.notAfter) {
					t.Errorf("%s renewed after it expired", key)
				}
			}
			secret := makeSecret(t, ca, r.ID, lifetime, now)
			held[r.Secret] = identity.Inspect(ca, secret)
			last[key] = times{issued: now, notAfter: now.Add(lifetime)}
		}
		if len(plan.Issue) > 0 {
			continue
		}
		if want := accounts + 1; len(plan.Certificates) != want {
			t.Fatalf("%d certificates at %v, want %d", len(plan.Certificates), now, want)
		}
		if !plan.Next.After(now) {
			t.Fatalf("the next moment %v is not after %v", plan.Next, now)
		}
		// A certificate counts its time in seconds; the issuer's clock need not.
		now = plan.Next.Truncate(time.Second).Add(time.Second)
	}
	if low, high := (accounts+1)*(2*days-1), (accounts+1)*(days*10/4+1); renewals < low || renewals > high {
		t.Errorf("%d renewals, want between %d and %d", renewals, low, high)
	}
}

func TestRenewalsAreSpread(t *testing.T) {
	ca := newCA(t, start)
	moments := map[time.Duration]int{}
	for n := range 100 {
		id := makeID("shop", fmt.Sprintf("account-%d", n))
		plan := identity.Desired(
			identity.State{CA: ca, TrustDomain: trustDomain, Lifetime: time.Hour, Namespaces: []string{"shop"}},
			[]identity.Held{identity.Inspect(ca, makeSecret(t, ca, id, time.Hour, start))}, start)
		moments[plan.Next.Sub(start).Truncate(time.Minute)]++
	}
	for minute, n := range moments {
		if n > 50 {
			t.Errorf("%d of 100 certificates are renewed in minute %v", n, minute)
		}
	}
	if len(moments) < 4 {
		t.Errorf("all renewals fall into %d minutes of 6", len(moments))
	}
}

func TestDesiredIgnoresOrder(t *testing.T) {
	ca := newCA(t, start)
	secrets := []identity.Held{
		identity.Inspect(ca, makeSecret(t, ca, makeID("a", "weft-proxy"), time.Hour, start)),
		identity.Inspect(ca, makeSecret(t, ca, makeID("b", "weft-proxy"), time.Hour, start)),
		identity.Inspect(ca, makeSecret(t, ca, makeID("c", "weft-proxy"), time.Hour, start)),
	}
	pods := []*corev1.Pod{makePod("a", "x"), makePod("b", "y"), makePod("b", "z")}
	state := identity.State{CA: ca, TrustDomain: trustDomain, Lifetime: time.Hour, Namespaces: []string{"a", "b"}, Pods: pods}
	want := summarise(identity.Desired(state, secrets, start), start)
	state.Namespaces = []string{"b", "a"}
	state.Pods = []*corev1.Pod{pods[2], pods[1], pods[0]}
	got := summarise(identity.Desired(state, []identity.Held{secrets[2], secrets[1], secrets[0]}, start), start)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("another order gives another plan (-want +got):\n%s", diff)
	}
}

func TestCertificateResource(t *testing.T) {
	ca := newCA(t, start)
	secret := makeSecret(t, ca, makeID("shop", "weft-proxy"), time.Hour, start)
	got := identity.Inspect(ca, secret).Certificate
	c := got.Certificate
	if got.Key != "shop/weft-proxy" || got.Scope != "namespace/shop" || got.Origin.Name != secret.Name {
		t.Errorf("resource %s in scope %q from %q", got.Ref, got.Scope, got.Origin.Name)
	}
	if !c.Proxy || c.SPIFFEID != "spiffe://example.org/ns/shop/sa/weft-proxy" ||
		!c.NotAfter.Equal(start.Add(time.Hour)) || c.Chain != string(secret.Data["tls.crt"]) ||
		!strings.HasPrefix(c.Key, "-----BEGIN PRIVATE KEY-----") {
		t.Errorf("content = %+v", c)
	}
	if other := identity.Inspect(ca, makeSecret(t, ca, makeID("shop", "cart"), time.Hour, start)); other.Certificate.Certificate.Proxy {
		t.Error("an application's certificate is marked as the proxies' own")
	}
}

// While intermediate or root are exchanged, what was issued before is good until its replacement is there.
func TestCertificatesOfAnEarlierAuthority(t *testing.T) {
	before := parseAuthority(t, authoritySecret(caData(t, start)))
	distributing := advance(t, before, identity.DistributeTrust, start)
	reissuing := advance(t, distributing, identity.SwitchIssuer, start)
	type result struct {
		Plan       summary
		Superseded int
	}
	reissue := "shop/weft-identity-cart as spiffe://example.org/ns/shop/sa/cart: an earlier authority signed it"
	for name, tc := range map[string]struct {
		now  *identity.Authority
		want result
	}{
		"the next root is trusted": {distributing, result{Plan: summary{Publish: []string{"shop/cart"}}}},
		"the next root issues": {reissuing, result{
			Plan: summary{Issue: []string{reissue}, Delete: []string{"shop/weft-identity-gone"}, Publish: []string{"shop/cart"}}, Superseded: 1,
		}},
		"the old root is dropped": {advance(t, reissuing, identity.DropTrust, start), result{Plan: summary{
			Issue:  []string{"shop/weft-identity-cart as spiffe://example.org/ns/shop/sa/cart: another authority signed it"},
			Delete: []string{"shop/weft-identity-gone"},
		}}},
		"another intermediate issues": {advance(t, before, identity.RenewIntermediate, start), result{
			Plan: summary{Issue: []string{reissue}, Delete: []string{"shop/weft-identity-gone"}, Publish: []string{"shop/cart"}}, Superseded: 1,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var held []identity.Held
			for _, account := range []string{"cart", "gone"} {
				held = append(held, identity.Inspect(tc.now.CA, makeSecret(t, before.CA, makeID("shop", account), time.Hour, start)))
			}
			plan := identity.Desired(identity.State{
				CA: tc.now.CA, TrustDomain: trustDomain, Lifetime: time.Hour, Namespaces: []string{"shop"},
				Pods: []*corev1.Pod{makePod("shop", "cart")},
			}, held, start)
			got := result{summarise(plan, start), plan.Superseded}
			// Neither the proxies' own certificate nor the time of the next renewal is the point here.
			got.Plan.Issue = slices.DeleteFunc(got.Plan.Issue, func(s string) bool { return strings.Contains(s, "weft-proxy") })
			got.Plan.Publish = slices.DeleteFunc(got.Plan.Publish, func(s string) bool { return s == "shop/gone" })
			got.Plan.Next = 0
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}
