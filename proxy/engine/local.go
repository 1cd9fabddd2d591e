package engine

import (
	"net/http"
	"strconv"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
)

// failureReason maps what went wrong with a try to what the client is told.
func failureReason(err *upstream.Error) reason.Reason {
	switch err.Reason {
	case upstream.ReasonConnect, upstream.ReasonConnectTimeout:
		return reason.Connect
	case upstream.ReasonIdentity:
		return reason.Identity
	case upstream.ReasonRefused:
		if err.Rejection() == string(reason.AuthorizationDenied) {
			return reason.AuthorizationDenied
		}
		return reason.NotProcessed
	case upstream.ReasonProtocol:
		return reason.Protocol
	case upstream.ReasonTimeout, upstream.ReasonCanceled:
		return reason.BackendTimeout
	case upstream.ReasonRequest:
		return reason.Unsendable
	case upstream.ReasonRequestBody:
		return reason.BadRequest
	case upstream.ReasonFull, upstream.ReasonEndpointFull:
		return reason.CircuitOpen
	case upstream.ReasonStale, upstream.ReasonReset:
	}
	return reason.ResetBeforeHeaders
}

// localResponse returns the head of an answer that the proxy makes itself, and its body. To a gRPC
// client it is a response of status 200 without a body, whose header carries the gRPC status
// (Trailers-Only in gRPC over HTTP/2).
func localResponse(said *reason.Entry, grpc bool) (res phttp.Response, body string) {
	if grpc {
		res = *phttp.GRPCResponse(said.GRPC(), "weft: "+said.Text)
		res.Header.Add(reason.Header, string(said.Reason))
		return res, ""
	}
	res.Status = said.Status
	res.Header.Add(reason.Header, string(said.Reason))
	switch said.Status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusNotModified:
		// They have no body (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
		return res, ""
	}
	body = "weft: " + said.Text + "\n"
	res.Header.Add("Content-Type", "text/plain; charset=utf-8")
	res.Header.Add("Content-Length", strconv.Itoa(len(body)))
	return res, body
}

// answer answers the request with what the proxy says for a reason, and more fields.
func (x *exchange) answer(why reason.Reason, more ...phttp.Field) {
	said := reason.Of(why)
	if why == reason.CircuitOpen {
		// There is room again as soon as a request ends, but who comes back at once finds the others there.
		more = append(more, phttp.Field{Name: "Retry-After", Value: "1"})
	}
	x.say(&said, more...)
}

// say answers the request. The response side of the filters applies: a browser hides an answer without
// CORS headers.
func (x *exchange) say(said *reason.Entry, more ...phttp.Field) {
	res, body := localResponse(said, x.grpc)
	for _, f := range more {
		res.Header.Add(f.Name, f.Value)
	}
	if x.filters != nil {
		x.filters.Response(x.backend, &res)
	}
	x.writeAnswer(said.Reason, res, body)
}

// writeAnswer writes an answer that the proxy has made itself.
func (x *exchange) writeAnswer(why reason.Reason, res phttp.Response, body string) {
	x.engine.metrics.LocalResponse(string(why))
	x.logAnswer(why, res.Status)
	if x.grpc {
		said := reason.Of(why)
		x.code = said.GRPC().String()
	}
	header := x.w.Header()
	clear(header)
	x.writeHead(&res)
	if x.r.Method != http.MethodHead && body != "" {
		// The client may have gone; there is nobody to tell.
		_, _ = x.w.Write([]byte(body))
	}
}

// logAnswer writes the one line that is logged of a request that was refused or failed. Redirects and the
// like are neither.
func (x *exchange) logAnswer(why reason.Reason, status int) {
	if reason.Of(why).Text == "" {
		return
	}
	x.why = why
	x.engine.logFailure(why, "destination", x.destination, "backend", x.key, "status", status)
}
