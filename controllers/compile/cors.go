package compile

import (
	"fmt"
	"regexp"
	"strconv"

	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/proxy/wire"
)

// defaultCORSMaxAge is in seconds (GEP-1767).
const defaultCORSMaxAge = 5

// originForm is what the API allows as an origin: any, or a scheme and a host with an optional port,
// where the host is a wildcard or may begin with one.
var originForm = regexp.MustCompile(`^(?:\*|https?://(?:\*|(?:\*\.)?(?:[-A-Za-z0-9]+\.)*[-A-Za-z0-9]+)(?::([0-9]{1,5}))?)$`)

func isOrigin(origin string) bool {
	parts := originForm.FindStringSubmatch(origin)
	if parts == nil {
		return false
	}
	if parts[1] == "" {
		return true
	}
	port, err := strconv.ParseUint(parts[1], 10, 16)
	return err == nil && port > 0
}

// corsFilter compiles a CORS filter.
func corsFilter(c *gwv1.HTTPCORSFilter) (*wire.CORS, *fault) {
	out := &wire.CORS{AllowCredentials: valueOr(c.AllowCredentials, false), MaxAge: c.MaxAge}
	if out.MaxAge < 0 {
		return nil, unsupported("maxAge", "%d is negative", out.MaxAge)
	}
	if out.MaxAge == 0 {
		out.MaxAge = defaultCORSMaxAge
	}
	var f *fault
	if out.AllowOrigins, f = corsList("allowOrigins", c.AllowOrigins, isOrigin); f != nil {
		return nil, f
	}
	if out.AllowMethods, f = corsList("allowMethods", c.AllowMethods, isToken); f != nil {
		return nil, f
	}
	if out.AllowHeaders, f = corsList("allowHeaders", c.AllowHeaders, isToken); f != nil {
		return nil, f
	}
	if out.ExposeHeaders, f = corsList("exposeHeaders", c.ExposeHeaders, isToken); f != nil {
		return nil, f
	}
	return out, nil
}

// corsList reads one of the lists. "*" stands for everything and cannot have others beside it.
func corsList[T ~string](field string, values []T, valid func(string) bool) ([]string, *fault) {
	var out []string
	for i, v := range values {
		value := string(v)
		if !valid(value) {
			return nil, unsupported(fmt.Sprintf("%s[%d]", field, i), "%q is not valid", value)
		}
		if value == "*" && len(values) > 1 {
			return nil, unsupported(fmt.Sprintf("%s[%d]", field, i), `"*" cannot stand beside other values`)
		}
		out = append(out, value)
	}
	return out, nil
}
