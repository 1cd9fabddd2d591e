package feature_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	jose "github.com/go-jose/go-jose/v4"

	"weft.dev/weft/controllers/compile"
	"weft.dev/weft/proxy/jwt/jwttest"
	"weft.dev/weft/test/feature/harness"
)

// example returns the objects of some files of a folder of examples.
func example(t *testing.T, folder string, files ...string) compile.Snapshot {
	t.Helper()
	s, err := harness.DecodeFiles(os.DirFS(filepath.Join("..", "..", "examples", folder)), files...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// try puts objects in force, whose routes must have no flaw, and sends requests.
func try(t *testing.T, m *harness.Mesh, objects compile.Snapshot, requests map[string]request) {
	t.Helper()
	if f := flaws(apply(t, m, objects).Compiled); len(f) > 0 {
		t.Errorf("conditions: %v", f)
	}
	for name, r := range requests {
		r.setDefaults()
		t.Run(name, func(t *testing.T) { r.run(t, m) })
	}
}

// TestReleaseExample goes through the steps of examples/release in their order, and back.
func TestReleaseExample(t *testing.T) {
	const mirrored = 500
	m := start(t)
	preview := map[string]string{"x-preview": "true"}
	send := func(times int, headers map[string]string, want want) request {
		return request{From: "release", Times: times, Headers: headers, Want: want}
	}
	steps := []struct {
		file     string
		requests map[string]request
	}{
		{"app.yaml", map[string]request{
			"before any route": send(20, nil, want{Pod: "v1"}),
		}},
		{"1-mirror.yaml", map[string]request{
			"mirrored": send(mirrored, preview, want{Pod: "v1"}),
		}},
		{"2-preview.yaml", map[string]request{
			"everybody":     send(20, nil, want{Pod: "v1"}),
			"whoever asks":  send(20, preview, want{Pod: "v2"}),
			"another value": send(1, map[string]string{"x-preview": "false"}, want{Pod: "v1"}),
		}},
		{"3-gray.yaml", map[string]request{
			"one of ten":   send(1000, nil, want{Split: map[string]int{"v1": 90, "v2": 10}}),
			"whoever asks": send(20, preview, want{Pod: "v2"}),
		}},
		{"green.yaml", map[string]request{"everybody": send(100, nil, want{Pod: "v2"})}},
		{"blue.yaml", map[string]request{"everybody again": send(100, preview, want{Pod: "v1"})}},
	}
	for _, step := range steps {
		files := []string{"app.yaml", "standalone/*.yaml", step.file}
		try(t, m, example(t, "release", files...), step.requests)
		if step.file == "1-mirror.yaml" {
			checkMirrored(t, pod(t, m, "v2"), mirrored/5)
		}
	}
}

// checkMirrored waits for the copies that a pod must have got, which are chosen at random, and expects not
// many more.
func checkMirrored(t *testing.T, p *harness.Pod, expected int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Await(ctx, expected/2); err != nil {
		t.Error(err)
	}
	if got := p.Requests(); got > 2*expected {
		t.Errorf("%d copies, want about %d", got, expected)
	}
}

// inEnvironment are requests that say in every way that they belong to staging, and some that do not.
func inEnvironment(production, staging string) map[string]request {
	send := func(field, value, pod string) request {
		return request{From: "store", To: production, Headers: map[string]string{field: value}, Want: want{Pod: pod}}
	}
	return map[string]request{
		"nothing said":               send("x-other", "staging", production),
		"header":                     send("x-environment", "staging", staging),
		"another environment":        send("x-environment", "production", production),
		"the only member":            send("baggage", "environment=staging", staging),
		"the last member":            send("baggage", "user=alice,environment=staging", staging),
		"the first member":           send("baggage", "environment=staging,user=alice", staging),
		"with spaces and properties": send("baggage", "user=alice , environment = staging ;ttl=1, n=1", staging),
		"another member":             send("baggage", "myenvironment=staging", production),
		"another value":              send("baggage", "environment=staging2", production),
		"a property":                 send("baggage", "user=alice;environment=staging2", production),
	}
}

// TestEnvironmentExample: a Service's environments are told by header and by baggage, or by the
// namespace of the caller.
func TestEnvironmentExample(t *testing.T) {
	m := start(t)
	requests := inEnvironment("cart", "cart-staging")
	requests["testing"] = request{From: "store", To: "cart", Headers: map[string]string{"baggage": "environment=testing"}, Want: want{Pod: "cart-testing"}}
	requests["a namespace of staging"] = request{From: "store-staging", To: "cart.store", Want: want{Pod: "cart-staging"}}
	requests["a Service without twin there"] = request{From: "store-staging", To: "catalog.store", Want: want{Pod: "catalog"}}
	try(t, m, example(t, "environments", "app.yaml", "standalone/*.yaml", "service.yaml", "by-namespace.yaml"), requests)
}

// TestEnvironmentTwins: the script writes routes for every Service that has a twin, and for no other.
func TestEnvironmentTwins(t *testing.T) {
	objects := example(t, "environments", "app.yaml", "standalone/*.yaml")
	var listed strings.Builder
	for _, svc := range objects.Services {
		listed.WriteString(svc.Namespace + " " + svc.Name + " 80\n")
	}
	// In another namespace it is no twin.
	listed.WriteString("store catalog 80\nelsewhere catalog-staging 80\n")
	dir := t.TempDir()
	kubectl := "#!/bin/sh\nprintf '%s' '" + listed.String() + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "kubectl"), []byte(kubectl), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "../../examples/environments/twins.sh", "staging")
	command.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	written, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, written)
	}
	if err := harness.DecodeAll(written, &objects); err != nil {
		t.Fatalf("%v\n%s", err, written)
	}
	if len(objects.HTTPRoutes) != 2 {
		t.Errorf("%d routes, want those of cart and pay:\n%s", len(objects.HTTPRoutes), written)
	}
	m := start(t)
	requests := inEnvironment("pay", "pay-staging")
	requests["another Service"] = request{From: "store", To: "cart", Headers: map[string]string{"x-environment": "staging"}, Want: want{Pod: "cart-staging"}}
	requests["no twin"] = request{From: "store", To: "catalog", Headers: map[string]string{"x-environment": "staging"}, Want: want{Pod: "catalog"}}
	try(t, m, objects, requests)
}

// TestAuthorizationExample: each policy of examples/authorization lets in whom it says, and nobody else.
func TestAuthorizationExample(t *testing.T) {
	signer := jwttest.New("one", jose.ES256)
	get := func(from, to, path string, status int) request {
		r := request{From: from, To: to + ".market", Path: path, Want: want{Status: status}}
		if status == 403 {
			r.Want.Reason = "authorization_denied"
		}
		return r
	}
	with := func(r request, method string, headers map[string]string) request {
		r.Method, r.Headers = method, headers
		return r
	}
	user, roles := "ann", `["clerk","auditor"]`
	clerk := with(get("front", "accounts", "/ann", 200), "GET", asUser(signer, user, "clerk", "auditor"))
	clerk.Want.Saw = &saw{Headers: map[string]*string{"X-User": &user, "X-Roles": &roles}}
	nobody := get("front", "accounts", "/ann", 401)
	nobody.Want.Reason = "token_required"
	m := start(t)
	steps := []struct {
		file     string
		requests map[string]request
	}{
		{"1-audit.yaml", map[string]request{
			"what will be allowed": get("front", "orders", "/orders/1", 200),
			"what will be refused": get("market", "orders", "/orders/1", 200),
		}},
		{"2-enforce.yaml", map[string]request{
			"reads":             get("front", "orders", "/orders/1", 200),
			"another namespace": get("market", "orders", "/orders/1", 403),
			"an order":          with(get("front", "orders", "/orders", 200), "POST", nil),
			"another path":      with(get("front", "orders", "/orders/1", 403), "POST", nil),
			"another method":    with(get("front", "orders", "/orders", 403), "DELETE", nil),
		}},
		{"token.yaml", map[string]request{
			"a clerk":       clerk,
			"a user":        with(get("front", "accounts", "/ann", 403), "GET", asUser(signer, "bob", "guest")),
			"what they see": with(get("front", "accounts", "/public/a", 200), "GET", asUser(signer, "bob", "guest")),
			"nobody":        nobody,
		}},
		{"condition.yaml", map[string]request{
			"their own":             get("front", "reports", "/reports/front/1", 200),
			"others'":               get("front", "reports", "/reports/market/1", 403),
			"past their own":        get("front", "reports", "/reports/front/..%2fmarket/1", 403),
			"to write":              with(get("front", "reports", "/reports/front/1", 403), "PUT", nil),
			"to write with a cause": with(get("market", "reports", "/x", 200), "PUT", map[string]string{"X-Change": "CHG-17"}),
			"with another cause":    with(get("market", "reports", "/x", 403), "PUT", map[string]string{"X-Change": "just so"}),
			"without one":           with(get("market", "reports", "/x", 403), "PUT", nil),
		}},
		{"route.yaml", map[string]request{
			"the rest":              get("front", "catalog", "/items", 200),
			"the rule":              get("front", "catalog", "/admin/users", 403),
			"what may be the rule":  get("front", "catalog", "/items/..%2fadmin", 403),
			"the rule, for the one": get("market", "catalog", "/admin/users", 200),
		}},
	}
	for _, step := range steps {
		objects := example(t, "authorization", "app.yaml", "standalone/*.yaml", step.file)
		objects.KeySets = map[compile.KeySource]compile.KeySet{{URL: issuer + "/keys"}: {Keys: jwttest.Set(signer)}}
		try(t, m, objects, step.requests)
		if step.file == "1-audit.yaml" {
			if got := decided(t, m, "market", "orders", "would_deny"); got != 1 {
				t.Errorf("%v calls are counted as refused in future, want 1", got)
			}
		}
	}
}
