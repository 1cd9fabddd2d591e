package gitops_test

import (
	"fmt"
	"os"
	"testing"

	lua "github.com/yuin/gopher-lua"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kstatus "sigs.k8s.io/cli-utils/pkg/kstatus/status"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/status"
)

const generation = 3

func condition(kind string, is metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: is, Reason: reason, Message: "because", ObservedGeneration: generation}
}

var (
	accepted    = condition("Accepted", metav1.ConditionTrue, "Accepted")
	refused     = condition("Accepted", metav1.ConditionFalse, "Invalid")
	programmed  = condition(status.ConditionProgrammed, metav1.ConditionTrue, status.ReasonProgrammed)
	pending     = condition(status.ConditionProgrammed, metav1.ConditionFalse, status.ReasonPending)
	notAccepted = condition(status.ConditionProgrammed, metav1.ConditionFalse, status.ReasonNotAccepted)
	resolved    = condition("ResolvedRefs", metav1.ConditionTrue, "ResolvedRefs")
	unresolved  = condition("ResolvedRefs", metav1.ConditionFalse, "BackendNotFound")
	partly      = condition("PartiallyInvalid", metav1.ConditionTrue, "UnsupportedValue")
	enforced    = condition("Enforced", metav1.ConditionTrue, "Enforced")
	bypassable  = condition("Enforced", metav1.ConditionFalse, "Bypassable")
	conflicted  = condition("Accepted", metav1.ConditionFalse, "Conflicted")
	notFound    = condition("Accepted", metav1.ConditionFalse, "TargetNotFound")
	ready       = condition("Ready", metav1.ConditionTrue, "Ready")
	notReady    = condition("Ready", metav1.ConditionFalse, "NotProven")
	stalled     = condition("Stalled", metav1.ConditionTrue, "Invalid")
	reconciling = condition("Reconciling", metav1.ConditionTrue, "NotProven")
	rotating    = condition("RootRotating", metav1.ConditionTrue, "DistributingTrust")
	outdated    = condition("GatewayAPIInstalled", metav1.ConditionFalse, "Outdated")
)

func meta() metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: "default", Namespace: "shop", Generation: generation}
}

// observed are the conditions of a status and the generation that it is about.
type observed struct {
	generation int64
	conditions []metav1.Condition
}

// now is a status about the object as it is.
func now(conditions ...metav1.Condition) observed { return observed{generation, conditions} }

// before is a status about the object as it was before the last change.
func before(conditions ...metav1.Condition) observed {
	for i := range conditions {
		conditions[i].ObservedGeneration--
	}
	return observed{generation - 1, conditions}
}

// never is the status that the CustomResourceDefinition gives to a new object.
var never = observed{generation: -1}

func mesh(o observed) runtime.Object {
	return &meshv1alpha1.Mesh{ObjectMeta: meta(), Status: meshv1alpha1.MeshStatus{ObservedGeneration: o.generation, Conditions: o.conditions}}
}

func policy(o observed) runtime.Object {
	return &meshv1alpha1.MeshPolicy{ObjectMeta: meta(), Status: meshv1alpha1.MeshPolicyStatus{ObservedGeneration: o.generation, Conditions: o.conditions}}
}

func authorization(o observed) runtime.Object {
	return &meshv1alpha1.MeshAuthorization{
		ObjectMeta: meta(), Status: meshv1alpha1.MeshAuthorizationStatus{ObservedGeneration: o.generation, Conditions: o.conditions},
	}
}

func routeStatus(conditions []metav1.Condition) gwv1.RouteStatus {
	return gwv1.RouteStatus{Parents: []gwv1.RouteParentStatus{{ControllerName: meshv1alpha1.ControllerName, Conditions: conditions}}}
}

func httpRoute(conditions ...metav1.Condition) runtime.Object {
	return &gwv1.HTTPRoute{ObjectMeta: meta(), Status: gwv1.HTTPRouteStatus{RouteStatus: routeStatus(conditions)}}
}

func grpcRoute(conditions ...metav1.Condition) runtime.Object {
	return &gwv1.GRPCRoute{ObjectMeta: meta(), Status: gwv1.GRPCRouteStatus{RouteStatus: routeStatus(conditions)}}
}

// TestHealth: whoever waits for a Mesh or a policy waits until it is in force, and gives up only when somebody has to
// edit something. Of routes kstatus sees no conditions (it knows Ready, Reconciling and Stalled), so that whoever waits
// by it does not wait for proxies; Argo CD judges routes by a script of its own.
func TestHealth(t *testing.T) {
	cases := map[string]struct {
		kind   string
		object runtime.Object
		// argo is empty for kinds that the snippet is not for.
		argo    string
		kstatus kstatus.Status
	}{
		"a new Mesh":                        {"Mesh", mesh(never), "Progressing", kstatus.InProgressStatus},
		"a Mesh that is ready":              {"Mesh", mesh(now(ready)), "Healthy", kstatus.CurrentStatus},
		"a Mesh that is not":                {"Mesh", mesh(now(notReady, reconciling)), "Progressing", kstatus.InProgressStatus},
		"a Mesh that has been changed":      {"Mesh", mesh(before(ready)), "Progressing", kstatus.InProgressStatus},
		"a Mesh of which a part is invalid": {"Mesh", mesh(now(ready, stalled)), "Degraded", kstatus.FailedStatus},
		"a root that is being exchanged":    {"Mesh", mesh(now(ready, rotating)), "Healthy", kstatus.CurrentStatus},
		"an old Gateway API":                {"Mesh", mesh(now(ready, outdated)), "Healthy", kstatus.CurrentStatus},
		"a new policy":                      {"MeshPolicy", policy(never), "Progressing", kstatus.InProgressStatus},
		"a policy in force":                 {"MeshPolicy", policy(now(accepted, programmed, ready)), "Healthy", kstatus.CurrentStatus},
		"a policy on its way":               {"MeshPolicy", policy(now(accepted, pending, notReady, reconciling)), "Progressing", kstatus.InProgressStatus},
		"a policy for what is not there":    {"MeshPolicy", policy(now(notFound, notAccepted, notReady, reconciling)), "Progressing", kstatus.InProgressStatus},
		"a policy refused":                  {"MeshPolicy", policy(now(refused, notAccepted, notReady, stalled)), "Degraded", kstatus.FailedStatus},
		"a policy in conflict":              {"MeshPolicy", policy(now(conflicted, notAccepted, notReady, stalled)), "Degraded", kstatus.FailedStatus},
		"a policy that has been changed":    {"MeshPolicy", policy(before(refused, notAccepted, notReady, stalled)), "Progressing", kstatus.InProgressStatus},
		"who may call, enforced":            {"MeshAuthorization", authorization(now(accepted, programmed, ready, enforced)), "Healthy", kstatus.CurrentStatus},
		"who may call, bypassable":          {"MeshAuthorization", authorization(now(accepted, programmed, ready, bypassable)), "Healthy", kstatus.CurrentStatus},
		"who may call, refused":             {"MeshAuthorization", authorization(now(refused, notAccepted, notReady, stalled)), "Degraded", kstatus.FailedStatus},
		"a new HTTPRoute":                   {"HTTPRoute", httpRoute(), "", kstatus.CurrentStatus},
		"an HTTPRoute in force":             {"HTTPRoute", httpRoute(accepted, resolved, programmed), "", kstatus.CurrentStatus},
		"an HTTPRoute on its way":           {"HTTPRoute", httpRoute(accepted, resolved, pending), "", kstatus.CurrentStatus},
		"an HTTPRoute in part":              {"HTTPRoute", httpRoute(accepted, partly, resolved, programmed), "", kstatus.CurrentStatus},
		"an HTTPRoute without backend":      {"HTTPRoute", httpRoute(accepted, unresolved, programmed), "", kstatus.CurrentStatus},
		"an HTTPRoute refused":              {"HTTPRoute", httpRoute(refused, resolved, notAccepted), "", kstatus.CurrentStatus},
		"a GRPCRoute in force":              {"GRPCRoute", grpcRoute(accepted, resolved, programmed), "", kstatus.CurrentStatus},
		"a GRPCRoute refused":               {"GRPCRoute", grpcRoute(refused, unresolved, notAccepted), "", kstatus.CurrentStatus},
	}
	scripts := snippets(t)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(tc.object)
			if err != nil {
				t.Fatal(err)
			}
			u := &unstructured.Unstructured{Object: content}
			u.SetAPIVersion("mesh.weft.dev/v1alpha1")
			if tc.argo == "" {
				u.SetAPIVersion("gateway.networking.k8s.io/v1")
			}
			u.SetKind(tc.kind)
			result, err := kstatus.Compute(u)
			if err != nil || result.Status != tc.kstatus {
				t.Errorf("kstatus: %+v, want %s (error %v)", result, tc.kstatus, err)
			}
			if tc.argo == "" {
				return
			}
			if got := judge(t, scripts["resource.customizations.health.mesh.weft.dev_"+tc.kind], u.Object); got != tc.argo {
				t.Errorf("Argo CD: %s, want %s", got, tc.argo)
			}
		})
	}
}

func snippets(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("../../examples/argocd/argocd-cm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var patch struct {
		Data map[string]string `json:"data"`
	}
	if err := yaml.UnmarshalStrict(data, &patch); err != nil {
		t.Fatal(err)
	}
	return patch.Data
}

// judge runs a script as Argo CD does: the object is the global obj, and the result a table with status and message.
func judge(t *testing.T, script string, object map[string]any) string {
	t.Helper()
	state := lua.NewState()
	defer state.Close()
	state.SetGlobal("obj", toLua(state, object))
	if err := state.DoString(script); err != nil {
		t.Fatal(err)
	}
	health, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		t.Fatalf("the script returns %s", state.Get(-1).Type())
	}
	if health.RawGetString("message").String() == "nil" {
		t.Error("there is no message")
	}
	return health.RawGetString("status").String()
}

func toLua(state *lua.LState, value any) lua.LValue {
	switch v := value.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, element := range v {
			table.RawSetString(key, toLua(state, element))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, element := range v {
			table.Append(toLua(state, element))
		}
		return table
	case int64:
		return lua.LNumber(v)
	case bool:
		return lua.LBool(v)
	case nil:
		return lua.LNil
	default:
		return lua.LString(fmt.Sprint(v))
	}
}
