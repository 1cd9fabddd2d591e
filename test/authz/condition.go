package authz

import (
	"strings"

	"weft.dev/weft/proxy/wire"
)

// verdict is the value of an expression: one of the following.
type verdict int

const (
	no verdict = iota
	yes
	failed
)

func truth(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// or is CEL's: what is true decides, then what has failed.
func or(a, b verdict) verdict {
	switch {
	case a == yes || b == yes:
		return yes
	case a == failed || b == failed:
		return failed
	}
	return no
}

// and is CEL's: what is false decides, then what has failed.
func and(a, b verdict) verdict {
	switch {
	case a == no || b == no:
		return no
	case a == failed || b == failed:
		return failed
	}
	return yes
}

// ofHTTP fails where there is no request.
func ofHTTP(r Request, of func() verdict) verdict {
	if r.TCP {
		return failed
	}
	return of()
}

func header(r Request, name string) (string, bool) {
	var values []string
	for _, h := range r.Headers {
		if strings.EqualFold(h[0], name) {
			values = append(values, h[1])
		}
	}
	return strings.Join(values, ","), values != nil
}

// Conditions are expressions and what they mean, written by hand.
var Conditions = map[string]func(r Request, p *wire.Authorization, path string) verdict{
	`request.method == 'GET'`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return ofHTTP(r, func() verdict { return truth(r.Method == "GET") })
	},
	`request.headers['x-role'] == 'admin'`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return ofHTTP(r, func() verdict {
			value, ok := header(r, "x-role")
			if !ok {
				return failed
			}
			return truth(value == "admin")
		})
	},
	`'x-team' in request.headers && request.headers['x-team'].contains('user')`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return ofHTTP(r, func() verdict {
			value, ok := header(r, "x-team")
			return truth(ok && strings.Contains(value, "user"))
		})
	},
	`request.url_path.startsWith('/a')`: func(r Request, _ *wire.Authorization, path string) verdict {
		return ofHTTP(r, func() verdict { return truth(strings.HasPrefix(path, "/a")) })
	},
	`source.namespace == destination.namespace || destination.port == 81`: func(r Request, p *wire.Authorization, _ string) verdict {
		return truth(r.Namespace == p.Namespace || r.Port == 81)
	},
	`source.address.startsWith('10.1.')`: func(r Request, _ *wire.Authorization, _ string) verdict {
		if !r.Client.IsValid() {
			return failed
		}
		return truth(strings.HasPrefix(r.Client.Unmap().String(), "10.1."))
	},
	`has(request.auth.claims.sub) && request.auth.claims.sub == 'alice'`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return ofHTTP(r, func() verdict { return truth(r.claims["sub"] == "alice") })
	},
	`request.auth.claims.level > 2`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return ofHTTP(r, func() verdict {
			level, ok := r.claims["level"].(float64)
			if !ok {
				return failed
			}
			return truth(level > 2)
		})
	},
	`request.auth.claims.realm.groups.exists(g, g == 'ops')`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return ofHTTP(r, func() verdict {
			groups, ok := claimAt(r.claims, []string{"realm", "groups"}).([]any)
			if !ok {
				return failed
			}
			for _, g := range groups {
				if g == "ops" {
					return yes
				}
			}
			return no
		})
	},
	`source.service_account == 'teller' || request.method == 'POST'`: func(r Request, _ *wire.Authorization, _ string) verdict {
		return or(truth(r.ServiceAccount == "teller"), ofHTTP(r, func() verdict { return truth(r.Method == "POST") }))
	},
	`request.url_path == '/a/b' && source.principal.startsWith('spiffe://cluster.local/ns/shop/')`: func(r Request, _ *wire.Authorization, path string) verdict {
		return and(ofHTTP(r, func() verdict { return truth(path == "/a/b") }), truth(r.TrustDomain == "cluster.local" && r.Namespace == "shop"))
	},
}

// conditionHolds evaluates for each reading of the path: to deny, one is true or fails; to allow, all are true.
func conditionHolds(text string, r Request, p *wire.Authorization, deny bool) bool {
	of := Conditions[text]
	count, all := 0, 0
	for _, read := range readings() {
		path := r.Path
		if !r.TCP && path != "*" {
			path = read(path)
		}
		all++
		if v := of(r, p, path); v == yes || v == failed && deny {
			count++
		}
	}
	return deny && count > 0 || count == all
}
