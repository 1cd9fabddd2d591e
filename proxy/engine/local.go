package engine

import (
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
		return reason.NotProcessed
	case upstream.ReasonProtocol:
		return reason.Protocol
	case upstream.ReasonTimeout, upstream.ReasonCanceled:
		return reason.BackendTimeout
	case upstream.ReasonRequest:
		return reason.Unsendable
	case upstream.ReasonRequestBody:
		return reason.BadRequest
	case upstream.ReasonStale, upstream.ReasonReset:
	}
	return reason.ResetBeforeHeaders
}

// localResponse returns the head of an answer that the proxy makes itself, and its body. To a gRPC
// client it is a response of status 200 without a body, whose header carries the gRPC status
// (Trailers-Only in gRPC over HTTP/2).
func localResponse(why reason.Reason, grpc bool) (res phttp.Response, body string) {
	a := reason.Of(why)
	if grpc {
		res = *phttp.GRPCResponse(a.GRPC(), "weft: "+a.Text)
		res.Header.Add(reason.Header, string(why))
		return res, ""
	}
	body = "weft: " + a.Text + "\n"
	res.Status = a.Status
	res.Header.Add(reason.Header, string(why))
	res.Header.Add("Content-Type", "text/plain; charset=utf-8")
	res.Header.Add("Content-Length", strconv.Itoa(len(body)))
	return res, body
}
