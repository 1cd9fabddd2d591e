package webhooks

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/json"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// askNamespace bounds how long the API server is asked for a namespace.
const askNamespace = 500 * time.Millisecond

// NewInjector returns a handler that gives pods proxies of their own where they are to have them. settings returns the
// Mesh and a namespace, config what the proxies are made from. namespace reads one from the API server: whoever makes a
// namespace, or labels it, makes its pods right after, which settings may not know of yet.
func NewInjector(
	settings func(context.Context, string) (compile.Snapshot, error), namespace func(context.Context, string) (*corev1.Namespace, error),
	config func(*meshv1alpha1.Mesh) InjectConfig, log logr.Logger,
) *Handler {
	return newHandler(log, func(ctx context.Context, request *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error) {
		if request.Operation != admissionv1.Create || request.Kind.Group != "" || request.Kind.Kind != "Pod" || request.SubResource != "" {
			return &admissionv1.AdmissionResponse{Allowed: true}, nil
		}
		s, err := settings(ctx, request.Namespace)
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, askNamespace)
		defer cancel()
		ns, err := namespace(ctx, request.Namespace)
		if err != nil { // what is known is most likely what is so
			i := slices.IndexFunc(s.Namespaces, func(ns *corev1.Namespace) bool { return ns.Name == request.Namespace })
			if i < 0 {
				return nil, fmt.Errorf("namespace %s: %w", request.Namespace, err)
			}
			ns = s.Namespaces[i]
		}
		return inject(request, ns, s, config)
	})
}

// inject answers about a pod that is being made. A pod that cannot have what its own label asks for is refused: it would
// do without what it was meant to have. What is wrong with the label of its namespace is told, since nobody could make a
// pod there otherwise.
func inject(
	request *admissionv1.AdmissionRequest, ns *corev1.Namespace, s compile.Snapshot, config func(*meshv1alpha1.Mesh) InjectConfig,
) (*admissionv1.AdmissionResponse, error) {
	allowed := &admissionv1.AdmissionResponse{Allowed: true}
	if ns.Labels[meshv1alpha1.EnabledLabel] != "true" || compile.NeverEnrolled(ns.Name, s.SystemNamespace) {
		return allowed, nil
	}
	var pod corev1.Pod
	if err := json.Unmarshal(request.Object.Raw, &pod); err != nil {
		return nil, fmt.Errorf("decode the pod: %w", err)
	}
	if !compile.Placeable(&pod) {
		return allowed, nil
	}
	placement, unknown := compile.Placement(pod.Labels, ns.Labels, s.Mesh)
	if unknown != nil {
		if _, other := compile.Placement(nil, ns.Labels, s.Mesh); other == nil {
			return refused(unknown), nil
		}
		allowed.Warnings = presentable([]string{unknown.Error()})
	}
	if placement != meshv1alpha1.PlacementSidecar {
		return allowed, nil
	}
	injected, err := Inject(&pod, config(s.Mesh))
	if err != nil {
		return refused(err), nil
	}
	if allowed.Patch, err = patch(&pod, injected); err != nil {
		return nil, err
	}
	if allowed.Patch != nil {
		allowed.PatchType = new(admissionv1.PatchTypeJSONPatch)
	}
	return allowed, nil
}

func refused(why error) *admissionv1.AdmissionResponse {
	return denied("the pod cannot have a proxy of its own: " + why.Error())
}

// operation is one of a JSON patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// patch returns what Inject has added. It touches nothing else, so that fields of pods that are not known here stay.
func patch(before, after *corev1.Pod) ([]byte, error) {
	if before == after {
		return nil, nil
	}
	var operations []operation
	add := func(path string, value any) { operations = append(operations, operation{"add", path, value}) }
	if before.Labels == nil {
		add("/metadata/labels", map[string]string{})
	}
	add("/metadata/labels/mesh.weft.dev~1sidecar", after.Labels[meshv1alpha1.SidecarLabel])
	if len(before.Spec.InitContainers) == 0 {
		add("/spec/initContainers", []corev1.Container{})
	}
	add("/spec/initContainers/0", after.Spec.InitContainers[0])
	if len(before.Spec.Volumes) == 0 {
		add("/spec/volumes", []corev1.Volume{})
	}
	for _, volume := range after.Spec.Volumes[len(before.Spec.Volumes):] {
		add("/spec/volumes/-", volume)
	}
	data, err := json.Marshal(operations)
	if err != nil {
		return nil, fmt.Errorf("encode the patch: %w", err)
	}
	return data, nil
}
