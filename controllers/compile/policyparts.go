package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/proxy/wire"
)

// healthPath is what the API allows as the path of a health check.
var healthPath = regexp.MustCompile(`^/[!-~]*$`)

// healthCheck is inherited as a whole, so its defaults are filled in here.
func (r *policyReader) healthCheck(in *meshv1alpha1.HealthCheck) *wire.HealthCheck {
	if in == nil {
		return nil
	}
	out := &wire.HealthCheck{
		Type:      wire.HealthCheckType(in.Type),
		Path:      in.Path,
		Service:   in.Service,
		Interval:  valueOr(r.duration("healthCheck.interval", in.Interval, 100*time.Millisecond, time.Hour), wire.Duration(5*time.Second)),
		Unhealthy: r.countOr("healthCheck.unhealthyThreshold", in.UnhealthyThreshold, 3, 1, 100),
		Healthy:   r.countOr("healthCheck.healthyThreshold", in.HealthyThreshold, 1, 1, 100),
	}
	oneOf(r, "healthCheck.type", out.Type, wire.HealthCheckHTTP, wire.HealthCheckGRPC, wire.HealthCheckTCP)
	if in.Port != 0 {
		out.Port = uint16(r.count("healthCheck.port", in.Port, 1, 65535))
	}
	timeout := r.duration("healthCheck.timeout", in.Timeout, instant, unbounded)
	out.Timeout = valueOr(timeout, min(wire.Duration(time.Second), out.Interval))
	r.ordered("healthCheck.timeout", timeout, "interval", &out.Interval)
	switch {
	case out.Type != wire.HealthCheckHTTP && in.Path != "":
		r.refuse("healthCheck.path", "it is for type HTTP")
	case out.Type == wire.HealthCheckHTTP:
		out.Path = cmp.Or(in.Path, "/")
		if _, err := url.ParseRequestURI(out.Path); err != nil || !healthPath.MatchString(out.Path) {
			r.refuse("healthCheck.path", "%q is not an absolute path", in.Path)
		}
	}
	if out.Type != wire.HealthCheckGRPC && in.Service != "" {
		r.refuse("healthCheck.service", "it is for type GRPC")
	}
	return out
}

// maxBound is the largest bound on connections and requests.
const maxBound = 10_000_000

func (r *policyReader) circuitBreaking(in *meshv1alpha1.CircuitBreaking) *wire.CircuitBreaking {
	if in == nil {
		return nil
	}
	out := &wire.CircuitBreaking{
		MaxConnections:     r.number("circuitBreaking.maxConnections", in.MaxConnections, maxBound),
		MaxRequests:        r.number("circuitBreaking.maxRequests", in.MaxRequests, maxBound),
		MaxPendingRequests: r.number("circuitBreaking.maxPendingRequests", in.MaxPendingRequests, maxBound),
		PendingTimeout:     r.duration("circuitBreaking.pendingTimeout", in.PendingTimeout, instant, unbounded),
	}
	if each := in.PerEndpoint; each != nil {
		out.PerEndpoint = orNil(&wire.EndpointBreaking{
			MaxConnections: r.number("circuitBreaking.perEndpoint.maxConnections", each.MaxConnections, maxBound),
			MaxRequests:    r.number("circuitBreaking.perEndpoint.maxRequests", each.MaxRequests, maxBound),
		})
	}
	return orNil(out)
}

// rateLimits are inherited as a whole: a list that is empty and not nil says that there is no limit.
func (r *policyReader) rateLimits(in []meshv1alpha1.RateLimit) []wire.RateLimit {
	if in == nil {
		return nil
	}
	out := make([]wire.RateLimit, len(in))
	for i := range in {
		at := fmt.Sprintf("rateLimits[%d]", i)
		out[i] = wire.RateLimit{
			Requests: r.count(at+".requests", in[i].Requests, 1, maxBound),
			Interval: valueOr(r.duration(at+".interval", in[i].Interval, 100*time.Millisecond, 24*time.Hour), wire.Duration(time.Second)),
			Burst:    r.countOr(at+".burst", in[i].Burst, max(1, in[i].Requests), 1, maxBound),
		}
		for j, key := range in[i].Keys {
			under := fmt.Sprintf("%s.keys[%d]", at, j)
			read := wire.RateLimitKey{Type: wire.RateLimitKeyType(key.Type), Name: key.Name}
			oneOf(r, under+".type", read.Type, wire.RateLimitIdentity, wire.RateLimitHeader, wire.RateLimitPath)
			r.keyName(under+".name", key.Name, string(key.Type), read.Type == wire.RateLimitHeader)
			out[i].Keys = append(out[i].Keys, read)
		}
	}
	return out
}

func (r *policyReader) fault(in *meshv1alpha1.Fault) *wire.Fault {
	if in == nil {
		return nil
	}
	out := &wire.Fault{}
	if in.Delay == nil && in.Abort == nil {
		r.refuse("fault", "it needs delay or abort")
	}
	for i, h := range in.Headers {
		at := fmt.Sprintf("fault.headers[%d]", i)
		match, f := namedMatch(string(valueOr(h.Type, gwv1.HeaderMatchExact)), string(h.Name), h.Value)
		r.faults = f.under(at).appendTo(r.faults)
		if slices.ContainsFunc(out.Headers, func(m wire.NamedMatch) bool { return strings.EqualFold(m.Name, match.Name) }) {
			r.refuse(at+".name", "%q is there twice", h.Name)
		}
		out.Headers = append(out.Headers, match)
	}
	if d := in.Delay; d != nil {
		out.Delay = &wire.FaultDelay{
			Duration: *r.duration("fault.delay.duration", &d.Duration, instant, time.Hour),
			Percent:  r.percentOr("fault.delay.percent", d.Percent, 100),
		}
	}
	if a := in.Abort; a != nil {
		grpcStatus := cmp.Or(a.GRPCStatus, "UNAVAILABLE")
		oneOf(r, "fault.abort.grpcStatus", grpcStatus, grpcCodes...)
		out.Abort = &wire.FaultAbort{
			Status:     r.countOr("fault.abort.status", a.Status, 503, 200, 599),
			GRPCStatus: string(grpcStatus),
			Percent:    r.percentOr("fault.abort.percent", a.Percent, 100),
		}
	}
	return out
}

// cookiePath is what can stand in the Path attribute of a cookie (RFC 6265, section 4.1.1).
var cookiePath = regexp.MustCompile(`^/[ -:<-~]*$`)

// session reads a session persistence, which policies and routes have in the same shape. A cookie without
// a name has none yet: nameSession gives it one.
func (r *policyReader) session(at string, in *meshv1alpha1.SessionPersistence) *wire.SessionPersistence {
	if in == nil {
		return nil
	}
	out := &wire.SessionPersistence{
		Type:            wire.SessionType(cmp.Or(in.Type, gwv1.CookieBasedSessionPersistence)),
		AbsoluteTimeout: valueOr(r.duration(at+".absoluteTimeout", in.AbsoluteTimeout, time.Second, unbounded), 0),
	}
	oneOf(r, at+".type", out.Type, wire.SessionCookie, wire.SessionHeader)
	switch {
	case out.Type == wire.SessionHeader && in.Cookie != nil:
		r.refuse(at+".cookie", "it is for type Cookie")
	case out.Type == wire.SessionHeader && in.Header == nil:
		r.refuse(at+".header", "type Header needs it")
	case out.Type == wire.SessionCookie && in.Header != nil:
		r.refuse(at+".header", "it is for type Header")
	case out.Type == wire.SessionHeader:
		out.Name = string(in.Header.Name)
		if why := make(headerActions).note("session", out.Name, ""); why != "" {
			r.refuse(at+".header.name", "%s", why)
		} else if strings.EqualFold(out.Name, "cookie") || strings.EqualFold(out.Name, "set-cookie") {
			r.refuse(at+".header.name", "for cookies there is type Cookie")
		}
	case out.Type == wire.SessionCookie:
		r.cookie(at+".cookie", valueOr(in.Cookie, gwv1.CookieConfig{}), out)
	}
	return out
}

func (r *policyReader) cookie(at string, in gwv1.CookieConfig, out *wire.SessionPersistence) {
	out.Name = string(valueOr(in.Name, ""))
	if out.Name != "" && !isToken(out.Name) {
		r.refuse(at+".name", "%q is not the name of a cookie", out.Name)
	}
	if lower := strings.ToLower(out.Name); strings.HasPrefix(lower, "__secure-") || strings.HasPrefix(lower, "__host-") {
		// RFC 6265bis, section 4.1.3. Applications in the mesh speak plain HTTP, so the cookie is not Secure.
		r.refuse(at+".name", "clients refuse %q without the attribute Secure, which it would not have", out.Name)
	}
	out.Path = cmp.Or(valueOr(in.Path, ""), "/")
	if !cookiePath.MatchString(out.Path) {
		r.refuse(at+".path", "%q is not the path of a cookie", out.Path)
	}
	lifetime := valueOr(in.LifetimeType, gwv1.SessionCookieLifetimeType)
	oneOf(r, at+".lifetimeType", lifetime, gwv1.SessionCookieLifetimeType, gwv1.PermanentCookieLifetimeType)
	out.Permanent = lifetime == gwv1.PermanentCookieLifetimeType
	if out.Permanent && out.AbsoluteTimeout == 0 {
		r.refuse(at+".lifetimeType", "a Permanent cookie needs absoluteTimeout")
	}
}

// mtls reads who may open connections. An empty allowFrom ends what is inherited, so it is something.
func (r *policyReader) mtls(in *meshv1alpha1.MTLS) *wire.MTLS {
	if in == nil {
		return nil
	}
	out := &wire.MTLS{}
	if in.Mode != "" {
		oneOf(r, "mtls.mode", in.Mode, meshv1alpha1.MTLSPermissive, meshv1alpha1.MTLSStrict)
		out.Mode = new(wire.MTLSMode(in.Mode))
	}
	if in.AllowFrom != nil {
		out.AllowFrom = &wire.AllowFrom{}
		for i, text := range in.AllowFrom.CIDRs {
			cidr, err := netip.ParsePrefix(string(text))
			if err != nil {
				r.refuse(fmt.Sprintf("mtls.allowFrom.cidrs[%d]", i), "%q is not a network in CIDR notation", text)
				continue
			}
			out.AllowFrom.CIDRs = append(out.AllowFrom.CIDRs, cidr.Masked())
		}
		for _, sa := range in.AllowFrom.ServiceAccounts {
			out.AllowFrom.ServiceAccounts = append(out.AllowFrom.ServiceAccounts, wire.ServiceAccount{Namespace: string(sa.Namespace), Name: string(sa.Name)})
		}
	}
	return orNil(out)
}
