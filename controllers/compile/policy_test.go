package compile_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/wire"
)

// full are policies that set every field between them, each with a value that is not its default.
var full = []string{`
timeouts: {request: 1m, backendRequest: 30s, connect: 500ms, idle: 1h, stream: 2h}
retry:
  attempts: 3
  codes: [503]
  grpcCodes: [UNAVAILABLE]
  methods: All
  connectFailures: 5
  backoff: {base: 5ms, max: 500ms, maxRetryAfter: 3s}
  budget: {percent: 30, interval: 20s, minRetryRate: {count: 7, interval: 2s}}
loadBalancing: {algorithm: ConsistentHash, consistentHash: {type: Header, name: user}, slowStart: 1m}
outlierEjection:
  consecutiveFailures: 7
  successRatePercent: 80
  latencyFactor: 3
  interval: 5s
  minRequests: 50
  ejectionTime: 1s
  maxEjectionTime: 1m
  maxEjectedPercent: 20
  panicPercent: 40
healthCheck: {type: GRPC, service: shop.Cart, port: 9090, interval: 2s, timeout: 500ms, unhealthyThreshold: 4, healthyThreshold: 2}
circuitBreaking:
  maxConnections: 100
  maxRequests: 200
  maxPendingRequests: 50
  pendingTimeout: 2s
  perEndpoint: {maxConnections: 10, maxRequests: 20}
rateLimits: [{requests: 5, interval: 2s, burst: 6, keys: [{type: Header, name: user}]}]
fault:
  headers: [{name: test, value: slow, type: RegularExpression}]
  delay: {duration: 1s, percent: 50}
  abort: {status: 418, grpcStatus: ABORTED, percent: 5}
sessionPersistence: {absoluteTimeout: 24h, cookie: {name: sticky, path: /app, lifetimeType: Permanent}}
mtls: {mode: Strict, allowFrom: {cidrs: [10.0.0.0/8], serviceAccounts: [{namespace: monitoring, name: prometheus}]}}
telemetry:
  tracing: {samplingRate: {numerator: 1, denominator: 1000}, parentBasedSampling: Disabled}
  accessLog: {rules: [{minStatus: 500, minDuration: 1s, reasons: [no_endpoints], samplingRate: {numerator: 1, denominator: 2}}]}
`, `
healthCheck: {type: HTTP, path: /ready}
sessionPersistence: {type: Header, header: {name: session}}
`}

// sent is what proxies and node agents receive of a policy for a Service, in its own form.
func sent(t *testing.T, policy map[string]any) string {
	t.Helper()
	object := map[string]any{
		"metadata": map[string]any{"namespace": "demo", "name": "policy"},
		"spec":     policy,
	}
	policy["targetRefs"] = []any{map[string]any{"group": "", "kind": "Service", "name": "echo"}}
	data, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	read := &meshv1alpha1.MeshPolicy{}
	if err := yaml.UnmarshalStrict(data, read); err != nil {
		t.Fatal(err)
	}
	snapshot := simple("echo")
	snapshot.MeshPolicies = []*meshv1alpha1.MeshPolicy{read}
	result := compile.Compile(snapshot)
	exposures, err := json.Marshal(result.Exposures)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{string(exposures)}
	for _, r := range result.Resources {
		if r.Kind == wire.KindDestination || r.Kind == wire.KindBackend {
			out = append(out, r.String()+" "+r.Version)
		}
	}
	return strings.Join(out, " ")
}

// TestEveryFieldOfAPolicyReachesProxies takes one field after the other out of policies that have all of
// them: proxies must be told, or the policy must be refused without it. A field that is added to the API
// makes this fail until it is in one of the policies, and then until it is compiled.
func TestEveryFieldOfAPolicyReachesProxies(t *testing.T) {
	missing := map[string]bool{}
	for _, field := range fieldsOf("", reflect.TypeFor[meshv1alpha1.TrafficPolicy]()) {
		missing[strings.TrimPrefix(field, ".")] = true
	}
	for _, text := range full {
		parse := func() map[string]any {
			var policy map[string]any
			if err := yaml.Unmarshal([]byte(text), &policy); err != nil {
				t.Fatal(err)
			}
			return policy
		}
		whole := sent(t, parse())
		for _, field := range leaves("", parse()) {
			delete(missing, field)
			without := parse()
			remove(without, strings.Split(field, "."))
			if sent(t, without) == whole {
				t.Errorf("it makes no difference to proxies whether %s is set", field)
			}
		}
	}
	for field := range missing {
		t.Errorf("no policy of this test sets %s", field)
	}
}

// leaves lists what is set in the notation of fieldsOf; of a list the first item counts.
func leaves(path string, of any) []string {
	var found []string
	switch v := of.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			found = append(found, leaves(strings.TrimPrefix(path+"."+name, "."), v[name])...)
		}
	case []any:
		found = leaves(path+"[]", v[0])
	default:
		found = []string{path}
	}
	return found
}

func remove(from map[string]any, path []string) {
	name, list := strings.CutSuffix(path[0], "[]")
	switch {
	case len(path) == 1:
		delete(from, name)
	case list:
		remove(from[name].([]any)[0].(map[string]any), path[1:])
	default:
		remove(from[name].(map[string]any), path[1:])
	}
}

// TestEffectiveIsWhatProxiesReceive holds the effective policy of every Service port in the golden cases
// against the resources of that port: as many fields, under names of the API, with the same durations.
func TestEffectiveIsWhatProxiesReceive(t *testing.T) {
	known := fieldsOf("", reflect.TypeFor[meshv1alpha1.TrafficPolicy]())
	ports := 0
	for name, snapshot := range goldenSnapshots(t) {
		policies := map[string][]wire.PolicyField{}
		result := compile.Compile(snapshot)
		for _, r := range result.Resources {
			if r.Destination != nil {
				policies[r.Key] = append(policies[r.Key], r.Destination.Policy.Fields()...)
			}
			if r.Backend != nil {
				for _, f := range r.Backend.Policy.Fields() {
					if f.Path != "telemetry.accessLog" { // the Destination has it as well
						policies[r.Key] = append(policies[r.Key], f)
					}
				}
			}
		}
		for _, svc := range snapshot.Services {
			for i := range svc.Spec.Ports {
				port := &svc.Spec.Ports[i]
				target := compile.Target{Kind: "Service", Namespace: svc.Namespace, Name: svc.Name, Section: port.Name}
				effective := compile.Effective(snapshot, target)
				if len(effective) == 0 {
					continue
				}
				ports++
				for _, e := range result.Exposures {
					if e.Key() == wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port.Port)) {
						policies[e.Key()] = append(policies[e.Key()], mtlsFields(e, effective[0])...)
					}
				}
				want := durations(policies[wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port.Port))])
				got := map[time.Duration]int{}
				for _, f := range effective[0].Fields {
					if !slices.ContainsFunc(known, func(path string) bool { return strings.HasPrefix(path, "."+f.Field) }) {
						t.Errorf("%s: the API has no field %s", name, f.Field)
					}
					if d, err := time.ParseDuration(f.Value); err == nil && f.Value != "0" {
						got[d]++
					} else {
						got[-1]++
					}
				}
				if !maps.Equal(got, want) {
					t.Errorf("%s: %+v: proxies have %v, the effective policy %v", name, target, want, got)
				}
			}
		}
	}
	if ports < 100 {
		t.Errorf("only %d ports were looked at", ports)
	}
}

// mtlsFields are the fields of mtls that an effective policy must have beside those that proxies receive, since
// they make an exposure what it is. Ports that are not strict show nothing of it, so there they are believed.
func mtlsFields(e compile.Exposure, effective meshv1alpha1.EffectivePolicy) []wire.PolicyField {
	var fields []wire.PolicyField
	for _, f := range effective.Fields {
		if f.Field == "mtls.mode" && (f.Value == "Strict") == slices.ContainsFunc(e.By, func(by string) bool { return by == f.From }) ||
			f.Field == "mtls.allowFrom" {
			fields = append(fields, wire.PolicyField{Path: f.Field, Value: f.Value})
		}
	}
	return fields
}

// durations counts fields by their duration; those that are none have -1.
func durations(fields []wire.PolicyField) map[time.Duration]int {
	counts := map[time.Duration]int{}
	for _, f := range fields {
		if d, ok := f.Value.(wire.Duration); ok {
			counts[time.Duration(d)]++
		} else {
			counts[-1]++
		}
	}
	return counts
}

// However many targets a policy has and however long their names are, its status stays within what the API
// takes.
func TestManyTargets(t *testing.T) {
	snapshot := simple("echo")
	policy := &meshv1alpha1.MeshPolicy{}
	policy.Namespace, policy.Name = "demo", "policy"
	for i := range 16 {
		name := strings.Repeat("long-", 40) + string(rune('a'+i))
		route := routeTo("echo", "echo")
		route.Name = name
		snapshot.HTTPRoutes = append(snapshot.HTTPRoutes, route)
		policy.Spec.TargetRefs = append(policy.Spec.TargetRefs, gwv1.LocalPolicyTargetReferenceWithSectionName{
			LocalPolicyTargetReference: gwv1.LocalPolicyTargetReference{
				Group: gwv1.GroupName, Kind: "HTTPRoute", Name: gwv1.ObjectName(name),
			},
		})
	}
	for range 8 {
		limit := meshv1alpha1.RateLimit{Requests: 1}
		for range 4 {
			limit.Keys = append(limit.Keys, meshv1alpha1.RateLimitKey{Type: "Header", Name: strings.Repeat("x", 256)})
		}
		policy.Spec.RateLimits = append(policy.Spec.RateLimits, limit)
	}
	snapshot.MeshPolicies = []*meshv1alpha1.MeshPolicy{policy}
	result := compile.Compile(snapshot)
	checkResult(t, result)
	if got := result.Policies[0]; !strings.HasSuffix(got.Target, " and 12 more") || len(got.Targets) != 16 {
		t.Errorf("the target is %q with %d entries", got.Target, len(got.Targets))
	}
}

func TestEffectiveOfWhatDoesNotExist(t *testing.T) {
	snapshot := simple("echo")
	snapshot.HTTPRoutes = []*gwv1.HTTPRoute{routeTo("echo", "echo")}
	for _, target := range []compile.Target{
		{Kind: "Service", Namespace: "demo", Name: "missing"},
		{Kind: "Service", Namespace: "demo", Name: "echo", Section: "missing"},
		{Kind: "HTTPRoute", Namespace: "demo", Name: "echo", Section: "missing"},
		{Kind: "GRPCRoute", Namespace: "demo", Name: "echo"},
		{Kind: "Namespace", Namespace: "missing"},
		{Kind: "Pod", Namespace: "demo", Name: "echo"},
		{},
	} {
		if got := compile.Effective(snapshot, target); got != nil {
			t.Errorf("%+v has the effective policy %v", target, got)
		}
	}
	for _, target := range []compile.Target{
		{Kind: "Service", Namespace: "demo", Name: "echo"},
		{Kind: "HTTPRoute", Namespace: "demo", Name: "echo"},
		{Kind: "Namespace", Namespace: "demo"},
	} {
		if got := compile.Effective(snapshot, target); len(got) != 1 || got[0].Fields != nil {
			t.Errorf("%+v has the effective policy %v, though nobody says anything", target, got)
		}
	}
}

// An access log can be asked for each reason that a proxy may have to refuse or fail a request, and for no other.
func TestReasonsOfTheAPIAreThoseOfProxies(t *testing.T) {
	want := map[meshv1alpha1.Reason]bool{}
	for _, entry := range reason.All() {
		if entry.Text != "" { // without one it is no failure
			want[meshv1alpha1.Reason(entry.Reason)] = true
		}
	}
	got := map[meshv1alpha1.Reason]bool{}
	for _, why := range meshv1alpha1.Reasons {
		got[why] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("the API knows %v, proxies %v", got, want)
	}
	known, err := schemas()
	if err != nil {
		t.Fatal(err)
	}
	items := known["MeshPolicy"].Properties["spec"].Properties["telemetry"].Properties["accessLog"].Properties["rules"].
		Items.Schema.Properties["reasons"].Items.Schema
	if len(items.Enum) != len(want) {
		t.Errorf("the schema knows %d reasons, proxies %d", len(items.Enum), len(want))
	}
	for _, why := range items.Enum {
		if name, _ := why.(string); !want[meshv1alpha1.Reason(name)] {
			t.Errorf("the schema knows %v, which no proxy has", why)
		}
	}
}
