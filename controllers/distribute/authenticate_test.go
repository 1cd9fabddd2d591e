package distribute_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/proxy/wire"
)

// jwt returns a token that ends after a time; only the API server could tell that nobody signed it.
func jwt(life time.Duration) string {
	payload := fmt.Sprintf(`{"exp":%d}`, time.Now().Add(life).Unix())
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

// cluster is a small API server: what it says about the one token, and its objects.
type cluster struct {
	mu      sync.Mutex
	reviews int
	// answering, if set, holds back the answers.
	answering chan struct{}
	status    authenticationv1.TokenReviewStatus
	// err is the answer to reviews, lookupErr that to everything else.
	err, lookupErr error
	pod            *corev1.Pod
	owners         map[string]*metav1.PartialObjectMetadata
}

func (c *cluster) Create(_ context.Context, review *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	c.mu.Lock()
	c.reviews++
	c.mu.Unlock()
	if c.answering != nil {
		<-c.answering
	}
	if c.err != nil {
		return nil, c.err
	}
	if diff := cmp.Diff([]string{wire.TokenAudience}, review.Spec.Audiences); diff != "" {
		return nil, errors.New("asked about other audiences: " + diff)
	}
	return &authenticationv1.TokenReview{Status: c.status}, nil
}

func (c *cluster) Pod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if c.lookupErr != nil {
		return nil, c.lookupErr
	}
	if c.pod == nil || c.pod.Namespace != namespace || c.pod.Name != name {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name)
	}
	return c.pod, nil
}

func (c *cluster) Owner(_ context.Context, namespace string, ref metav1.OwnerReference) (metav1.Object, error) {
	owner, ok := c.owners[ref.Kind+"/"+ref.Name]
	if !ok || c.pod.Namespace != namespace {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: ref.Kind}, ref.Name)
	}
	return owner, nil
}

func controller(kind, name, uid string) []metav1.OwnerReference {
	yes := true
	return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes}}
}

func object(uid string, owners []metav1.OwnerReference) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), OwnerReferences: owners}}
}

func reviewOf(namespace, account string, extra map[string]authenticationv1.ExtraValue) authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true,
		Audiences:     []string{wire.TokenAudience},
		User:          authenticationv1.UserInfo{Username: "system:serviceaccount:" + namespace + ":" + account, Extra: extra},
	}
}

func boundTo(pod, uid, node string) map[string]authenticationv1.ExtraValue {
	return map[string]authenticationv1.ExtraValue{
		"authentication.kubernetes.io/pod-name":  {pod},
		"authentication.kubernetes.io/pod-uid":   {uid},
		"authentication.kubernetes.io/node-name": {node},
	}
}

// proxyCluster has one true proxy in namespace a.
func proxyCluster() *cluster {
	return &cluster{
		status: reviewOf("a", "weft-proxy", boundTo("proxy-1", "pod-uid", "n1")),
		pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "a", Name: "proxy-1", UID: "pod-uid",
				Labels:          map[string]string{"app.kubernetes.io/component": "proxy"},
				OwnerReferences: controller("ReplicaSet", "proxy-rs", "rs-uid"),
			},
			Spec:   corev1.PodSpec{ServiceAccountName: "weft-proxy", NodeName: "n1"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning},
		},
		owners: map[string]*metav1.PartialObjectMetadata{
			"ReplicaSet/proxy-rs":   object("rs-uid", controller("Deployment", "weft-proxy", "deploy-uid")),
			"Deployment/weft-proxy": named("weft-proxy", "deploy-uid"),
			"Deployment/other":      named("other", "deploy-uid"),
		},
	}
}

// nodeCluster has one true node agent on node n1.
func nodeCluster() *cluster {
	return &cluster{
		status: reviewOf("weft-system", "weft-node", boundTo("agent-1", "pod-uid", "n1")),
		pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "weft-system", Name: "agent-1", UID: "pod-uid",
				Labels:          map[string]string{"app.kubernetes.io/component": "node"},
				OwnerReferences: controller("DaemonSet", "weft-node", "ds-uid"),
			},
			Spec:   corev1.PodSpec{ServiceAccountName: "weft-node", NodeName: "n1"},
			Status: corev1.PodStatus{Phase: corev1.PodPending},
		},
		owners: map[string]*metav1.PartialObjectMetadata{"DaemonSet/weft-node": named("weft-node", "ds-uid")},
	}
}

// sidecarCluster has a pod with a proxy of its own in namespace a.
func sidecarCluster() *cluster {
	return &cluster{
		status: reviewOf("a", "cart", boundTo("cart-1", "pod-uid", "n1")),
		pod: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "cart-1", UID: "pod-uid"},
			Spec:       corev1.PodSpec{ServiceAccountName: "cart", NodeName: "n1", InitContainers: []corev1.Container{{Name: "proxy"}}},
			Status:     corev1.PodStatus{Phase: corev1.PodPending},
		},
	}
}

func named(name, uid string) *metav1.PartialObjectMetadata {
	o := object(uid, nil)
	o.Name = name
	return o
}

func authenticatorOf(c *cluster) *distribute.TokenAuthenticator {
	return distribute.NewTokenAuthenticator(distribute.TokenAuthenticatorOptions{
		Reviewer: c, Pods: c,
		Proxy: distribute.Workload{
			Kind: "Deployment", Name: "weft-proxy", ServiceAccount: "weft-proxy",
			Labels: map[string]string{"app.kubernetes.io/component": "proxy"},
		},
		Node: distribute.Workload{
			Kind: "DaemonSet", Namespace: "weft-system", Name: "weft-node", ServiceAccount: "weft-node",
			Labels: map[string]string{"app.kubernetes.io/component": "node"},
		},
		Sidecar:  func(pod *corev1.Pod) bool { return len(pod.Spec.InitContainers) > 0 },
		Enrolled: func(namespace string) bool { return namespace == "a" },
	})
}

func TestTokenOfOurPodsIsBelieved(t *testing.T) {
	tests := map[string]struct {
		cluster *cluster
		want    distribute.Identity
	}{
		"proxy": {
			cluster: proxyCluster(),
			want:    distribute.Identity{Kind: distribute.ClientProxy, Namespace: "a", Pod: "proxy-1", PodUID: "pod-uid", Node: "n1"},
		},
		"sidecar": {
			cluster: sidecarCluster(),
			want:    distribute.Identity{Kind: distribute.ClientSidecar, Namespace: "a", Pod: "cart-1", PodUID: "pod-uid", Node: "n1", ServiceAccount: "cart"},
		},
		"node agent": {
			cluster: nodeCluster(),
			want:    distribute.Identity{Kind: distribute.ClientNode, Namespace: "weft-system", Pod: "agent-1", PodUID: "pod-uid", Node: "n1"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := authenticatorOf(tc.cluster).Authenticate(t.Context(), jwt(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(got.Expires); left < 50*time.Minute || left > time.Hour {
				t.Errorf("the proof ends in %v, want the token's hour", left)
			}
			got.Expires = time.Time{}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("identity (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOtherTokensAreRefused(t *testing.T) {
	tests := map[string]struct {
		token   string
		node    bool
		sidecar bool
		change  func(*cluster)
		// wantUnsure says that the question could not be answered, which proves nothing either way.
		wantUnsure bool
	}{
		"garbage":           {token: "nonsense"},
		"too long":          {token: jwt(time.Hour) + strings.Repeat("x", 16<<10)},
		"bad encoding":      {token: "e30.!!!.c2ln"},
		"no expiry":         {token: "e30.e30.c2ln"},
		"expired":           {token: jwt(-time.Minute)},
		"not authenticated": {change: func(c *cluster) { c.status.Authenticated = false }},
		"wrong audience":    {change: func(c *cluster) { c.status.Audiences = []string{"https://kubernetes.default.svc"} }},
		"audiences unknown": {change: func(c *cluster) { c.status.Audiences = nil }},
		"a user":            {change: func(c *cluster) { c.status.User.Username = "kubernetes-admin" }},
		"a node":            {change: func(c *cluster) { c.status.User.Username = "system:node:n1" }},
		"no namespace":      {change: func(c *cluster) { c.status.User.Username = "system:serviceaccount::weft-proxy" }},
		"not bound":         {change: func(c *cluster) { c.status.User.Extra = nil }},
		"two pods": {change: func(c *cluster) {
			c.status.User.Extra["authentication.kubernetes.io/pod-uid"] = []string{"pod-uid", "other"}
		}},
		"pod is gone":     {change: func(c *cluster) { c.pod = nil }},
		"pod came again":  {change: func(c *cluster) { c.pod.UID = "newer-uid" }},
		"pod has ended":   {change: func(c *cluster) { c.pod.Status.Phase = corev1.PodSucceeded }},
		"pod has failed":  {change: func(c *cluster) { c.pod.Status.Phase = corev1.PodFailed }},
		"not scheduled":   {change: func(c *cluster) { c.pod.Spec.NodeName = "" }},
		"on another node": {change: func(c *cluster) { c.pod.Spec.NodeName = "n2" }},
		"other account":   {change: func(c *cluster) { c.pod.Spec.ServiceAccountName = "default" }},
		"not our account": {change: func(c *cluster) {
			c.pod.Spec.ServiceAccountName = "app"
			c.status.User.Username = "system:serviceaccount:a:app"
		}},
		"application's pod": {change: func(c *cluster) { c.pod.Labels = nil }},
		"no owner":          {change: func(c *cluster) { c.pod.OwnerReferences = nil }},
		"owner of another kind": {change: func(c *cluster) {
			c.pod.OwnerReferences = controller("Job", "proxy-rs", "rs-uid")
		}},
		"owner of another group": {change: func(c *cluster) { c.pod.OwnerReferences[0].APIVersion = "apps.example.com/v1" }},
		"owner does not control": {change: func(c *cluster) { c.pod.OwnerReferences[0].Controller = nil }},
		"owner is gone":          {change: func(c *cluster) { delete(c.owners, "ReplicaSet/proxy-rs") }},
		"owner came again":       {change: func(c *cluster) { c.owners["ReplicaSet/proxy-rs"].UID = "newer-uid" }},
		"bare ReplicaSet":        {change: func(c *cluster) { c.owners["ReplicaSet/proxy-rs"].OwnerReferences = nil }},
		"Deployment is gone":     {change: func(c *cluster) { delete(c.owners, "Deployment/weft-proxy") }},
		"Deployment came again":  {change: func(c *cluster) { c.owners["Deployment/weft-proxy"].UID = "newer-uid" }},
		"another Deployment": {change: func(c *cluster) {
			c.owners["ReplicaSet/proxy-rs"].OwnerReferences = controller("Deployment", "other", "deploy-uid")
		}},
		"namespace not enrolled": {change: func(c *cluster) {
			c.pod.Namespace = "b"
			c.status.User.Username = "system:serviceaccount:b:weft-proxy"
		}},
		"agent in another namespace": {node: true, change: func(c *cluster) {
			c.pod.Namespace = "a"
			c.status.User.Username = "system:serviceaccount:a:weft-node"
		}},
		"agent of another DaemonSet": {node: true, change: func(c *cluster) {
			c.pod.OwnerReferences = controller("DaemonSet", "other", "ds-uid")
			c.owners["DaemonSet/other"] = named("other", "ds-uid")
		}},
		"agent of a Deployment": {node: true, change: func(c *cluster) {
			c.pod.OwnerReferences = controller("ReplicaSet", "weft-node", "ds-uid")
		}},
		"sidecar of a namespace that is not enrolled": {sidecar: true, change: func(c *cluster) {
			c.pod.Namespace = "b"
			c.status.User.Username = "system:serviceaccount:b:cart"
		}},
		"pod without a sidecar": {sidecar: true, change: func(c *cluster) { c.pod.Spec.InitContainers = nil }},
		"sidecar of another account": {sidecar: true, change: func(c *cluster) {
			c.status.User.Username = "system:serviceaccount:a:till"
		}},
		"sidecar that runs as the proxies do": {sidecar: true, change: func(c *cluster) {
			c.pod.Spec.ServiceAccountName = "weft-proxy"
			c.status.User.Username = "system:serviceaccount:a:weft-proxy"
		}},
		"API server is away": {change: func(c *cluster) { c.err = errors.New("connection refused") }, wantUnsure: true},
		"pod cannot be read": {change: func(c *cluster) { c.lookupErr = errors.New("connection refused") }, wantUnsure: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := proxyCluster()
			if tc.node {
				c = nodeCluster()
			}
			if tc.sidecar {
				c = sidecarCluster()
			}
			if tc.change != nil {
				tc.change(c)
			}
			token := tc.token
			if token == "" {
				token = jwt(time.Hour)
			}
			got, err := authenticatorOf(c).Authenticate(t.Context(), token)
			if err == nil {
				t.Fatalf("believed to be %+v", got)
			}
			if refused := errors.Is(err, distribute.ErrUnauthenticated); refused == tc.wantUnsure {
				t.Errorf("error %q; a refusal: %v, want %v", err, refused, !tc.wantUnsure)
			}
		})
	}
}

func TestReviewIsRememberedBrieflyAndNeverBeyondTheToken(t *testing.T) {
	tests := map[string]struct {
		life, wait  time.Duration
		wantReviews int
		wantErr     bool
	}{
		"soon again":      {life: time.Hour, wait: 20 * time.Second, wantReviews: 1},
		"later":           {life: time.Hour, wait: 31 * time.Second, wantReviews: 2},
		"after its death": {life: 10 * time.Second, wait: 11 * time.Second, wantReviews: 1, wantErr: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := proxyCluster()
				a := authenticatorOf(c)
				token := jwt(tc.life)
				if _, err := a.Authenticate(t.Context(), token); err != nil {
					t.Fatal(err)
				}
				<-time.After(tc.wait)
				_, err := a.Authenticate(t.Context(), token)
				if (err != nil) != tc.wantErr || c.reviews != tc.wantReviews {
					t.Errorf("error %v after %d reviews, want an error: %v, after %d", err, c.reviews, tc.wantErr, tc.wantReviews)
				}
			})
		})
	}
}

func TestPodIsLookedUpEachTime(t *testing.T) {
	c := proxyCluster()
	a := authenticatorOf(c)
	token := jwt(time.Hour)
	if _, err := a.Authenticate(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	c.pod = nil
	if _, err := a.Authenticate(t.Context(), token); !errors.Is(err, distribute.ErrUnauthenticated) {
		t.Errorf("error %v for a pod that is gone, want a refusal", err)
	}
}

func TestRefusalIsNotRemembered(t *testing.T) {
	c := proxyCluster()
	c.status.Authenticated = false
	a := authenticatorOf(c)
	token := jwt(time.Hour)
	if _, err := a.Authenticate(t.Context(), token); err == nil {
		t.Fatal("believed")
	}
	c.status.Authenticated = true
	if _, err := a.Authenticate(t.Context(), token); err != nil {
		t.Errorf("error %v once the API server accepts the token", err)
	}
}

func TestQuestionsInFlightAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := proxyCluster()
		c.answering = make(chan struct{})
		a := authenticatorOf(c)
		var asking sync.WaitGroup
		for i := range 100 {
			token := jwt(time.Hour + time.Duration(i)*time.Second)
			asking.Go(func() {
				if _, err := a.Authenticate(t.Context(), token); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if c.reviews != 16 {
			t.Errorf("%d questions in flight, want 16", c.reviews)
		}
		close(c.answering)
		asking.Wait()
		if c.reviews != 100 {
			t.Errorf("%d questions, want 100", c.reviews)
		}
	})
}
