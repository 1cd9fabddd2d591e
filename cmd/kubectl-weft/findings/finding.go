// Package findings owns what can be found wrong with a mesh or a cluster, each under a code: Analyze judges what
// people have declared, Check whether a cluster can run Weft and does. Both are pure functions of values that
// somebody else has read. docs/findings.md is written from the table of codes.
package findings

import (
	"cmp"
	"slices"
	"strings"

	"weft.dev/weft/cmd/kubectl-weft/mesh"
)

// Severity says how bad a finding is.
type Severity string

// The severities. An Error means that something does not work as declared, a Warning that it may not be what
// was meant, an Info what is good to know.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Info    Severity = "info"
)

func (s Severity) rank() int { return slices.Index([]Severity{Error, Warning, Info}, s) }

// AtLeast tells whether s is as bad as other, or worse.
func (s Severity) AtLeast(other Severity) bool { return s.rank() <= other.rank() }

// Finding is one thing that was found.
type Finding struct {
	Code     Code        `json:"code"`
	Severity Severity    `json:"severity"`
	Object   mesh.Object `json:"object"`
	// Position is where the object stands, if it comes from a file.
	Position mesh.Position `json:"position,omitzero"`
	// Message says what is the case, in one line.
	Message string `json:"message"`
	// Link leads to what it means and what to do.
	Link string `json:"link"`
}

// newFinding fills in what follows from the code.
func newFinding(code Code, object mesh.Object, message string) Finding {
	return Finding{
		Code: code, Severity: code.Entry().Severity, Object: object,
		Message: strings.Join(strings.Fields(message), " "), Link: code.Link(),
	}
}

// compare sorts the worst first, then by object.
func compare(a, b Finding) int {
	return cmp.Or(
		cmp.Compare(a.Severity.rank(), b.Severity.rank()),
		cmp.Compare(a.Object.Namespace, b.Object.Namespace),
		cmp.Compare(a.Object.Kind, b.Object.Kind),
		cmp.Compare(a.Object.Name, b.Object.Name),
		cmp.Compare(a.Code, b.Code),
		cmp.Compare(a.Message, b.Message),
	)
}
