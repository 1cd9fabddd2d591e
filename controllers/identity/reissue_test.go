package identity_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"weft.dev/weft/controllers/identity"
)

// newWriteOnlyServer returns an API server that answers every write and shows nothing: an issuer knows what it
// has written, and the fake is slow.
func newWriteOnlyServer() *server {
	var version atomic.Int64
	apply := func(_ context.Context, _ client.WithWatch, obj runtime.ApplyConfiguration, _ ...client.ApplyOption) error {
		secret, ok := obj.(*corev1ac.SecretApplyConfiguration)
		if !ok {
			return fmt.Errorf("%T is no Secret", obj)
		}
		secret.WithResourceVersion(strconv.FormatInt(version.Add(1), 10))
		return nil
	}
	return &server{WithWatch: interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{Apply: apply})}
}

// passes lives through the passes of an issuer until no certificate of an earlier authority is left. It returns
// how many were issued in each interval of time, and fails when one is missing at any time. Passes are at least
// so far apart.
func passes(t *testing.T, issuer *identity.Issuer, state identity.State, certificates int, interval, apart time.Duration) []int {
	t.Helper()
	var issued []int
	for begun := time.Now(); ; {
		result := reconcile(t, issuer, state)
		at := int(time.Since(begun) / interval)
		issued = append(issued, make([]int, max(0, at+1-len(issued)))...)
		issued[at] += len(result.Issued)
		if len(result.Certificates) != certificates {
			t.Fatalf("%d of %d certificates are published after %s", len(result.Certificates), certificates, time.Since(begun))
		}
		if result.Superseded == 0 {
			return issued
		}
		if result.RequeueAfter <= 0 || result.RequeueAfter > interval*2 {
			t.Fatalf("the next pass is after %s while %d are to be replaced", result.RequeueAfter, result.Superseded)
		}
		<-time.After(max(result.RequeueAfter, apart)) // of the bubble
	}
}

// An exchange of the root replaces all certificates before the old root goes, and does so at a bounded rate. A
// new intermediate, whose predecessor is trusted on, gives them an hour.
func TestTwoThousandIdentitiesAreReissuedLittleByLittle(t *testing.T) {
	const identities = 2000
	synctest.Test(t, func(t *testing.T) {
		issuer, _ := newIssuer(t, newWriteOnlyServer())
		before := parseAuthority(t, authoritySecret(caData(t, time.Now())))
		distributing := advance(t, before, identity.DistributeTrust, time.Now())
		state := identity.State{CA: distributing.CA, TrustDomain: trustDomain, Lifetime: 24 * time.Hour, Namespaces: []string{"shop"}}
		for n := range identities - 1 {
			state.Pods = append(state.Pods, makePod("shop", fmt.Sprintf("account-%d", n)))
		}
		if first := reconcile(t, issuer, state); len(first.Issued) != identities {
			t.Fatalf("%d certificates were issued at first, want all %d at once: nobody can wait for them", len(first.Issued), identities)
		}

		reissuing := advance(t, distributing, identity.SwitchIssuer, time.Now())
		state.CA, state.Issuing, state.Reissue = reissuing.CA, reissuing.Issuing, true
		perSecond := passes(t, issuer, state, identities, time.Second, 0)
		t.Logf("for a root, %d seconds: %v", len(perSecond), perSecond)
		if most := slices.Max(perSecond); most > 130 || len(perSecond) < 15 || len(perSecond) > 40 {
			t.Errorf("up to %d certificates in a second, for %d seconds", most, len(perSecond))
		}

		renewed := advance(t, reissuing, identity.RenewIntermediate, time.Now())
		state.CA, state.Issuing, state.Reissue = renewed.CA, renewed.Issuing, false
		perMinute := passes(t, issuer, state, identities, time.Minute, 10*time.Second)
		t.Logf("for an intermediate, %d minutes: %v", len(perMinute), perMinute)
		if most := slices.Max(perMinute); most > 3*identities/60 || len(perMinute) < 55 || len(perMinute) > 61 {
			t.Errorf("up to %d certificates in a minute, for %d minutes", most, len(perMinute))
		}
	})
}
