package reason

import (
	"net/http"

	phttp "weft.dev/weft/proxy/http"
)

// table holds every reason once, in the order in which a request can meet them.
var table = []Entry{
	{
		Reason: NotCaptured, Status: http.StatusForbidden,
		Text:    "the connection was not captured",
		Meaning: "The connection came straight to the proxy's port and not through the rules that the node agent puts into a client's pod.",
		Remedy:  "Call the Service, not the proxy.",
	},
	{
		Reason: UnknownDestination, Status: http.StatusServiceUnavailable,
		Text:    "the destination is not known here",
		Meaning: "The proxy has not been told about the Service port that the connection is for.",
		Remedy:  "It passes by itself once the configuration has arrived; if it does not, look at the conditions of the Mesh and at weft_config_rejections_total.",
	},
	{
		Reason: UnknownSource, Status: http.StatusServiceUnavailable,
		Text:    "the client's workload is not known",
		Meaning: "No pod is known to have the client's address, so its identity cannot be told.",
		Remedy:  "Look at Mesh.status.nodes for the client's node: its agent reports which pod has which address.",
	},
	{
		Reason: ForeignSource, Status: http.StatusForbidden,
		Text:    "the client belongs to another namespace",
		Meaning: "The client's pod is in another namespace than the proxy, which acts for its own namespace alone.",
		Remedy:  "Call the Service, not the proxy.",
	},
	{
		Reason: UntrustedPeer, Status: http.StatusForbidden,
		Text:    "the peer is not a workload of this mesh",
		Meaning: "A connection to the mesh port did not prove with its certificate that it comes from a workload of the mesh.",
		Remedy:  "Look for clocks that differ and for certificates that have expired; otherwise something outside the mesh calls the port.",
	},
	{
		Reason: BadRequest, Status: http.StatusBadRequest,
		Text:    "the request is not valid",
		Meaning: "The request is no valid HTTP, or its body ended early.",
		Remedy:  "Look at the proxy's debug log for what is wrong, and correct the client.",
	},
	{
		Reason: HeaderTooLarge, Status: http.StatusRequestHeaderFieldsTooLarge, Code: phttp.GRPCResourceExhausted,
		Text:    "the request's header is too large",
		Meaning: "The request has more than 100 header fields, or they have more than 64 KiB.",
		Remedy:  "Send fewer.",
	},
	{
		Reason: VersionUnsupported, Status: http.StatusHTTPVersionNotSupported,
		Text:    "the version of HTTP is not supported",
		Meaning: "The request names another version than HTTP/1.0 or HTTP/1.1.",
		Remedy:  "Correct the client. HTTP/2 begins with a preface of its own.",
	},
	{
		Reason: CodingUnsupported, Status: http.StatusNotImplemented,
		Text:    "the transfer coding is not supported",
		Meaning: "The request has a Transfer-Encoding that is not exactly chunked.",
		Remedy:  "Correct the client; to compress content there is Content-Encoding.",
	},
	{
		Reason: ExpectationFailed, Status: http.StatusExpectationFailed,
		Text:    "the expectation is not supported",
		Meaning: "The request has an Expect field that is not 100-continue.",
		Remedy:  "Correct the client.",
	},
	{
		Reason: MethodUnsupported, Status: http.StatusNotImplemented, Code: phttp.GRPCUnimplemented,
		Text:    "the method is not supported",
		Meaning: "The method is CONNECT, or TRACE or OPTIONS whose Max-Forwards is used up.",
		Remedy:  "Connect to the Service's port directly; TCP ports are relayed as they are. Leave Max-Forwards out.",
	},
	{
		Reason: NoRule, Status: http.StatusNotFound, Code: phttp.GRPCUnimplemented,
		Text:    "no route rule matched",
		Meaning: "Routes are attached to the Service, and none of their rules matches the request.",
		Remedy:  "Add a rule that matches it, for example one without matches.",
	},
	{
		Reason: AuthorizationDenied, Status: http.StatusForbidden,
		Text:    "the caller is not allowed to do this",
		Meaning: "The MeshAuthorizations of the Service, its port or its namespace do not allow the request or connection. Clients are not told which one.",
		Remedy:  "The proxies of the Service's namespace log the policy and the rule, and count them in weft_authorization_decisions_total.",
	},
	{
		Reason: TokenRequired, Status: http.StatusUnauthorized,
		Text:    "a token is required",
		Meaning: "No rule of the MeshAuthorizations allows the request without a token, and some look at tokens. The request has none where spec.jwt says that it is.",
		Remedy:  "Send a JSON Web Token of an issuer that the policy names.",
	},
	{
		Reason: InvalidToken, Status: http.StatusUnauthorized,
		Text:    "the token is not valid",
		Meaning: "The request has a token, or several, that a MeshAuthorization for it cannot verify: another issuer or audience, expired, a wrong signature, or keys that are not known.",
		Remedy:  "The proxies of the Service's namespace log what is wrong; the condition KeysAvailable of the policy says whether keys are missing.",
	},
	{
		Reason: RateLimited, Status: http.StatusTooManyRequests, Code: phttp.GRPCResourceExhausted,
		Text:    "there are too many requests",
		Meaning: "A rate limit of the route or the Service is used up; the fields RateLimit and RateLimit-Policy say which, and Retry-After for how long.",
		Remedy:  "Send fewer, or raise rateLimits in the MeshPolicy that the Service or route has it from.",
	},
	{
		Reason: FaultInjected, Text: "a fault was injected",
		Meaning: "The field fault.abort of a MeshPolicy has answered instead of the application.",
		Remedy:  "Remove the fault when the test is over.",
	},
	{
		Reason:  Redirect,
		Meaning: "A RequestRedirect filter of the rule has answered. It is no failure; the answer has no weft-reason header.",
		Remedy:  "None is needed.",
	},
	{
		Reason:  Preflight,
		Meaning: "A CORS filter of the rule has answered a preflight request. It is no failure; the answer has no weft-reason header.",
		Remedy:  "None is needed.",
	},
	{
		Reason: NoBackend, Status: http.StatusInternalServerError, Code: phttp.GRPCUnavailable,
		Text:    "the route rule has no backend",
		Meaning: "The rule that matched has no backendRefs, or all of them have weight 0.",
		Remedy:  "Give the rule a backend with a weight.",
	},
	{
		Reason: InvalidBackend, Status: http.StatusInternalServerError, Code: phttp.GRPCUnavailable,
		Text:    "the route's backend could not be resolved",
		Meaning: "The backendRef names something that does not exist, is of an unsupported kind or may not be referred to.",
		Remedy:  "The condition ResolvedRefs of the route says which and why.",
	},
	{
		Reason: UnknownBackend, Status: http.StatusInternalServerError, Code: phttp.GRPCUnavailable,
		Text:    "the backend is not known here",
		Meaning: "The proxy has not been told about the backend that the rule names.",
		Remedy:  "It passes by itself once the configuration has arrived; if it does not, look at weft_config_rejections_total.",
	},
	{
		Reason: NoEndpoints, Status: http.StatusServiceUnavailable,
		Text:    "the backend has no endpoints",
		Meaning: "The Service has no ready pod, or its namespace no ready proxy.",
		Remedy:  "Look at the Service's EndpointSlices and pods, and at the condition ProxiesReady of the Mesh.",
	},
	{
		Reason: NoHealthyEndpoints, Status: http.StatusServiceUnavailable,
		Text:    "the backend has no healthy endpoints",
		Meaning: "All endpoints of the Service are ejected or fail their health check, and its policy has no panicPercent that would let them be used all the same.",
		Remedy:  "Look at weft_upstream_endpoints and weft_upstream_ejections_total for which and why, and at the pods.",
	},
	{
		Reason: CircuitOpen, Status: http.StatusServiceUnavailable,
		Text:    "the backend has as many requests as it may",
		Meaning: "A limit of circuitBreaking is reached, and the request could not wait or has waited as long as it may. It was not sent.",
		Remedy:  "It is safe to send the request again after the time in Retry-After. weft_circuit_breaker_open_total says which limit it is; add pods, or raise it.",
	},
	{
		Reason: Connect, Status: http.StatusServiceUnavailable,
		Text:    "no connection to the backend",
		Meaning: "No connection could be made to any of the endpoints that were tried.",
		Remedy:  "Check that the pods listen on the Service's target port.",
	},
	{
		Reason: Identity, Status: http.StatusServiceUnavailable,
		Text:    "no mutual TLS with the backend's proxy",
		Meaning: "There is no certificate for the client's ServiceAccount, or one side of the hop refused the other's.",
		Remedy:  "Look for clocks that differ, and at the operator's log for certificates that it cannot issue.",
	},
	{
		Reason: NotProcessed, Status: http.StatusServiceUnavailable,
		Text:    "the backend did not take the request",
		Meaning: "Every endpoint that was tried said that it has not processed the request.",
		Remedy:  "It is safe to send the request again. Backends that are ending, or proxies that have yet to learn of a Service, answer so for a moment.",
	},
	{
		Reason: ResetBeforeHeaders, Status: http.StatusBadGateway,
		Text:    "the backend closed the connection before it answered",
		Meaning: "The connection broke after the request had been sent at least in part, so that the application may have processed it.",
		Remedy:  "Look for crashes of the application. Allow retries if its requests may be repeated.",
	},
	{
		Reason: ResetAfterHeaders, Status: http.StatusBadGateway, Code: phttp.GRPCUnavailable,
		Text:    "the backend closed the connection in the middle of its answer",
		Meaning: "The connection broke after the answer had begun. Its status had been passed on, so the client's connection or stream is reset; a gRPC client gets the status in the trailer.",
		Remedy:  "Look for crashes of the application, and for timeouts of its own.",
	},
	{
		Reason: Protocol, Status: http.StatusBadGateway, Code: phttp.GRPCInternal,
		Text:    "the backend's answer is not valid",
		Meaning: "What the application sent is no valid HTTP, or a switch of protocols that was not asked for.",
		Remedy:  "Check the protocol of the Service's port: its appProtocol, or the beginning of its name.",
	},
	{
		Reason: Unsendable, Status: http.StatusBadGateway, Code: phttp.GRPCInternal,
		Text:    "the request cannot be sent in the backend's protocol",
		Meaning: "The backend's port is not HTTP, or the request has something that its version of HTTP cannot express.",
		Remedy:  "Check the protocol of the Service's port: its appProtocol, or the beginning of its name.",
	},
	{
		Reason: DeadlineExceeded, Status: http.StatusGatewayTimeout, Code: phttp.GRPCDeadlineExceeded,
		Text:    "the request took too long",
		Meaning: "The timeout of the request, or the deadline that its client gave, has passed.",
		Remedy:  "Find out what is slow, or raise the timeout.",
	},
	{
		Reason: BackendTimeout, Status: http.StatusGatewayTimeout, Code: phttp.GRPCDeadlineExceeded,
		Text:    "the backend took too long",
		Meaning: "The timeout of one try (backendRequest) has passed, and no further try was allowed.",
		Remedy:  "Find out what is slow, raise the timeout, or allow retries.",
	},
	{
		Reason: IdleTimeout, Status: http.StatusGatewayTimeout, Code: phttp.GRPCDeadlineExceeded,
		Text:    "nothing has moved for too long",
		Meaning: "No byte of the request or its answer has moved for as long as the idle timeout. A WebSocket or TCP connection is reset.",
		Remedy:  "Find out which side is stuck, let it send something from time to time, or raise the timeout.",
	},
	{
		Reason: RetryBudgetExhausted, Status: http.StatusServiceUnavailable,
		Text:    "too many requests are being retried",
		Meaning: "The request failed and may be retried, but retries to the backend have had their share of its load.",
		Remedy:  "Find out why so many requests fail; more retries would make it worse. The share is retry.budget of a MeshPolicy.",
	},
}
