package webhooks

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/controllers/compile"
)

// FuzzReview sends whatever there is in place of a review. It is refused, or answered.
func FuzzReview(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"a","namespace":"shop","kind":{"group":"gateway.networking.k8s.io","version":"v1","kind":"HTTPRoute"},"object":{"spec":{"parentRefs":[{"group":"","kind":"Service","name":"web"}]}}}}`))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"a","kind":{"group":"mesh.weft.dev","version":"v1alpha1","kind":"MeshAuthorization"},"object":{"spec":{"rules":[{"from":[{}]}]}}}}`))
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`))
	f.Add([]byte(`[[[[`))
	handler := NewHandler(func(context.Context, metav1.Object) (compile.Snapshot, error) { return compile.Snapshot{}, nil }, logr.Discard())
	f.Fuzz(func(t *testing.T, body []byte) {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		var review admissionv1.AdmissionReview
		switch {
		case recorder.Code == http.StatusOK:
			if err := json.Unmarshal(recorder.Body.Bytes(), &review); err != nil || review.Response == nil {
				t.Errorf("answered %q: %v", recorder.Body, err)
			}
		case recorder.Code < 400 || recorder.Code >= 500:
			t.Errorf("answered %d", recorder.Code)
		}
	})
}
