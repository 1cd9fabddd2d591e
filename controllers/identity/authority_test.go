package identity_test

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/identity"
)

const year = 365 * 24 * time.Hour

func authoritySecret(data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: data}
}

func parseAuthority(t *testing.T, secret *corev1.Secret) *identity.Authority {
	t.Helper()
	a, err := identity.ParseAuthority(secret)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// advance takes a step and reads the result as an operator that starts then does.
func advance(t *testing.T, a *identity.Authority, step identity.Step, now time.Time) *identity.Authority {
	t.Helper()
	secret, err := a.After(step, identity.Evidence{Request: "request of " + string(step)}, now)
	if err != nil {
		t.Fatal(err)
	}
	return parseAuthority(t, secret)
}

func TestDecide(t *testing.T) {
	steady := parseAuthority(t, authoritySecret(caData(t, start)))
	distributing := advance(t, steady, identity.DistributeTrust, start)
	reissuing := advance(t, distributing, identity.SwitchIssuer, start)
	dropping := advance(t, reissuing, identity.DropTrust, start)
	over := advance(t, dropping, identity.Finish, start)
	foreign := caData(t, start)
	delete(foreign, "ca.key")
	elsewhere := parseAuthority(t, authoritySecret(foreign))
	handled := "request of DistributeTrust"

	cases := map[string]struct {
		authority *identity.Authority
		evidence  identity.Evidence
		after     time.Duration
		want      identity.Step
	}{
		"nobody asks":            {authority: steady},
		"somebody asks":          {authority: steady, evidence: identity.Evidence{Request: "now"}, want: identity.DistributeTrust},
		"the same request again": {authority: over, evidence: identity.Evidence{Request: handled}},
		"another request":        {authority: over, evidence: identity.Evidence{Request: "once more"}, want: identity.DistributeTrust},
		"another request during an exchange waits": {authority: distributing, evidence: identity.Evidence{Request: "once more"}},

		"the next root is not acknowledged": {authority: distributing, evidence: identity.Evidence{Trusted: steady.CA.Bundle()}},
		"the next root is acknowledged":     {authority: distributing, evidence: identity.Evidence{Trusted: distributing.CA.Bundle()}, want: identity.SwitchIssuer},
		"certificates in use are old":       {authority: reissuing, evidence: identity.Evidence{Trusted: reissuing.CA.Bundle(), Issuer: distributing.CA.Fingerprint()}},
		"certificates in use are new":       {authority: reissuing, evidence: identity.Evidence{Issuer: reissuing.CA.Fingerprint()}, want: identity.DropTrust},
		"the old root may still be trusted": {authority: dropping, evidence: identity.Evidence{Trusted: reissuing.CA.Bundle(), Issuer: dropping.CA.Fingerprint()}},
		"the old root is trusted no more":   {authority: dropping, evidence: identity.Evidence{Trusted: dropping.CA.Bundle()}, want: identity.Finish},
		"time alone moves no exchange":      {authority: reissuing, after: year / 2},

		"the intermediate is young":                        {authority: steady, after: year / 2},
		"the intermediate is due":                          {authority: steady, after: year * 7 / 10, want: identity.RenewIntermediate},
		"the intermediate is due while an exchange waits":  {authority: distributing, after: year * 7 / 10, want: identity.RenewIntermediate},
		"the intermediate has expired":                     {authority: steady, after: 2 * year, want: identity.RenewIntermediate},
		"the root is due":                                  {authority: advance(t, steady, identity.RenewIntermediate, start.Add(7*year)), after: 7 * year, want: identity.DistributeTrust},
		"the root has expired":                             {authority: steady, after: 11 * year, want: identity.DistributeTrust},
		"others look after root and intermediate":          {authority: elsewhere, after: 7 * year},
		"others do, and somebody asks":                     {authority: elsewhere, evidence: identity.Evidence{Request: "now"}, want: identity.DistributeTrust},
		"the last intermediate ends with its root":         {authority: advance(t, over, identity.RenewIntermediate, start.Add(9*year+year/2)), after: 9*year + 9*year/10, want: identity.DistributeTrust},
		"an intermediate that ends with its root is final": {authority: advance(t, distributing, identity.RenewIntermediate, start.Add(9*year+year/2)), after: 9*year + 9*year/10},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := tc.authority.Decide(tc.evidence, start.Add(tc.after)); got != tc.want {
				t.Errorf("step %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAnExchangeOfTheRootStepByStep(t *testing.T) {
	id := makeID("shop", "cart")
	type state struct {
		Phase          identity.Phase
		Roots, Handled string
		OldVerifies    bool // what the first root's authority issued
		NewVerifies    bool // what is issued now
	}
	a := parseAuthority(t, authoritySecret(caData(t, start)))
	first, err := a.CA.Issue(id, time.Hour, start)
	if err != nil {
		t.Fatal(err)
	}
	oldRoot := a.Root().Fingerprint
	look := func() state {
		fresh, err := a.CA.Issue(id, time.Hour, start)
		if err != nil {
			t.Fatal(err)
		}
		var roots []string
		for _, root := range a.Roots() {
			name := "new"
			if root.Fingerprint == oldRoot {
				name = "old"
			}
			if root.Issuing {
				name += " issuing"
			}
			roots = append(roots, name)
		}
		return state{
			Phase: a.Phase, Roots: strings.Join(roots, ", "), Handled: a.Handled,
			OldVerifies: verify(t, a.CA.Bundle(), first.Chain, x509.ExtKeyUsageClientAuth, start) == nil,
			NewVerifies: verify(t, a.CA.Bundle(), fresh.Chain, x509.ExtKeyUsageClientAuth, start) == nil,
		}
	}
	got := []state{look()}
	for _, step := range []identity.Step{identity.DistributeTrust, identity.SwitchIssuer, identity.DropTrust, identity.Finish} {
		a = advance(t, a, step, start.Add(time.Minute))
		if !a.Since.Equal(start.Add(time.Minute)) {
			t.Errorf("%s: the phase began at %v", step, a.Since)
		}
		got = append(got, look())
	}
	asked := "request of DistributeTrust"
	want := []state{
		{identity.Steady, "old issuing", "", true, true},
		{identity.DistributingTrust, "old issuing, new", asked, true, true},
		{identity.ReissuingCertificates, "old, new issuing", asked, true, true},
		{identity.DroppingTrust, "new issuing", asked, false, true},
		{identity.Steady, "new issuing", asked, false, true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
}

func TestARenewedIntermediateKeepsTheRoot(t *testing.T) {
	before := parseAuthority(t, authoritySecret(caData(t, start)))
	later := start.Add(year * 7 / 10)
	after := advance(t, before, identity.RenewIntermediate, later)
	if after.CA.Bundle() != before.CA.Bundle() || after.Phase != identity.Steady {
		t.Errorf("phase %s, other roots %v", after.Phase, after.CA.Bundle() != before.CA.Bundle())
	}
	if after.CA.Fingerprint() == before.CA.Fingerprint() || !after.Intermediate().NotAfter.Equal(later.Add(year)) {
		t.Errorf("the intermediate ends at %v, want a new one until %v", after.Intermediate().NotAfter, later.Add(year))
	}
	pair, err := after.CA.Issue(makeID("shop", "cart"), time.Hour, later)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, before.CA.Bundle(), pair.Chain, x509.ExtKeyUsageClientAuth, later); err != nil {
		t.Errorf("who trusts the root refuses what the new intermediate issues: %v", err)
	}
}

func TestRootsOfOthersOutliveAnExchange(t *testing.T) {
	data, other := caData(t, start), caData(t, start)
	data["ca.crt"] = slices.Concat(data["ca.crt"], other["ca.crt"])
	a := parseAuthority(t, authoritySecret(data))
	if a.Phase != identity.Steady {
		t.Fatalf("phase %s: a second root that somebody added is no exchange", a.Phase)
	}
	for _, step := range []identity.Step{identity.DistributeTrust, identity.SwitchIssuer, identity.DropTrust, identity.Finish} {
		a = advance(t, a, step, start)
	}
	if !strings.Contains(a.CA.Bundle(), string(other["ca.crt"])) || len(a.Roots()) != 2 {
		t.Error("the exchange dropped a root that it had not made")
	}
}

func TestParseAuthorityRefuses(t *testing.T) {
	secret := func(step identity.Step, change func(map[string][]byte)) *corev1.Secret {
		a := parseAuthority(t, authoritySecret(caData(t, start)))
		s, err := a.After(step, identity.Evidence{Request: "now"}, start)
		if err != nil {
			t.Fatal(err)
		}
		change(s.Data)
		return s
	}
	other := caData(t, start)
	for name, tc := range map[string]struct {
		secret *corev1.Secret
		want   string
	}{
		"another root's key":                {secret(identity.None, func(d map[string][]byte) { d["ca.key"] = other["ca.key"] }), "ca.key is not the key of the issuing root"},
		"a next root that is not trusted":   {secret(identity.DistributeTrust, func(d map[string][]byte) { d["ca.crt"] = caData(t, start)["ca.crt"] }), "does not lead to a root"},
		"a next root nobody distributes":    {secret(identity.DistributeTrust, func(d map[string][]byte) { d["next-ca.crt"], d["next-ca.key"] = other["ca.crt"], other["ca.key"] }), "is not among the roots"},
		"a next root without its key":       {secret(identity.DistributeTrust, func(d map[string][]byte) { delete(d, "next-ca.key") }), "next-ca.key"},
		"previous roots that are no roots":  {secret(identity.None, func(d map[string][]byte) { d["previous-ca.crt"] = []byte("oops") }), "previous-ca.crt: holds no PEM certificate"},
		"a key where roots are published":   {secret(identity.None, func(d map[string][]byte) { d["previous-ca.crt"] = d["ca.key"] }), "PEM block of type"},
		"an issuer that leads to next only": {secret(identity.DistributeTrust, func(d map[string][]byte) { d["ca.crt"] = d["next-ca.crt"] }), "does not lead to a root"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := identity.ParseAuthority(tc.secret)
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "PRIVATE KEY-----") {
				t.Errorf("error = %v, want it to say %q", err, tc.want)
			}
		})
	}
}

func TestLifeLeft(t *testing.T) {
	c := identity.Certificate{NotBefore: start, NotAfter: start.Add(100 * time.Hour)}
	for after, want := range map[time.Duration]int{
		0: 100, 49 * time.Hour: 100, 50 * time.Hour: 50, 74 * time.Hour: 50, 75 * time.Hour: 25,
		90 * time.Hour: 10, 99 * time.Hour: 10, 100 * time.Hour: 0, 200 * time.Hour: 0,
	} {
		if got := c.LifeLeft(start.Add(after)); got != want {
			t.Errorf("after %v: %d %%, want %d %%", after, got, want)
		}
	}
}
