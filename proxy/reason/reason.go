// Package reason owns the one list of why a proxy refuses a request or a connection, or fails it: the name
// that clients find in the weft-reason header, operators in metrics and logs, and what is said about it.
// docs/reasons.md is written from it.
package reason

import (
	"net/http"
	"slices"

	phttp "weft.dev/weft/proxy/http"
)

// Header carries the Reason of an answer that a proxy made itself. In a gRPC response that broke off it is
// a trailer.
const Header = "weft-reason"

// Reason says why a proxy made an answer itself, or refused a connection. It is a label of metrics, so the
// set is fixed. Names are part of the API: they may be added, and are neither changed nor reused.
type Reason string

// The reasons. Table says what each means.
const (
	BadRequest          Reason = "bad_request"
	HeaderTooLarge      Reason = "header_too_large"
	VersionUnsupported  Reason = "version_unsupported"
	ExpectationFailed   Reason = "expectation_failed"
	CodingUnsupported   Reason = "coding_unsupported"
	MethodUnsupported   Reason = "method_not_supported"
	NotCaptured         Reason = "not_captured"
	UnknownDestination  Reason = "unknown_destination"
	UnknownSource       Reason = "unknown_source"
	ForeignSource       Reason = "foreign_source"
	UntrustedPeer       Reason = "untrusted_peer"
	NoRule              Reason = "no_rule_matched"
	AuthorizationDenied Reason = "authorization_denied"
	TokenRequired       Reason = "token_required"
	InvalidToken        Reason = "invalid_token"
	RateLimited         Reason = "rate_limited"
	FaultInjected       Reason = "fault_injected"
	NoBackend           Reason = "no_backend"
	InvalidBackend      Reason = "invalid_backend"
	UnknownBackend      Reason = "unknown_backend"
	NoEndpoints         Reason = "no_endpoints"
	NoHealthyEndpoints  Reason = "no_healthy_endpoints"
	CircuitOpen         Reason = "circuit_open"
	Connect             Reason = "connect_failure"
	Identity            Reason = "identity_failure"
	NotProcessed        Reason = "not_processed"
	ResetBeforeHeaders  Reason = "upstream_reset_before_headers"
	ResetAfterHeaders   Reason = "upstream_reset_after_headers"
	Protocol            Reason = "upstream_protocol_error"
	Unsendable          Reason = "unsendable"
	DeadlineExceeded    Reason = "deadline_exceeded"
	BackendTimeout      Reason = "backend_timeout"
	IdleTimeout         Reason = "idle_timeout"
	// RetryBudgetExhausted is GEP-3388's.
	RetryBudgetExhausted Reason = "retry_budget_exhausted"
	Redirect             Reason = "redirect"
	Preflight            Reason = "cors_preflight"
)

// Entry is what is known about a Reason.
type Entry struct {
	Reason Reason
	// Status is the answer's. Zero means that it comes from the configuration that asks for the answer.
	Status int
	// Code is that for gRPC clients; zero means what they make of Status.
	Code phttp.GRPCCode
	// Text is what the client is told: the body, or the gRPC message. It is empty if there is no text.
	Text string
	// Meaning explains the reason in one sentence, Remedy says what to do about it.
	Meaning, Remedy string
}

// GRPC is the status code for gRPC clients. It is zero if it comes from the configuration.
func (e *Entry) GRPC() phttp.GRPCCode {
	if e.Code != 0 || e.Status == 0 {
		return e.Code
	}
	return phttp.GRPCCodeOf(e.Status)
}

// All returns every entry, in the order in which a request can meet them.
func All() []Entry { return slices.Clone(table) }

// Of returns the entry of r. A reason that is not in the table is answered like a failure of the proxy.
func Of(r Reason) Entry {
	if e, ok := entries[r]; ok {
		return *e
	}
	return Entry{Reason: r, Status: http.StatusInternalServerError, Code: phttp.GRPCInternal, Text: "the request failed"}
}

// Named returns the reason of that name, or none if the name is not known.
func Named(name string) Reason {
	if e, ok := entries[Reason(name)]; ok {
		return e.Reason
	}
	return ""
}

var entries = func() map[Reason]*Entry {
	m := make(map[Reason]*Entry, len(table))
	for i := range table {
		m[table[i].Reason] = &table[i]
	}
	return m
}()
