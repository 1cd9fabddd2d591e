package identity_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"weft.dev/weft/controllers/identity"
)

// watchedServer is an API server that tells when a watch has begun: its fake sends nothing of what was before.
type watchedServer struct {
	client.WithWatch
	watching chan struct{}
}

func newWatchedServer() *watchedServer {
	return &watchedServer{fake.NewClientBuilder().Build(), make(chan struct{}, 8)}
}

// IsWatchListSemanticsUnSupported tells reflectors that the fake sends no initial events.
func (s *watchedServer) IsWatchListSemanticsUnSupported() bool { return true }

func (s *watchedServer) Watch(ctx context.Context, list client.ObjectList, opts ...client.ListOption) (apiwatch.Interface, error) {
	w, err := s.WithWatch.Watch(ctx, list, opts...)
	s.watching <- struct{}{}
	return w, err
}

// openKeeper opens a keeper that follows its Secret until the test ends.
func openKeeper(t *testing.T, c *watchedServer) *identity.Keeper {
	t.Helper()
	k, err := identity.OpenKeeper(t.Context(), c, key.Namespace, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	startKeeper(t, c, k)
	return k
}

func startKeeper(t *testing.T, c *watchedServer, k *identity.Keeper) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.Start(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	<-c.watching
}

// await waits until a keeper is as wanted.
func await(t *testing.T, k *identity.Keeper, what string, holds func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		changed := k.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%s: phase %s, fault %v", what, k.Authority().Phase, k.Fault())
		}
	}
}

func step(t *testing.T, k *identity.Keeper, want identity.Step) {
	t.Helper()
	a := k.Authority()
	e := identity.Evidence{Trusted: a.CA.Bundle(), Issuer: a.CA.Fingerprint()}
	if want == identity.DistributeTrust {
		e.Request = "now"
	}
	got, err := k.Advance(t.Context(), e)
	if err != nil || got != want {
		t.Fatalf("step %q, error %v, want %q", got, err, want)
	}
}

func readSecret(t *testing.T, c client.Client) *corev1.Secret {
	t.Helper()
	secret := &corev1.Secret{}
	if err := c.Get(t.Context(), key, secret); err != nil {
		t.Fatal(err)
	}
	return secret
}

var exchange = []identity.Step{identity.DistributeTrust, identity.SwitchIssuer, identity.DropTrust, identity.Finish}

func TestOperatorsThatDoNotLeadFollow(t *testing.T) {
	c := newWatchedServer()
	leader, standby := openKeeper(t, c), openKeeper(t, c)
	for _, s := range exchange {
		step(t, leader, s)
		want := leader.Authority()
		await(t, standby, string(s), func() bool {
			a := standby.Authority()
			return a.Phase == want.Phase && a.CA.Bundle() == want.CA.Bundle() && a.CA.Fingerprint() == want.CA.Fingerprint()
		})
		if standby.Fault() != nil {
			t.Errorf("%s: fault %v", s, standby.Fault())
		}
	}
}

func TestAnOperatorThatMissedAnExchangeFollows(t *testing.T) {
	c := newWatchedServer()
	late, err := identity.OpenKeeper(t.Context(), c, key.Namespace, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	leader := openKeeper(t, c)
	for _, s := range exchange {
		step(t, leader, s)
	}
	startKeeper(t, c, late)
	await(t, late, "the end of the exchange", func() bool { return late.CA().Bundle() == leader.CA().Bundle() })
}

func TestWhatOthersDoToTheSecret(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Secret)
		want   string // of the fault; empty for none
	}{
		"an authority that nobody trusts": {func(s *corev1.Secret) { s.Data = caData(t, start) }, "nobody trusts yet"},
		"no authority":                    {func(s *corev1.Secret) { delete(s.Data, "tls.key") }, "tls.key"},
		"another intermediate of the root": {func(s *corev1.Secret) {
			next, err := parseAuthority(t, s).After(identity.RenewIntermediate, identity.Evidence{}, start)
			if err != nil {
				t.Fatal(err)
			}
			s.Data = next.Data
		}, ""},
		"a further root": {func(s *corev1.Secret) { s.Data["ca.crt"] = slices.Concat(s.Data["ca.crt"], caData(t, start)["ca.crt"]) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newWatchedServer()
			k := openKeeper(t, c)
			before, secret := k.CA(), readSecret(t, c)
			good := secret.DeepCopy()
			tc.change(secret)
			if err := c.Update(t.Context(), secret); err != nil {
				t.Fatal(err)
			}
			if tc.want == "" {
				await(t, k, "taken over", func() bool { return k.CA() != before && k.Fault() == nil })
				return
			}
			await(t, k, "refused", func() bool { return k.Fault() != nil })
			if !strings.Contains(k.Fault().Error(), tc.want) || k.CA() != before {
				t.Errorf("fault %v, want one that says %q and the authority as it was", k.Fault(), tc.want)
			}
			if s, err := k.Advance(t.Context(), identity.Evidence{Request: "now"}); s != identity.None || err != nil {
				t.Errorf("step %q over what was not read (error %v)", s, err)
			}
			good.ResourceVersion = readSecret(t, c).ResourceVersion
			if err := c.Update(t.Context(), good); err != nil {
				t.Fatal(err)
			}
			await(t, k, "restored", func() bool { return k.Fault() == nil })
		})
	}
}

func TestADeletedSecretIsAFault(t *testing.T) {
	c := newWatchedServer()
	k := openKeeper(t, c)
	before := k.CA()
	if err := c.Delete(t.Context(), readSecret(t, c)); err != nil {
		t.Fatal(err)
	}
	await(t, k, "deleted", func() bool { return k.Fault() != nil && strings.Contains(k.Fault().Error(), "deleted") })
	if k.CA() != before {
		t.Error("the authority went with its Secret")
	}
}

func TestAStepIsInForceOnceItIsWritten(t *testing.T) {
	refused := errors.New("refused")
	refuse := true
	c := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			if refuse {
				return apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, obj.GetName(), refused)
			}
			return c.Update(ctx, obj, opts...)
		},
	})
	k, err := identity.OpenKeeper(t.Context(), c, key.Namespace, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	before := k.Authority()
	if s, err := k.Advance(t.Context(), identity.Evidence{Request: "now"}); !apierrors.IsConflict(err) || s != identity.None {
		t.Errorf("step %q, error %v", s, err)
	}
	if k.Authority() != before {
		t.Error("what was not written is in force")
	}
	refuse = false
	step(t, k, identity.DistributeTrust)
	again, err := identity.OpenKeeper(t.Context(), c, key.Namespace, func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	if again.Authority().Phase != identity.DistributingTrust || again.CA().Bundle() != k.CA().Bundle() {
		t.Error("an operator that starts then does not go on from there")
	}
}
