package engine

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft.dev/weft/proxy/accesslog"
	"weft.dev/weft/proxy/attribute"
	"weft.dev/weft/proxy/authz"
	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/telemetry"
	"weft.dev/weft/proxy/trace"
	"weft.dev/weft/proxy/wire"
)

// observe tells of the exchange at its end, where somebody wants to know.
func (x *exchange) observe(took time.Duration) {
	logged := x.logged(took)
	traced := x.traces()
	if !logged && traced == nil {
		return
	}
	attributes := x.attributes()
	if traced != nil {
		x.engine.spans.End(&trace.Span{
			Trace: traced.own.Trace, Span: traced.own.Span, Parent: traced.parent, Remote: true, State: traced.own.State,
			Kind: trace.Server, Name: spanName(attribute.KnownMethod(x.r.Method), x.destinationName()),
			Start: x.start, End: x.start.Add(took), Attributes: attributes,
			Failed: x.amounts() >= http.StatusInternalServerError || x.status == 0,
		})
	}
	if logged {
		line := accesslog.Line{Start: x.start, Duration: took, Upstream: x.upstream, Attributes: attributes}
		if traced != nil {
			line.Trace, line.Span = traced.own.Trace.String(), traced.own.Span.String()
		}
		x.engine.options.AccessLog.Write(&line)
	}
}

// destinationName is the Service port that the request was for, if it is one that is configured: over the hop it comes
// from a peer.
func (x *exchange) destinationName() string {
	if x.overHop && x.series == x.config.strays {
		return ""
	}
	return x.destination
}

// amounts is the status of the answer, of a gRPC call what its own status amounts to; zero if nobody was left to answer.
func (x *exchange) amounts() int {
	if x.status == 0 || !x.grpc {
		return x.status
	}
	switch x.grpcCode() {
	case phttp.GRPCOK:
		return x.status
	case phttp.GRPCDeadlineExceeded:
		return http.StatusGatewayTimeout
	case phttp.GRPCUnavailable:
		return http.StatusServiceUnavailable
	case phttp.GRPCUnimplemented:
		return http.StatusNotImplemented
	case phttp.GRPCUnknown, phttp.GRPCInternal, phttp.GRPCDataLoss:
		return http.StatusInternalServerError
	case phttp.GRPCUnauthenticated:
		return http.StatusUnauthorized
	case phttp.GRPCPermissionDenied:
		return http.StatusForbidden
	case phttp.GRPCNotFound:
		return http.StatusNotFound
	case phttp.GRPCResourceExhausted:
		return http.StatusTooManyRequests
	case phttp.GRPCAborted, phttp.GRPCAlreadyExists:
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

// grpcCode is the status of a gRPC call that was answered. One that has none was cut.
func (x *exchange) grpcCode() phttp.GRPCCode {
	if x.code == "" {
		return phttp.GRPCCancelled
	}
	if code, ok := phttp.ParseGRPCCode(x.code); ok {
		return code
	}
	return phttp.GRPCUnknown
}

// attributes tell of the exchange. They hold no field of the request but user-agent and x-request-id, and no value of
// its query.
func (x *exchange) attributes() []attribute.Attribute {
	method := attribute.KnownMethod(x.r.Method)
	out := append(make([]attribute.Attribute, 0, 40), attribute.String(attribute.Method, method))
	add := func(key, text string) {
		if text != "" {
			out = append(out, attribute.String(key, text))
		}
	}
	if method == attribute.Other {
		add(attribute.MethodOriginal, attribute.Bound(x.r.Method))
	}
	path, query, _ := strings.Cut(x.target(), "?")
	add(attribute.Scheme, "http")
	add(attribute.Path, attribute.Bound(path))
	add(attribute.Query, attribute.Bound(attribute.RedactQuery(query)))
	if x.status > 0 {
		out = append(out, attribute.Int(attribute.Status, int64(x.status)))
	}
	if x.grpc {
		add(attribute.RPCSystem, "grpc")
		if x.status > 0 {
			add(attribute.RPCStatus, x.grpcCode().String())
		}
	}
	switch {
	case x.why != "":
		add(attribute.ErrorType, string(x.why))
	case x.status == 0:
		add(attribute.ErrorType, telemetry.ErrorClientGone)
	case x.grpc && x.grpcCode() != phttp.GRPCOK:
		add(attribute.ErrorType, x.grpcCode().String())
	case x.status >= http.StatusInternalServerError:
		add(attribute.ErrorType, strconv.Itoa(x.status))
	}
	out = appendAuthority(out, x.r.Host)
	out = appendAddress(out, attribute.ClientAddress, attribute.ClientPort, x.source.Address)
	out = appendAddress(out, attribute.PeerAddress, attribute.PeerPort, peerAddress(x.r))
	add(attribute.ProtocolName, "http")
	add(attribute.ProtocolVersion, protocolVersion(x.r))
	add(attribute.Transport, "tcp")
	add(attribute.UserAgent, attribute.Bound(x.head.Header.Get("User-Agent")))
	add(attribute.RequestID, attribute.Bound(x.head.Header.Get("X-Request-Id")))
	listener := listenerCaptured
	if x.overHop {
		listener = listenerHop
	}
	add(attribute.Listener, listener)
	add(attribute.TLS, attribute.Protection(x.overHop))
	if peer := x.config.peer(x.r); peer.Namespace != "" {
		add(attribute.SourceID, peer.String())
		add(attribute.SourceNamespace, peer.Namespace)
		add(attribute.SourceAccount, peer.ServiceAccount)
	}
	out = attribute.AppendDestination(out, x.destination)
	out = attribute.AppendRoute(out, x.series.used().labels.Route)
	add(attribute.Rule, x.series.used().labels.Rule)
	add(attribute.Backend, x.key)
	if x.sent > 0 {
		add(attribute.Endpoint, x.last.Address().String())
		out = append(out, attribute.Int(attribute.Tries, int64(x.sent)))
	}
	add(attribute.Reason, string(x.why))
	if x.judged.Verdict != authz.Unconcerned {
		add(attribute.AuthorizationVerdict, x.judged.Verdict.String())
		add(attribute.AuthorizationPolicy, x.judged.Policy)
		if x.judged.Rule >= 0 {
			out = append(out, attribute.Int(attribute.AuthorizationRule, int64(x.judged.Rule)))
		}
	}
	return out
}

func protocolVersion(r *http.Request) string {
	if r.ProtoMajor == 1 {
		return "1." + strconv.Itoa(r.ProtoMinor)
	}
	return strconv.Itoa(r.ProtoMajor)
}

// peerAddress is the other end of the request's connection.
func peerAddress(r *http.Request) netip.AddrPort {
	switch from := r.Context().Value(connKey{}).(type) {
	case *conn:
		return from.client
	case *hopConn:
		if tcp, ok := from.RemoteAddr().(*net.TCPAddr); ok {
			return tcp.AddrPort()
		}
	}
	return netip.AddrPort{}
}

func appendAddress(out []attribute.Attribute, address, port string, a netip.AddrPort) []attribute.Attribute {
	if !a.IsValid() {
		return out
	}
	return append(out, attribute.String(address, a.Addr().Unmap().String()), attribute.Int(port, int64(a.Port())))
}

// appendAuthority appends host and port that a request is for, as its client has written them.
func appendAuthority(out []attribute.Attribute, authority string) []attribute.Attribute {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host, port = authority, ""
	}
	if host != "" {
		out = append(out, attribute.String(attribute.ServerAddress, attribute.Bound(host)))
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		out = append(out, attribute.Int(attribute.ServerPort, int64(n)))
	}
	return out
}

// logged tells whether a line is written about the exchange.
func (x *exchange) logged(took time.Duration) bool {
	rules := x.accessRules()
	for i := range rules {
		if rule := &rules[i]; x.meets(rule, took) {
			return rule.SamplingRate == nil || within(rule.SamplingRate, x.engine.options.Random())
		}
	}
	return false
}

// accessRules say whether a line is written about the exchange.
func (x *exchange) accessRules() []wire.AccessLogRule {
	if x.engine.options.AccessLog == nil {
		return nil
	}
	if !x.overHop {
		return x.policy.Telemetry.AccessLog.Rules
	}
	backend, ok := x.config.view.Backend(x.key)
	if !ok || backend.Policy == nil || backend.Policy.Telemetry == nil || backend.Policy.Telemetry.AccessLog == nil {
		return nil
	}
	return backend.Policy.Telemetry.AccessLog.Rules
}

// meets tells whether all conditions of a rule hold.
func (x *exchange) meets(rule *wire.AccessLogRule, took time.Duration) bool {
	if rule.MinStatus > 0 {
		if status := x.amounts(); status != 0 && status < rule.MinStatus {
			return false
		}
	}
	if took < time.Duration(rule.MinDuration) {
		return false
	}
	if len(rule.Reasons) == 0 {
		return true
	}
	_, found := slices.BinarySearch(rule.Reasons, string(x.why))
	return found
}

// validateTelemetry refuses shares that are none.
func validateTelemetry(t *wire.Telemetry) error {
	if t == nil {
		return nil
	}
	if t.Tracing != nil {
		if err := validateShare("telemetry.tracing.samplingRate", t.Tracing.SamplingRate); err != nil {
			return err
		}
	}
	if t.AccessLog == nil {
		return nil
	}
	for i := range t.AccessLog.Rules {
		if err := validateShare(fmt.Sprintf("telemetry.accessLog.rules[%d].samplingRate", i), t.AccessLog.Rules[i].SamplingRate); err != nil {
			return err
		}
	}
	return nil
}

func validateShare(path string, share *wire.Fraction) error {
	if share != nil && (share.Denominator < 1 || share.Numerator < 0 || share.Numerator > share.Denominator) {
		return fmt.Errorf("%s is no share: %d of %d", path, share.Numerator, share.Denominator)
	}
	return nil
}
