package webhooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/controllers/compile"
)

// serve starts a server that reads snapshots by a function, and returns where it is.
func serve(t *testing.T, read func(context.Context, metav1.Object) (compile.Snapshot, error)) string {
	t.Helper()
	server := httptest.NewServer(NewHandler(read, logr.Discard()))
	t.Cleanup(server.Close)
	return server.URL + "?timeout=10s"
}

// question is an AdmissionReview about a HTTPRoute in YAML.
func question(t *testing.T, object string) []byte {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(object))
	if err != nil {
		t.Fatal(err)
	}
	review := map[string]any{
		"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
		"request": map[string]any{
			"uid":       "asked",
			"namespace": "shop",
			"kind":      map[string]any{"group": "gateway.networking.k8s.io", "version": "v1", "kind": "HTTPRoute"},
			"object":    json.RawMessage(raw),
		},
	}
	body, err := json.Marshal(review)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// route is a HTTPRoute that deserves a warning.
const route = "kind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec:\n  parentRefs: [{group: '', kind: Service, name: wep}]"

// post asks and returns the status and, if that is OK, the answer.
func post(t *testing.T, url string, body []byte) (int, *admissionv1.AdmissionResponse) {
	t.Helper()
	response, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, nil
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &review); err != nil {
		t.Fatal(err)
	}
	if review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Response.UID != "asked" {
		t.Errorf("answer %s does not belong to the question", text)
	}
	return response.StatusCode, review.Response
}

func TestAnswers(t *testing.T) {
	unchecked := func(why string) []string {
		return []string{"Weft could not check the object (" + why + "): its status will say whether something is wrong with it"}
	}
	cases := map[string]struct {
		read         func(context.Context, metav1.Object) (compile.Snapshot, error)
		object       string
		wantWarnings []string
	}{
		"an object that is judged": {
			read:         func(context.Context, metav1.Object) (compile.Snapshot, error) { return readSnapshot(t, mesh), nil },
			object:       route,
			wantWarnings: []string{"Accepted=False, NoMatchingParent: Service shop/wep does not exist"},
		},
		"no snapshot": {
			read: func(context.Context, metav1.Object) (compile.Snapshot, error) {
				return compile.Snapshot{}, errors.New("no cache")
			},
			object:       route,
			wantWarnings: unchecked("no cache"),
		},
		"a panic": {
			read:         func(context.Context, metav1.Object) (compile.Snapshot, error) { panic("unforeseen") },
			object:       route,
			wantWarnings: unchecked("internal error"),
		},
		"an object of another shape": {
			object:       "spec: {rules: none}",
			wantWarnings: unchecked("decode the object: json: cannot unmarshal string into Go struct field HTTPRouteSpec.spec.rules of type []v1.HTTPRouteRule"),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			status, answer := post(t, serve(t, tc.read), question(t, tc.object))
			if status != http.StatusOK || !answer.Allowed {
				t.Fatalf("status %d, answer %+v", status, answer)
			}
			if diff := cmp.Diff(tc.wantWarnings, answer.Warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	url := serve(t, func(context.Context, metav1.Object) (compile.Snapshot, error) {
		t.Error("a snapshot was read")
		return compile.Snapshot{}, nil
	})
	large := slices.Concat(bytes.Repeat([]byte(" "), maxBody), question(t, route))
	cases := map[string]struct {
		method, contentType string
		body                []byte
		want                int
	}{
		"another method":            {http.MethodPut, "application/json", question(t, route), http.StatusMethodNotAllowed},
		"another type":              {http.MethodPost, "application/yaml", question(t, route), http.StatusUnsupportedMediaType},
		"nothing":                   {http.MethodPost, "application/json", nil, http.StatusBadRequest},
		"no JSON":                   {http.MethodPost, "application/json", []byte("{"), http.StatusBadRequest},
		"another version":           {http.MethodPost, "application/json", []byte(`{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{}}`), http.StatusBadRequest},
		"a review with no question": {http.MethodPost, "application/json", []byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), http.StatusBadRequest},
		"more than is read":         {http.MethodPost, "application/json", large, http.StatusRequestEntityTooLarge},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), tc.method, url, bytes.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", tc.contentType)
			response, err := (&http.Client{}).Do(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != tc.want {
				t.Errorf("status %d, want %d", response.StatusCode, tc.want)
			}
		})
	}
}

// TestAnswersInTime: work that does not end keeps nobody waiting, neither whom it is done for nor, while
// there are turns, anybody else.
func TestAnswersInTime(t *testing.T) {
	end := make(chan struct{})
	begun := make(chan struct{}, concurrent)
	snapshot := readSnapshot(t, mesh)
	url := serve(t, func(context.Context, metav1.Object) (compile.Snapshot, error) {
		begun <- struct{}{}
		<-end
		return snapshot, nil
	})
	hurried := strings.Replace(url, "=10s", "=10ms", 1)
	for range concurrent {
		status, answer := post(t, hurried, question(t, route))
		if status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		if !answer.Allowed || len(answer.Warnings) != 1 || !strings.Contains(answer.Warnings[0], "deadline exceeded") {
			t.Errorf("answer %+v", answer)
		}
		<-begun
	}
	if status, _ := post(t, hurried, question(t, route)); status != http.StatusServiceUnavailable {
		t.Errorf("status %d without a turn", status)
	}
	close(end)
	if status, answer := post(t, url, question(t, route)); status != http.StatusOK || len(answer.Warnings) != 1 {
		t.Errorf("status %d, answer %+v after the work has ended", status, answer)
	}
}

// TestSaysNothingAboutWhatConcernsNobody: where the configuration cannot keep API servers from asking, the
// answer is empty.
func TestSaysNothingAboutWhatConcernsNobody(t *testing.T) {
	snapshot := readSnapshot(t, mesh)
	snapshot.SystemNamespace = "weft-system"
	object := func(text string) runtime.RawExtension {
		t.Helper()
		raw, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return runtime.RawExtension{Raw: raw}
	}
	asked := func(change func(*admissionv1.AdmissionRequest)) admissionv1.AdmissionRequest {
		request := admissionv1.AdmissionRequest{
			UID: "asked", Namespace: "shop", Operation: admissionv1.Create, Object: object(route),
			Kind: metav1.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRoute"},
		}
		change(&request)
		return request
	}
	policy := "kind: MeshPolicy\nmetadata: {name: all, namespace: kube-system}\nspec: {targetRefs: [{group: '', kind: Service, name: wep}]}"
	ofPolicy := func(namespace string) func(*admissionv1.AdmissionRequest) {
		return func(r *admissionv1.AdmissionRequest) {
			r.Kind = metav1.GroupVersionKind{Group: "mesh.weft.dev", Version: "v1alpha1", Kind: "MeshPolicy"}
			r.Namespace, r.Object = namespace, object(strings.Replace(policy, "kube-system", namespace, 1))
		}
	}
	cases := map[string]struct {
		request admissionv1.AdmissionRequest
		want    bool
	}{
		"a new route": {asked(func(*admissionv1.AdmissionRequest) {}), true},
		"a changed route": {asked(func(r *admissionv1.AdmissionRequest) {
			r.Operation, r.OldObject = admissionv1.Update, object(strings.Replace(route, "wep", "web", 1))
		}), true},
		"a changed label": {asked(func(r *admissionv1.AdmissionRequest) {
			r.Operation, r.OldObject = admissionv1.Update, object(strings.Replace(route, "{name", "{labels: {a: b}, name", 1))
		}), false},
		"a route elsewhere": {asked(func(r *admissionv1.AdmissionRequest) { r.Namespace = "elsewhere" }), false},
		"the operator's own": {asked(func(r *admissionv1.AdmissionRequest) {
			r.UserInfo.Username = "system:serviceaccount:weft-system:weft-operator"
		}), false},
		"a policy elsewhere":      {asked(ofPolicy("elsewhere")), true},
		"a policy of the cluster": {asked(ofPolicy("kube-system")), false},
		"a policy of Weft's own":  {asked(ofPolicy("weft-system")), false},
	}
	url := serve(t, func(context.Context, metav1.Object) (compile.Snapshot, error) { return snapshot, nil })
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			body, err := json.Marshal(admissionv1.AdmissionReview{
				TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: &tc.request,
			})
			if err != nil {
				t.Fatal(err)
			}
			_, answer := post(t, url, body)
			if !answer.Allowed || (len(answer.Warnings) > 0) != tc.want {
				t.Errorf("answer %+v, want warnings: %v", answer, tc.want)
			}
		})
	}
}
