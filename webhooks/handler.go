package webhooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

const (
	// maxBody is the longest question that is read: etcd keeps objects of 1.5 MiB, and an update brings two.
	maxBody = 3 << 20
	// concurrent bounds the questions that are read and answered at a time; others wait for their turn.
	concurrent = 16
	// defaultTimeout is how long a client waits that does not say.
	defaultTimeout = 2 * time.Second
	// maxTimeout is how long nobody needs to wait.
	maxTimeout = 10 * time.Second
)

// Handler answers AdmissionReviews. What it cannot judge in time it lets pass, with a warning.
type Handler struct {
	Log logr.Logger

	judge func(context.Context, *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error)
	turns chan struct{}
}

// NewHandler returns a handler that validates what is stored. read returns everything that an object is judged by, which
// is not changed.
func NewHandler(read func(context.Context, metav1.Object) (compile.Snapshot, error), log logr.Logger) *Handler {
	return newHandler(log, func(ctx context.Context, request *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error) {
		return validate(ctx, request, read)
	})
}

func newHandler(log logr.Logger, judge func(context.Context, *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error)) *Handler {
	return &Handler{Log: log, judge: judge, turns: make(chan struct{}, concurrent)}
}

// ServeHTTP answers one AdmissionReview.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), budget(r))
	defer cancel()
	select {
	case h.turns <- struct{}{}:
	case <-ctx.Done():
		http.Error(w, "too many requests are under way", http.StatusServiceUnavailable)
		return
	}
	request, err := read(ctx, w, r)
	if err != nil {
		<-h.turns
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	answered := make(chan *admissionv1.AdmissionResponse, 1)
	go func() {
		defer func() { <-h.turns }()
		answered <- h.answer(ctx, request)
	}()
	var response *admissionv1.AdmissionResponse
	select {
	case response = <-answered:
	case <-ctx.Done():
		// The work goes on to its end, and keeps its turn.
		response = h.pass(request, ctx.Err())
	}
	response.UID = request.UID
	review := admissionv1.AdmissionReview{Response: response}
	review.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("AdmissionReview"))
	w.Header().Set("Content-Type", "application/json")
	body, err := json.Marshal(review)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := w.Write(body); err != nil {
		h.Log.V(1).Info("the client did not wait for the answer", "reason", err.Error())
	}
}

// budget is how long an answer may take: the API server says how long it waits, and some of that is spent on
// the way.
func budget(r *http.Request) time.Duration {
	timeout, err := time.ParseDuration(r.URL.Query().Get("timeout"))
	if err != nil || timeout <= 0 {
		timeout = defaultTimeout
	}
	return min(timeout, maxTimeout) * 3 / 4
}

// clientError is what is wrong with a request as a whole.
type clientError struct {
	status int
	why    string
}

func (e *clientError) Error() string { return e.why }

func statusOf(err error) int {
	var client *clientError
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &client):
		return client.status
	case errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	default:
		return http.StatusBadRequest
	}
}

// read reads the question until ctx ends.
func read(ctx context.Context, w http.ResponseWriter, r *http.Request) (*admissionv1.AdmissionRequest, error) {
	if r.Method != http.MethodPost {
		return nil, &clientError{http.StatusMethodNotAllowed, "a review is posted"}
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, &clientError{http.StatusUnsupportedMediaType, "a review is application/json"}
	}
	deadline, _ := ctx.Deadline()
	if err := http.NewResponseController(w).SetReadDeadline(deadline); err != nil {
		return nil, fmt.Errorf("bound the time to read: %w", err)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, fmt.Errorf("read the review: %w", err)
	}
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, fmt.Errorf("decode the review: %w", err)
	}
	if review.APIVersion != admissionv1.SchemeGroupVersion.String() || review.Kind != "AdmissionReview" || review.Request == nil {
		return nil, &clientError{http.StatusBadRequest, "not a request of " + admissionv1.SchemeGroupVersion.String() + " AdmissionReview"}
	}
	return review.Request, nil
}

// answer judges the object of a request. A panic does not leave it: an object that makes one must not end
// the operator, whose work does not depend on admission.
func (h *Handler) answer(ctx context.Context, request *admissionv1.AdmissionRequest) (response *admissionv1.AdmissionResponse) {
	defer func() {
		if p := recover(); p != nil {
			h.Log.Error(nil, "panic", "value", fmt.Sprint(p), "stack", string(debug.Stack()))
			response = h.pass(request, errors.New("internal error"))
		}
	}()
	response, err := h.judge(ctx, request)
	if err != nil {
		return h.pass(request, err)
	}
	return response
}

// validate answers about an object of the mesh or a route.
func validate(
	ctx context.Context, request *admissionv1.AdmissionRequest, read func(context.Context, metav1.Object) (compile.Snapshot, error),
) (*admissionv1.AdmissionResponse, error) {
	allowed := &admissionv1.AdmissionResponse{Allowed: true}
	if !changes(request) {
		return allowed, nil
	}
	object, err := decode(request)
	if err != nil || object == nil {
		return allowed, err
	}
	snapshot, err := read(ctx, object)
	if err != nil {
		return nil, err
	}
	if !concerns(request, snapshot) {
		return allowed, nil
	}
	errs, warnings := Validate(object, snapshot)
	response := &admissionv1.AdmissionResponse{Allowed: len(errs) == 0, Warnings: warnings}
	if len(errs) > 0 {
		kind := schema.GroupKind{Group: request.Kind.Group, Kind: request.Kind.Kind}
		status := apierrors.NewInvalid(kind, object.GetName(), errs).Status()
		response.Result = &status
	}
	return response, nil
}

// denied refuses an object for a reason.
func denied(why string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: why,
	}}
}

// pass lets an object pass that cannot be judged.
func (h *Handler) pass(request *admissionv1.AdmissionRequest, reason error) *admissionv1.AdmissionResponse {
	h.Log.Info("an object passes unchecked", "kind", request.Kind.Kind, "namespace", request.Namespace, "name", request.Name, "reason", reason.Error())
	return &admissionv1.AdmissionResponse{
		Allowed:  true,
		Warnings: presentable([]string{"Weft could not check the object (" + reason.Error() + "): its status will say whether something is wrong with it"}),
	}
}

// decode returns the object that will be stored, or nil when it is of a kind that is not judged.
func decode(request *admissionv1.AdmissionRequest) (metav1.Object, error) {
	var object metav1.Object
	switch (schema.GroupKind{Group: request.Kind.Group, Kind: request.Kind.Kind}) {
	case schema.GroupKind{Group: meshv1alpha1.GroupName, Kind: "Mesh"}:
		object = &meshv1alpha1.Mesh{}
	case schema.GroupKind{Group: meshv1alpha1.GroupName, Kind: "MeshPolicy"}:
		object = &meshv1alpha1.MeshPolicy{}
	case schema.GroupKind{Group: meshv1alpha1.GroupName, Kind: "MeshAuthorization"}:
		object = &meshv1alpha1.MeshAuthorization{}
	case schema.GroupKind{Group: gwv1.GroupName, Kind: "HTTPRoute"}:
		object = &gwv1.HTTPRoute{}
	case schema.GroupKind{Group: gwv1.GroupName, Kind: "GRPCRoute"}:
		object = &gwv1.GRPCRoute{}
	default:
		return nil, nil
	}
	if err := json.Unmarshal(request.Object.Raw, object); err != nil {
		return nil, fmt.Errorf("decode the object: %w", err)
	}
	return object, nil
}

var _ http.Handler = (*Handler)(nil)
