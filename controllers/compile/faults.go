package compile

import (
	"fmt"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// fault is why a field of a route cannot be put into force. field is its path, which grows as the fault
// travels up: "value", "path.value", "matches[0].path.value" and so on.
type fault struct {
	reason gwv1.RouteConditionReason
	field  string
	why    string
}

func (f fault) String() string { return f.field + ": " + f.why }

// under returns the fault as seen from the field that holds its own. No fault is nil at every level.
func (f *fault) under(parent string) *fault {
	if f == nil {
		return nil
	}
	return &fault{f.reason, parent + "." + f.field, f.why}
}

// incompatible is the fault of a filter that does not go together with the rest of its rule.
func incompatible(field, format string, args ...any) *fault {
	return &fault{gwv1.RouteReasonIncompatibleFilters, field, fmt.Sprintf(format, args...)}
}

// appendTo appends the fault to a list, if there is one.
func (f *fault) appendTo(faults []fault) []fault {
	if f == nil {
		return faults
	}
	return append(faults, *f)
}

// unsupported is the fault of a value that Weft cannot put into force.
func unsupported(field, format string, args ...any) *fault {
	return &fault{gwv1.RouteReasonUnsupportedValue, field, fmt.Sprintf(format, args...)}
}

// fieldFaults shows faults below a field to others.
func fieldFaults(parent string, faults []fault) []FieldFault {
	var out []FieldFault
	for _, f := range allUnder(parent, faults) {
		out = append(out, FieldFault{f.field, f.why})
	}
	return out
}

func allUnder(parent string, faults []fault) []fault {
	if parent == "" {
		return faults
	}
	var out []fault
	for i := range faults {
		out = faults[i].under(parent).appendTo(out)
	}
	return out
}
