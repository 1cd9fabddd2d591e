package compile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// Effective returns what results for a target from the Mesh's defaults, policies and routes: every field
// that somebody has set, its value, and the object that says so. For a Service those are all fields; for
// a route or rule what the proxy applies that matches it, on top of the Services that it is attached to,
// with an entry for each of their ports when they differ. There is no entry for a target that does not
// exist or that nothing applies to.
func Effective(s Snapshot, t Target) []meshv1alpha1.EffectivePolicy {
	c := newCompiler(s, false)
	c.take(changesOf(s))
	if c.targets().refuse(&policyTarget{key: t}) != nil {
		return nil
	}
	return c.effective(t)
}

func (c *Compiler) effective(t Target) []meshv1alpha1.EffectivePolicy {
	w := c.world
	levels := []level{w.policies.mesh, w.policies.inForce[namespaceTarget(t.Namespace)]}
	switch {
	case t.isRoute():
		return c.effectiveRoute(t)
	case t.Kind == kindService:
		levels = append(levels, w.policies.inForce[t.whole()])
		if t.Section != "" {
			levels = append(levels, w.policies.inForce[t])
		}
	}
	return []meshv1alpha1.EffectivePolicy{{Target: t.String(), Fields: fieldsOf(levels)}}
}

func (c *Compiler) effectiveRoute(t Target) []meshv1alpha1.EffectivePolicy {
	u := c.units[t.whole()]
	if u == nil {
		return nil
	}
	w, r := c.world, u.route
	var own level
	var in *rule
	if i := slices.IndexFunc(r.rules, func(in rule) bool { return in.name == t.Section }); i >= 0 && t.Section != "" {
		in = &r.rules[i]
		own, _ = r.ownLevel(in)
	}
	var entries []meshv1alpha1.EffectivePolicy
	for _, p := range r.parents {
		for _, at := range p.places {
			levels := slices.Concat(cut(w.serviceLevels(at), clientParts), cut(w.routeLevels(r, p.consumer, in, own), routeParts))
			entries = append(entries, meshv1alpha1.EffectivePolicy{Target: t.String() + " at " + portOf(at), Fields: fieldsOf(levels)})
		}
	}
	for i := range entries {
		if !slices.Equal(entries[0].Fields, entries[i].Fields) {
			return entries
		}
	}
	if len(entries) > 0 {
		entries[0].Target = t.String()
		entries = entries[:1]
	}
	return entries
}

// cut returns levels with a part of what they say.
func cut(levels []level, part func(*wire.Policy) *wire.Policy) []level {
	out := slices.Clone(levels)
	for i := range out {
		out[i].policy = part(out[i].policy)
	}
	return out
}

// apiPaths are the fields that the API has in another place than the wire.
var apiPaths = map[string]string{
	"retry.backoff":            "retry.backoff.base",
	"retry.maxBackoff":         "retry.backoff.max",
	"retry.maxRetryAfter":      "retry.backoff.maxRetryAfter",
	"retry.budget.minRetries":  "retry.budget.minRetryRate.count",
	"retry.budget.minInterval": "retry.budget.minRetryRate.interval",
	"loadBalancing.hash":       "loadBalancing.consistentHash",
}

// maxValue and maxFrom bound the texts of a status, as the API does.
const (
	maxValue = 1024
	maxFrom  = 512
)

// fieldsOf lists what levels say together, in the order of the fields.
func fieldsOf(levels []level) []meshv1alpha1.EffectiveField {
	says := make(map[string]level)
	for _, l := range levels {
		for _, f := range l.policy.Fields() {
			says[f.Path] = l
		}
	}
	var fields []meshv1alpha1.EffectiveField
	for _, f := range merge(levels).Fields() {
		l, path := says[f.Path], f.Path
		if moved, ok := apiPaths[path]; ok {
			path = moved
		}
		fields = append(fields, meshv1alpha1.EffectiveField{
			Field: path, Value: shorten(l.value(f), maxValue), From: shorten(l.origin, maxFrom),
		})
	}
	return fields
}

// value writes the value of a field that the level sets. What is inherited whole is shown as the API has
// it.
func (l level) value(f wire.PolicyField) string {
	switch f.Path {
	case "loadBalancing.hash":
		return toJSON(l.said.LoadBalancing.ConsistentHash)
	case "healthCheck":
		return toJSON(l.said.HealthCheck)
	case "rateLimits":
		return toJSON(l.said.RateLimits)
	case "fault":
		return toJSON(l.said.Fault)
	case "sessionPersistence":
		return toJSON(l.said.SessionPersistence)
	case "mtls.allowFrom":
		return toJSON(l.said.MTLS.AllowFrom)
	case "telemetry.tracing.samplingRate":
		return toJSON(l.said.Telemetry.Tracing.SamplingRate)
	case "telemetry.accessLog":
		return toJSON(l.said.Telemetry.AccessLog)
	}
	if d, ok := f.Value.(wire.Duration); ok {
		return formatDuration(time.Duration(d))
	}
	if reflect.TypeOf(f.Value).Kind() == reflect.Slice {
		return toJSON(f.Value)
	}
	return fmt.Sprint(f.Value)
}

// formatDuration writes a duration in the form of GEP-2257, which has no fractions.
func formatDuration(d time.Duration) string {
	var text strings.Builder
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / unit.size; n > 0 {
			text.WriteString(strconv.FormatInt(int64(n), 10) + unit.name)
			d %= unit.size
		}
	}
	if text.Len() == 0 {
		return "0s"
	}
	return text.String()
}

// toJSON writes a part of the API, all of which can be marshalled.
func toJSON(v any) string {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(fmt.Sprintf("compile: %T does not marshal: %v", v, err))
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const mark = " ..."
	return strings.ToValidUTF8(text[:limit-len(mark)], "") + mark
}
