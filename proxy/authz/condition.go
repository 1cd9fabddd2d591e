package authz

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	josejson "github.com/go-jose/go-jose/v4/json"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/interpreter"

	"weft.dev/weft/proxy/jwt"
)

const (
	// MaxConditionCost is what a condition may cost at most, in CEL's units: by estimate to be accepted, and when
	// it is evaluated. It is a few milliseconds.
	MaxConditionCost = 100_000
	// maxConditionLength is in characters, maxConditionDepth how deep an expression may be nested, and
	// maxConditionLoops how deep comprehensions may be.
	maxConditionLength = 2048
	maxConditionDepth  = 50
	maxConditionLoops  = 2
)

// What is estimated of the size of what a request brings, in characters or members. A request may bring more: the
// cost is limited when a condition is evaluated, too.
const (
	sizeOfText    = 8 << 10
	sizeOfHeaders = 100
	sizeOfClaims  = 4 << 10
)

// Names of what a condition can look at, close to the attributes of Envoy.
const (
	varMethod         = "request.method"
	varHost           = "request.host"
	varPath           = "request.url_path"
	varQuery          = "request.query"
	varHeaders        = "request.headers"
	varClaims         = "request.auth.claims"
	varPrincipal      = "source.principal"
	varTrustDomain    = "source.trust_domain"
	varNamespace      = "source.namespace"
	varServiceAccount = "source.service_account"
	varAddress        = "source.address"
	varService        = "destination.service"
	varServiceSpace   = "destination.namespace"
	varPort           = "destination.port"
)

// environment is made when the first condition is compiled: most proxies have none, and it takes memory.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxConditionLength), cel.ParserRecursionLimit(maxConditionDepth),
		cel.CrossTypeNumericComparisons(true),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateComprehensionNestingLimit(maxConditionLoops)),
		cel.Variable(varHeaders, cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable(varClaims, cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable(varPort, cel.IntType),
	}
	for _, name := range []string{
		varMethod, varHost, varPath, varQuery, varPrincipal, varTrustDomain, varNamespace, varServiceAccount, varAddress, varService, varServiceSpace,
	} {
		options = append(options, cel.Variable(name, cel.StringType))
	}
	return cel.NewEnv(options...)
})

// condition is a compiled expression.
type condition struct {
	program cel.Program
	// namespace is that of the policy, and so of what is called.
	namespace string
	// byPath tells that it looks at the path, which may be read in several ways.
	byPath bool
}

func newCondition(text, namespace string) (*condition, error) {
	program, err := programs.get(text)
	if err != nil {
		return nil, err
	}
	return &condition{program: program, namespace: namespace, byPath: strings.Contains(text, "url_path")}, nil
}

// programs remembers what expressions have been compiled to, or why they cannot be: every change of a namespace
// compiles all its authorizations, and an expression takes as long as a thousand other rules.
var programs memory

// maxPrograms bounds them; then all are forgotten.
const maxPrograms = 512

type memory struct {
	mu    sync.Mutex
	known map[string]compiled
}

type compiled struct {
	program cel.Program
	err     error
}

func (m *memory) get(text string) (cel.Program, error) {
	m.mu.Lock()
	c, known := m.known[text]
	m.mu.Unlock()
	if known {
		return c.program, c.err
	}
	c.program, c.err = newProgram(text)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxPrograms {
		m.known = map[string]compiled{}
	}
	m.known[text] = c
	return c.program, c.err
}

func newProgram(text string) (cel.Program, error) {
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("no expression can be used: %w", err)
	}
	ast, issues := env.Compile(text)
	if err := issues.Err(); err != nil {
		// The rest of the message draws where it is.
		why, _, _ := strings.Cut(err.Error(), "\n")
		return nil, errors.New(why)
	}
	if !ast.OutputType().IsExactType(cel.BoolType) {
		return nil, fmt.Errorf("it is of type %s and not bool: compare it with something", ast.OutputType())
	}
	cost, err := env.EstimateCost(ast, sizes{})
	if err != nil {
		return nil, fmt.Errorf("its cost cannot be estimated: %w", err)
	}
	if cost.Max > MaxConditionCost {
		return nil, fmt.Errorf("it is too expensive: its cost may be %s, and %d is the limit; compare with == and startsWith, and do not nest loops", bounded(cost.Max), MaxConditionCost)
	}
	return env.Program(ast, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(MaxConditionCost))
}

func bounded(cost uint64) string {
	if cost > 1_000_000_000 {
		return "more than a billion"
	}
	return strconv.FormatUint(cost, 10)
}

// sizes estimates what is not known before there is a request.
type sizes struct{}

// EstimateSize implements checker.CostEstimator.
func (sizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	path := element.Path()
	if len(path) == 0 {
		return nil
	}
	size := uint64(sizeOfText)
	switch {
	case path[0] == varHeaders && len(path) == 1:
		size = sizeOfHeaders
	case path[0] == varClaims:
		size = sizeOfClaims
	}
	return &checker.SizeEstimate{Min: 0, Max: size}
}

// EstimateCallCost implements checker.CostEstimator.
func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// holds evaluates the condition for each reading of the path: to deny, one must be true or fail; to allow, all must
// be true.
func (c *condition) holds(r *request, deny bool) bool {
	paths := r.paths[:1]
	if c.byPath && r.HTTP != nil {
		paths = r.paths[:]
	}
	for i, path := range paths {
		if i > 0 && slices.Contains(paths[:i], path) {
			continue
		}
		value, _, err := c.program.Eval(attributes{r, c.namespace, path})
		holds := err != nil && deny || err == nil && value.Value() == true
		if holds == deny {
			return deny
		}
	}
	return !deny
}

// attributes are what a condition looks at. Of opaque bytes nothing of a request is there, which fails.
type attributes struct {
	*request
	namespace, path string
}

// Parent implements interpreter.Activation.
func (attributes) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation.
func (a attributes) ResolveName(name string) (any, bool) {
	switch name {
	case varPrincipal:
		return "spiffe://" + a.TrustDomain + "/ns/" + a.Namespace + "/sa/" + a.ServiceAccount, true
	case varTrustDomain:
		return a.TrustDomain, true
	case varNamespace:
		return a.Namespace, true
	case varServiceAccount:
		return a.ServiceAccount, true
	case varAddress:
		return a.client.String(), a.client.IsValid()
	case varService:
		return a.Service, true
	case varServiceSpace:
		return a.namespace, true
	case varPort:
		return int64(a.Port), true
	}
	if a.HTTP == nil {
		return nil, false
	}
	switch name {
	case varMethod:
		return a.HTTP.Method, true
	case varHost:
		return a.HTTP.Authority, true
	case varPath:
		return a.path, true
	case varQuery:
		return a.HTTP.RawQuery, true
	case varHeaders:
		return a.headers(), true
	case varClaims:
		return claimsOf(a.token), true
	}
	return nil, false
}

// headers returns the fields of a request by their names in lower case; several values are joined (RFC 9110 section
// 5.3).
func (r *request) headers() map[string]string {
	if r.fields != nil {
		return r.fields
	}
	r.fields = map[string]string{}
	for _, f := range r.HTTP.Header {
		name := strings.ToLower(f.Name)
		if before, again := r.fields[name]; again {
			r.fields[name] = before + "," + f.Value
			continue
		}
		r.fields[name] = f.Value
	}
	return r.fields
}

// claimsOf returns the claims of a token, without one none, with numbers that can be compared.
func claimsOf(token *jwt.Token) map[string]any {
	if token == nil {
		return map[string]any{}
	}
	claims, _ := numbered(token.Claims).(map[string]any)
	return claims
}

// numbered makes integers and floating-point numbers of numbers. What does not fit stays text.
func numbered(claim any) any {
	switch v := claim.(type) {
	case josejson.Number:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			return n
		}
		if f, err := strconv.ParseFloat(string(v), 64); err == nil && strings.ContainsAny(string(v), ".eE") {
			return f
		}
		return string(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = numbered(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, inner := range v {
			out[name] = numbered(inner)
		}
		return out
	}
	return claim
}
