package engine

import (
	"net/http"
	"strconv"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/upstream"
)

// reason says why the proxy made an answer itself, or refused a connection. It is the value of the
// answer's weft-reason header and a label of metrics, so the set is fixed and documented.
type reason string

// The reasons.
const (
	reasonBadRequest         reason = "bad_request"
	reasonHeaderTooLarge     reason = "header_too_large"
	reasonMethodUnsupported  reason = "method_not_supported"
	reasonNotCaptured        reason = "not_captured"
	reasonUnknownDestination reason = "unknown_destination"
	reasonUnknownSource      reason = "unknown_source"
	reasonForeignSource      reason = "foreign_source"
	reasonUntrustedPeer      reason = "untrusted_peer"
	reasonNoRule             reason = "no_rule_matched"
	reasonNoBackend          reason = "no_backend"
	reasonInvalidBackend     reason = "invalid_backend"
	reasonUnknownBackend     reason = "unknown_backend"
	reasonNoEndpoints        reason = "no_endpoints"
	reasonConnect            reason = "connect_failure"
	reasonIdentity           reason = "identity_failure"
	reasonNotProcessed       reason = "not_processed"
	reasonReset              reason = "upstream_reset"
	reasonProtocol           reason = "upstream_protocol_error"
	reasonUnsendable         reason = "unsendable"
	reasonRequestTimeout     reason = "request_timeout"
	reasonBackendTimeout     reason = "backend_timeout"
	reasonRedirect           reason = "redirect"
	reasonPreflight          reason = "cors_preflight"
)

// localAnswer is what a client is told for a reason. A grpc of zero means the code that a gRPC client makes
// of the status.
type localAnswer struct {
	status int
	grpc   phttp.GRPCCode
	text   string
}

func (a localAnswer) grpcCode() phttp.GRPCCode {
	if a.grpc != 0 {
		return a.grpc
	}
	return phttp.GRPCCodeOf(a.status)
}

var answers = map[reason]localAnswer{
	reasonBadRequest:         {http.StatusBadRequest, 0, "the request is not valid"},
	reasonHeaderTooLarge:     {http.StatusRequestHeaderFieldsTooLarge, phttp.GRPCResourceExhausted, "the request has too many header fields"},
	reasonMethodUnsupported:  {http.StatusNotImplemented, phttp.GRPCUnimplemented, "the method is not supported"},
	reasonNotCaptured:        {http.StatusForbidden, 0, "the connection was not captured"},
	reasonUnknownDestination: {http.StatusServiceUnavailable, 0, "the destination is not known here"},
	reasonUnknownSource:      {http.StatusServiceUnavailable, 0, "the client's workload is not known"},
	reasonForeignSource:      {http.StatusForbidden, 0, "the client belongs to another namespace"},
	reasonUntrustedPeer:      {http.StatusForbidden, 0, "the peer is not a workload of this mesh"},
	reasonNoRule:             {http.StatusNotFound, phttp.GRPCUnimplemented, "no route rule matched"},
	reasonNoBackend:          {http.StatusInternalServerError, phttp.GRPCUnavailable, "the route rule has no backend"},
	reasonInvalidBackend:     {http.StatusInternalServerError, phttp.GRPCUnavailable, "the route's backend could not be resolved"},
	reasonUnknownBackend:     {http.StatusInternalServerError, phttp.GRPCUnavailable, "the backend is not known here"},
	reasonNoEndpoints:        {http.StatusServiceUnavailable, 0, "the backend has no endpoints"},
	reasonConnect:            {http.StatusServiceUnavailable, 0, "no connection to the backend"},
	reasonIdentity:           {http.StatusServiceUnavailable, 0, "no mutual TLS with the backend's proxy"},
	reasonNotProcessed:       {http.StatusServiceUnavailable, 0, "the backend did not take the request"},
	reasonReset:              {http.StatusBadGateway, 0, "the backend closed the connection before it answered"},
	reasonProtocol:           {http.StatusBadGateway, phttp.GRPCInternal, "the backend's answer is not valid"},
	reasonUnsendable:         {http.StatusBadGateway, phttp.GRPCInternal, "the request cannot be sent in the backend's protocol"},
	reasonRequestTimeout:     {http.StatusGatewayTimeout, phttp.GRPCDeadlineExceeded, "the request took too long"},
	reasonBackendTimeout:     {http.StatusGatewayTimeout, phttp.GRPCDeadlineExceeded, "the backend took too long"},
}

// headerReason carries the reason of an answer that a proxy made itself.
const headerReason = "weft-reason"

// failureReason maps what went wrong with a try to what the client is told.
func failureReason(err *upstream.Error) reason {
	switch err.Reason {
	case upstream.ReasonConnect, upstream.ReasonConnectTimeout:
		return reasonConnect
	case upstream.ReasonIdentity:
		return reasonIdentity
	case upstream.ReasonRefused:
		return reasonNotProcessed
	case upstream.ReasonProtocol:
		return reasonProtocol
	case upstream.ReasonTimeout, upstream.ReasonCanceled:
		return reasonBackendTimeout
	case upstream.ReasonRequest:
		return reasonUnsendable
	case upstream.ReasonRequestBody:
		return reasonBadRequest
	case upstream.ReasonStale, upstream.ReasonReset:
	}
	return reasonReset
}

// localResponse returns the head of an answer that the proxy makes itself, and its body. To a gRPC
// client it is a response of status 200 without a body, whose header carries the gRPC status
// (Trailers-Only in gRPC over HTTP/2).
func localResponse(why reason, grpc bool) (res phttp.Response, body string) {
	a := answers[why]
	if grpc {
		res = *phttp.GRPCResponse(a.grpcCode(), "weft: "+a.text)
		res.Header.Add(headerReason, string(why))
		return res, ""
	}
	body = "weft: " + a.text + "\n"
	res.Status = a.status
	res.Header.Add(headerReason, string(why))
	res.Header.Add("Content-Type", "text/plain; charset=utf-8")
	res.Header.Add("Content-Length", strconv.Itoa(len(body)))
	return res, body
}
