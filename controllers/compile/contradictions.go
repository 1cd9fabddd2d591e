package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// contradiction is a pair of fields that do not go together. Within one object the schema refuses most of
// them; between levels only what results can tell.
type contradiction struct {
	field, other string
	// between tells whether two values contradict each other.
	between func(field, other string) bool
	says    string
}

var contradictions = []contradiction{
	{"timeouts.backendRequest", "timeouts.request", longer, "is longer than"},
	{"timeouts.connect", "timeouts.backendRequest", longer, "is longer than"},
	{"timeouts.connect", "timeouts.request", longer, "is longer than"},
	{"circuitBreaking.pendingTimeout", "timeouts.request", longer, "is longer than"},
	{"retry.backoff.base", "retry.backoff.max", longer, "is longer than"},
	{"outlierEjection.ejectionTime", "outlierEjection.maxEjectionTime", longer, "is longer than"},
	{"loadBalancing.consistentHash", "loadBalancing.algorithm", notHashed, "has no effect with"},
	{"retry.attempts", "retry.budget.percent", nothingOf, "has no effect beyond retry.budget.minRetryRate with"},
}

// longer compares durations; zero is no bound.
func longer(field, other string) bool {
	a, errA := time.ParseDuration(field)
	b, errB := time.ParseDuration(other)
	return errA == nil && errB == nil && b > 0 && a > b
}

func notHashed(_, algorithm string) bool { return algorithm != string(wire.ConsistentHash) }

func nothingOf(field, percent string) bool {
	n, err := strconv.Atoi(field)
	return err == nil && n > 0 && percent == "0"
}

// byDefault are the values in force where nobody says anything. A bound that nobody has set contradicts
// nothing.
var byDefault = func() map[string]string {
	d := wire.DefaultPolicy()
	text := func(d *wire.Duration) string { return strings.Replace(time.Duration(*d).String(), "m0s", "m", 1) }
	return map[string]string{
		"retry.backoff.base":              text(d.Retry.Backoff),
		"retry.backoff.max":               text(d.Retry.MaxBackoff),
		"outlierEjection.ejectionTime":    text(d.OutlierEjection.EjectionTime),
		"outlierEjection.maxEjectionTime": text(d.OutlierEjection.MaxEjectionTime),
		"loadBalancing.algorithm":         string(*d.LoadBalancing.Algorithm),
	}
}()

// Contradictions tells where what an object says does not go together with what else results for its targets.
// origin is how effective policies name the object, under the path of its fields.
func Contradictions(effective []meshv1alpha1.EffectivePolicy, origin, under string) []string {
	var warnings []string
	said := func(f meshv1alpha1.EffectiveField) string {
		if f.From == origin {
			return fmt.Sprintf("%s.%s=%s", under, f.Field, f.Value)
		}
		return fmt.Sprintf("%s=%s (%s)", f.Field, f.Value, f.From)
	}
	for i := range effective {
		in := func(field string) meshv1alpha1.EffectiveField {
			fields := effective[i].Fields
			if at := slices.IndexFunc(fields, func(f meshv1alpha1.EffectiveField) bool { return f.Field == field }); at >= 0 {
				return fields[at]
			}
			return meshv1alpha1.EffectiveField{Field: field, Value: byDefault[field], From: "the default"}
		}
		for _, c := range contradictions {
			field, other := in(c.field), in(c.other)
			own := field.From == origin || other.From == origin
			if own && field.Value != "" && other.Value != "" && c.between(field.Value, other.Value) {
				warnings = append(warnings, said(field)+" "+c.says+" "+said(other))
			}
		}
	}
	return warnings
}
