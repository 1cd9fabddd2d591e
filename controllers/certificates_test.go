package controllers

import (
	stdcmp "cmp"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/webhooks"
)

var issuedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func newKeeper(t *testing.T, made time.Time) *identity.Keeper {
	t.Helper()
	keeper, err := identity.OpenKeeper(t.Context(), fake.NewClientBuilder().Build(), "weft-system", func() time.Time { return made })
	if err != nil {
		t.Fatal(err)
	}
	return keeper
}

func TestCertificatesValid(t *testing.T) {
	authority := newKeeper(t, issuedAt).Authority() // the intermediate lives for 365 days, the root for ten years
	for name, tc := range map[string]struct {
		state certificateState
		want  string // status/reason, and a part of the message
		says  string
	}{
		"all is well":                  {certificateState{now: issuedAt}, "True/Valid", "life enough"},
		"half of its life is left":     {certificateState{now: issuedAt.Add(200 * day)}, "True/Valid", "life enough"},
		"workloads' live for an hour":  {certificateState{now: issuedAt, lifetime: time.Hour}, "True/Valid", "life enough"},
		"workloads' live for less":     {certificateState{now: issuedAt, lifetime: 20 * time.Second}, "True/ShortLifetime", "spec.certificates.lifetime is 20s, less than 1h0m0s"},
		"a quarter of it":              {certificateState{now: issuedAt.Add(280 * day)}, "False/Expiring", "the intermediate ends at 2027-03-01T12:00:00Z; see the Events"},
		"nothing of it":                {certificateState{now: issuedAt.Add(365 * day)}, "False/Expired", "the intermediate ends at"},
		"both have expired":            {certificateState{now: issuedAt.Add(3650 * day)}, "False/Expired", "the root ends at 2036-02-27T12:00:00Z, the intermediate ends"},
		"a Secret nobody can use":      {certificateState{now: issuedAt, fault: errors.New("tls.key: oops")}, "False/SecretNotUsable", "Secret weft-ca: tls.key: oops"},
		"a certificate cannot be had":  {certificateState{now: issuedAt, failure: "secret shop/x: forbidden"}, "False/NotIssued", "secret shop/x: forbidden"},
		"and the worst is told before": {certificateState{now: issuedAt.Add(365 * day), failure: "forbidden"}, "False/Expired", "peers refuse"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.state.authority = authority
			tc.state.lifetime = stdcmp.Or(tc.state.lifetime, day)
			c := certificatesValid(tc.state)
			if got := string(c.Status) + "/" + c.Reason; got != tc.want || !strings.Contains(c.Message, tc.says) {
				t.Errorf("%s: %s, want %s that says %q", got, c.Message, tc.want, tc.says)
			}
		})
	}
}

// What is asked of a root that the operator does not have is answered with where that is.
func TestTheRootOfASecretIsChangedThere(t *testing.T) {
	state := certificateState{
		authority: newKeeper(t, issuedAt).Authority(), request: "now",
		found: identity.Found{Source: "secret/corp-ca", Name: "Secret weft-system/corp-ca", RootElsewhere: true},
	}
	if c := rootRotating(state); c.Reason != "Steady" || !strings.Contains(c.Message, "Secret weft-system/corp-ca has the root") {
		t.Errorf("%s: %s", c.Reason, c.Message)
	}
	if c := authorityAccepted(state); c.Status != "True" || c.Reason != "Exchanging" {
		t.Errorf("%s/%s: %s, want it to be on its way", c.Status, c.Reason, c.Message)
	}
	state.found.Source = ""
	state.found.RootElsewhere = false
	if c := rootRotating(state); strings.Contains(c.Message, "has the root") {
		t.Errorf("the operator's own: %s", c.Message)
	}
}

func TestWhoHasAcknowledged(t *testing.T) {
	proxy := func(pod string, seq uint64) distribute.Client {
		return distribute.Client{Identity: distribute.Identity{Kind: distribute.ClientProxy, Namespace: "shop", Pod: pod}, Seq: seq}
	}
	beside := func(pod string, seq uint64) distribute.Client {
		return distribute.Client{Identity: distribute.Identity{Kind: distribute.ClientSidecar, Namespace: "shop", Pod: pod, ServiceAccount: "default"}, Seq: seq}
	}
	agent := distribute.Client{Identity: distribute.Identity{Kind: distribute.ClientNode, Node: "one", Namespace: "weft-system", Pod: "weft-node-1"}, Seq: 6}
	ready := func(pods ...string) map[string][]wire.Proxy {
		out := map[string][]wire.Proxy{}
		for _, pod := range pods {
			out["shop"] = append(out["shop"], wire.Proxy{Pod: pod})
		}
		return out
	}
	for name, tc := range map[string]struct {
		clients   []distribute.Client
		ready     map[string][]wire.Proxy
		beside    map[string][]string
		published bool
		want      acknowledgement
	}{
		"nobody is there": {published: true},
		"everybody has it, ready or not": {
			clients: []distribute.Client{proxy("a", 5), proxy("b", 9)}, ready: ready("a"), published: true,
			want: acknowledgement{n: 2, m: 2},
		},
		"one is behind": {
			clients: []distribute.Client{agent, proxy("a", 4), proxy("b", 5)}, ready: ready("a", "b"), published: true,
			want: acknowledgement{n: 2, m: 3, missing: []string{"proxy shop/a"}},
		},
		"one is ready and away": {
			clients: []distribute.Client{proxy("a", 5)}, ready: ready("a", "b"), published: true,
			want: acknowledgement{n: 1, m: 2, missing: []string{"proxy shop/b, which is ready and not connected"}},
		},
		"one beside a pod is behind, one is ready and away": {
			clients: []distribute.Client{proxy("a", 5), beside("cart", 4)}, ready: ready("a"), published: true,
			beside: map[string][]string{"shop": {"a", "cart"}},
			want:   acknowledgement{n: 1, m: 3, missing: []string{"sidecar shop/a, which is ready and not connected", "sidecar shop/cart"}},
		},
		"it is not published": {
			clients: []distribute.Client{agent, proxy("a", 9)}, ready: ready("a"),
			want: acknowledgement{m: 2, missing: []string{"node one (weft-system/weft-node-1)", "proxy shop/a"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := acknowledged(tc.clients, tc.ready, tc.beside, 5, tc.published)
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(acknowledgement{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestEventsTellOfAnEndOnceAtEachThreshold(t *testing.T) {
	recorder := events.NewFakeRecorder(100)
	members := &Members{}
	members.state.changed = make(chan struct{})
	r := &Rotation{keeper: newKeeper(t, issuedAt), members: members, recorder: recorder, said: map[string]int{}}
	said := func(after time.Duration) []string {
		r.tell(&meshv1alpha1.Mesh{}, issuedAt.Add(after))
		var found []string
		for len(recorder.Events) > 0 {
			found = append(found, <-recorder.Events)
		}
		return found
	}
	for _, tc := range []struct {
		after time.Duration
		want  string // parts of the one Event, separated by bars; empty for none
	}{
		{0, ""},
		{190 * day, corev1.EventTypeNormal + "|CertificateExpiring|the intermediate|50 %"},
		{200 * day, ""},
		{280 * day, corev1.EventTypeWarning + "|CertificateExpiring|25 %"},
		{335 * day, corev1.EventTypeWarning + "|CertificateExpiring|10 %|2027-03-01T12:00:00Z"},
		{340 * day, ""},
		{366 * day, corev1.EventTypeWarning + "|CertificateExpired|it has expired"},
	} {
		got := said(tc.after)
		if tc.want == "" {
			if len(got) > 0 {
				t.Errorf("after %v: %q", tc.after, got)
			}
			continue
		}
		for part := range strings.SplitSeq(tc.want, "|") {
			if len(got) != 1 || !strings.Contains(got[0], part) {
				t.Errorf("after %v: %q, want one that has %q", tc.after, got, part)
			}
		}
	}

	members.note(issuance{failure: "secret shop/weft-identity-cart: forbidden"})
	if got := said(366 * day); len(got) != 1 || !strings.Contains(got[0], "CertificateNotIssued") || !strings.Contains(got[0], "shop/weft-identity-cart") {
		t.Errorf("of a failure: %q", got)
	}
	if got := said(366 * day); len(got) != 0 {
		t.Errorf("of the same failure again: %q", got)
	}
}

func TestMetricOfExpiry(t *testing.T) {
	members := &Members{}
	members.state.changed = make(chan struct{})
	registry := prometheus.NewRegistry()
	registry.MustRegister(&expiry{newKeeper(t, time.Now()), members})
	read := func() map[string]time.Duration {
		families, err := registry.Gather()
		if err != nil || len(families) != 1 {
			t.Fatalf("%d families, error %v", len(families), err)
		}
		got := map[string]time.Duration{}
		for _, m := range families[0].GetMetric() {
			end := time.Unix(int64(m.GetGauge().GetValue()), 0)
			got[m.GetLabel()[0].GetValue()] = time.Until(end).Round(time.Hour)
		}
		return got
	}
	want := map[string]time.Duration{"root": 3650 * day, "intermediate": 365 * day}
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("without workloads (-want +got):\n%s", diff)
	}
	certificate := func(left time.Duration) wire.Resource {
		return wire.Resource{Certificate: &wire.Certificate{NotAfter: time.Now().Add(left)}}
	}
	members.note(issuance{soonest: soonest([]wire.Resource{certificate(20 * time.Hour), certificate(12 * time.Hour), certificate(24 * time.Hour)})})
	want["workload"] = 12 * time.Hour
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("with workloads (-want +got):\n%s", diff)
	}
}

// Pods would be made without proxies of their own if the API server could not ask for them.
func TestBothWebhooksHaveTheRoots(t *testing.T) {
	roots := func(text string) admissionregistrationv1.WebhookClientConfig {
		return admissionregistrationv1.WebhookClientConfig{CABundle: []byte(text)}
	}
	named := metav1.ObjectMeta{Name: webhooks.ConfigurationName}
	validating := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: named, Webhooks: []admissionregistrationv1.ValidatingWebhook{{ClientConfig: roots("new")}},
	}
	mutating := func(text string) *admissionregistrationv1.MutatingWebhookConfiguration {
		return &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: named, Webhooks: []admissionregistrationv1.MutatingWebhook{{ClientConfig: roots(text)}},
		}
	}
	for name, tc := range map[string]struct {
		objects []client.Object
		want    []string
	}{
		"neither is installed": {},
		"both have them":       {objects: []client.Object{validating, mutating("new")}},
		"that of pods lacks them": {
			objects: []client.Object{validating, mutating("old")}, want: []string{"the roots in MutatingWebhookConfiguration " + webhooks.ConfigurationName},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Rotation{client: fake.NewClientBuilder().WithObjects(tc.objects...).Build()}
			got, err := r.unasked(t.Context(), []byte("new"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
