package webhooks

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/json"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
)

// The configuration in config/webhook says by selectors and conditions what nobody is to be asked about. Who
// installs by other means may have neither: the Operator Lifecycle Manager knows only rules. So the same is
// decided here once more.

// changes tells whether a request changes what an object specifies, by other hands than the operator's.
func changes(request *admissionv1.AdmissionRequest) bool {
	if strings.HasSuffix(request.UserInfo.Username, ":weft-operator") {
		return false
	}
	if request.Operation != admissionv1.Update {
		return true
	}
	after, err := specOf(request.Object.Raw)
	if err != nil {
		return true // decode says why
	}
	before, err := specOf(request.OldObject.Raw)
	return err != nil || !equality.Semantic.DeepEqual(before, after)
}

// specOf returns the spec of an object in JSON.
func specOf(raw []byte) (any, error) {
	var object struct {
		Spec any `json:"spec"`
	}
	err := json.Unmarshal(raw, &object)
	return object.Spec, err
}

// concerns tells whether a request is about the mesh: of policies all but those in namespaces that are never
// part of one, of routes those in enrolled namespaces.
func concerns(request *admissionv1.AdmissionRequest, s compile.Snapshot) bool {
	if request.Namespace == "" {
		return true
	}
	if compile.NeverEnrolled(request.Namespace, s.SystemNamespace) {
		return false
	}
	return request.Kind.Group != gwv1.GroupName || slices.ContainsFunc(s.Namespaces, func(ns *corev1.Namespace) bool {
		return ns.Name == request.Namespace && ns.Labels[meshv1alpha1.EnabledLabel] == "true"
	})
}
