package arch_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "weft.dev/weft"

// root is the checkout.
var root = filepath.Join("..", "..")

// goPackage is what "go list -json" says about a package.
type goPackage struct {
	ImportPath, Dir           string
	Standard                  bool
	Imports, Deps             []string
	GoFiles                   []string
	TestGoFiles, XTestGoFiles []string
	IgnoredGoFiles            []string
}

// packages are all packages of the module, without their tests' imports.
var packages = sync.OnceValues(func() ([]goPackage, error) {
	list := exec.Command("go", "list", "-json", "./...")
	list.Dir, list.Stderr = root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, err
	}
	var found []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
})

func allPackages(t *testing.T) []goPackage {
	t.Helper()
	found, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// within tells whether a package is one of the given ones or below one.
func within(path string, parents ...string) bool {
	return slices.ContainsFunc(parents, func(parent string) bool {
		return path == parent || strings.HasPrefix(path, parent+"/")
	})
}

// ours returns the path of a package of this module.
func ours(path string) string { return module + "/" + path }

// rule limits what packages import.
type rule struct {
	// what the rule says, for the message.
	says string
	// packages are those it is for, with all below them, without those in except.
	packages, except []string
	// deep extends the rule to everything that the imports import in turn.
	deep bool
	// forbidden tells about one import. importer is the package that the rule is for.
	forbidden func(importer, imported string) bool
}

var rules = []rule{
	{
		says:     "the wire contract imports nothing of Weft and nothing of Kubernetes",
		packages: []string{ours("proxy/wire")},
		deep:     true,
		forbidden: func(importer, imported string) bool {
			return within(imported, module, "k8s.io", "sigs.k8s.io") && imported != importer
		},
	},
	{
		says: "compile imports the contract, the API, the pure match code and Kubernetes types",
		packages: []string{
			ours("controllers/compile"),
		},
		forbidden: func(_, imported string) bool {
			return within(imported, module) && !within(imported, ours("proxy/wire"), ours("proxy/http"), ours("proxy/authz"), ours("proxy/jwt"), ours("api")) ||
				within(imported, "k8s.io", "sigs.k8s.io") && !within(imported, "k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/gateway-api/apis")
		},
	},
	{
		says:     "compile does no input or output and logs nothing",
		packages: []string{ours("controllers/compile")},
		forbidden: func(_, imported string) bool {
			return within(imported, "context", "io", "log", "math/rand", "net/http", "os", "sync", "github.com/go-logr") || imported == "net"
		},
	},
	{
		says:     "the pure match code and the names of attributes import nothing but the contract",
		packages: []string{ours("proxy/http"), ours("proxy/jwt"), ours("proxy/authz"), ours("proxy/attribute")},
		forbidden: func(importer, imported string) bool {
			allowed := []string{ours("proxy/wire"), importer}
			if importer == ours("proxy/authz") {
				allowed = append(allowed, ours("proxy/http"), ours("proxy/jwt"))
			}
			return within(imported, module) && !within(imported, allowed...) ||
				within(imported, "net/http", "os", "context")
		},
	},
	{
		says:     "the control plane imports of the data plane only the contract, the pure match code and the names of attributes",
		packages: []string{ours("controllers"), ours("webhooks")},
		forbidden: func(_, imported string) bool {
			return within(imported, ours("proxy")) && !within(imported, ours("proxy/wire"), ours("proxy/http"), ours("proxy/authz"), ours("proxy/jwt"), ours("proxy/attribute"))
		},
	},
	{
		says:     "the data plane knows no Kubernetes packages",
		packages: []string{ours("proxy"), ours("cmd/weft-proxy")},
		deep:     true,
		forbidden: func(_, imported string) bool {
			return within(imported, "k8s.io", "sigs.k8s.io")
		},
	},
	{
		says:     "the data plane knows nothing of the control plane",
		packages: []string{ours("proxy"), ours("cmd/weft-proxy"), ours("cmd/weft-node")},
		deep:     true,
		forbidden: func(_, imported string) bool {
			return within(imported, ours("controllers"), ours("webhooks"), ours("api"))
		},
	},
	{
		says:     "the node agent knows no Kubernetes package but the interface of container runtimes",
		packages: []string{ours("cmd/weft-node")},
		deep:     true,
		forbidden: func(_, imported string) bool {
			return within(imported, "k8s.io", "sigs.k8s.io") && !within(imported, "k8s.io/cri-api")
		},
	},
	{
		says: "the parts at the edges of the control plane do not import each other",
		packages: []string{
			ours("controllers/cluster"), ours("controllers/status"), ours("controllers/distribute"),
			ours("controllers/infra"), ours("controllers/identity"), ours("controllers/jwks"),
		},
		deep: true,
		forbidden: func(importer, imported string) bool {
			return within(imported, ours("controllers")) && !within(imported, importer, ours("controllers/compile"))
		},
	},
	{
		says:     "admission reads, compiles and serves: of the control plane it knows nothing else",
		packages: []string{ours("webhooks")},
		deep:     true,
		forbidden: func(_, imported string) bool {
			return within(imported, ours("controllers")) &&
				!within(imported, ours("controllers/compile"), ours("controllers/cluster"), ours("controllers/identity"))
		},
	},
	{
		says:      "only distribute serves and only tests dial: nothing else of the control plane knows gRPC",
		packages:  []string{ours("controllers")},
		except:    []string{ours("controllers/distribute")},
		forbidden: func(_, imported string) bool { return within(imported, "google.golang.org/grpc") },
	},
	{
		says:      "the API imports nothing of Weft",
		packages:  []string{ours("api")},
		deep:      true,
		forbidden: func(importer, imported string) bool { return within(imported, module) && imported != importer },
	},
	{
		says: "nothing that runs in a cluster knows the command line",
		packages: []string{
			ours("api"), ours("controllers"), ours("webhooks"), ours("proxy"),
			ours("cmd/weft-operator"), ours("cmd/weft-proxy"), ours("cmd/weft-node"),
		},
		deep:      true,
		forbidden: func(_, imported string) bool { return within(imported, ours("cmd/kubectl-weft")) },
	},
	{
		says:     "what judges a mesh is pure: it reads nothing and waits for nothing",
		packages: []string{ours("cmd/kubectl-weft/findings"), ours("cmd/kubectl-weft/trial")},
		forbidden: func(_, imported string) bool {
			return within(imported, "context", "io", "log", "net/http", "os", "sync", "k8s.io/client-go", "sigs.k8s.io/controller-runtime") ||
				within(imported, ours("proxy")) && !within(imported, ours("proxy/wire"), ours("proxy/http"), ours("proxy/authz"), ours("proxy/reason"))
		},
	},
	{
		says:     "commands are not imported, and nothing that ships imports tests",
		packages: []string{ours("api"), ours("controllers"), ours("webhooks"), ours("proxy"), ours("cmd")},
		deep:     true,
		forbidden: func(importer, imported string) bool {
			// What kubectl weft is made of lies below its command, and is for it alone.
			own := within(importer, ours("cmd/kubectl-weft")) && within(imported, ours("cmd/kubectl-weft")) && imported != ours("cmd/kubectl-weft")
			return within(imported, ours("cmd"), ours("test")) && imported != importer && !own
		},
	},
}

// breaches returns what packages import against a rule, as "importer imports imported".
func (r rule) breaches(all []goPackage) []string {
	var found []string
	for _, p := range all {
		if !within(p.ImportPath, r.packages...) || within(p.ImportPath, r.except...) {
			continue
		}
		imports := p.Imports
		if r.deep {
			imports = p.Deps
		}
		for _, imported := range imports {
			if r.forbidden(p.ImportPath, imported) {
				found = append(found, p.ImportPath+" imports "+imported)
			}
		}
	}
	return found
}

func TestImports(t *testing.T) {
	for _, r := range rules {
		for _, breach := range r.breaches(allPackages(t)) {
			t.Errorf("%s: %s", r.says, breach)
		}
	}
}

// A rule about packages that do not exist, under a name that changed, would hold for ever.
func TestRulesAreAboutSomething(t *testing.T) {
	for _, r := range rules {
		for _, path := range slices.Concat(r.packages, r.except) {
			exists := slices.ContainsFunc(allPackages(t), func(p goPackage) bool { return within(p.ImportPath, path) })
			if !exists {
				t.Errorf("%s: there is no package %s", r.says, path)
			}
		}
	}
}

func TestRulesFindBreaches(t *testing.T) {
	cases := map[string]struct {
		pkg  goPackage
		want string
	}{
		"wire imports the API":             {goPackage{ImportPath: ours("proxy/wire"), Deps: []string{ours("api/v1alpha1")}}, "the wire contract"},
		"compile uses a client":            {goPackage{ImportPath: ours("controllers/compile"), Imports: []string{"sigs.k8s.io/controller-runtime/pkg/client"}}, "compile imports"},
		"compile looks at the clock's log": {goPackage{ImportPath: ours("controllers/compile"), Imports: []string{"log/slog"}}, "compile does no"},
		"matching on net/http":             {goPackage{ImportPath: ours("proxy/http"), Imports: []string{"net/http"}}, "the pure match code"},
		"status uses the engine":           {goPackage{ImportPath: ours("controllers/status"), Imports: []string{ours("proxy/engine")}}, "the control plane imports"},
		"a proxy reaches Kubernetes":       {goPackage{ImportPath: ours("proxy/tcp"), Deps: []string{"k8s.io/api/core/v1"}}, "the data plane knows no"},
		"a proxy reaches the compiler":     {goPackage{ImportPath: ours("proxy/tcp"), Deps: []string{ours("controllers/compile")}}, "the data plane knows nothing"},
		"the agent uses a clientset":       {goPackage{ImportPath: ours("cmd/weft-node"), Deps: []string{"k8s.io/client-go/kubernetes"}}, "the node agent"},
		"infra uses identity":              {goPackage{ImportPath: ours("controllers/infra"), Deps: []string{ours("controllers/identity")}}, "the parts at the edges"},
		"admission asks the hub":           {goPackage{ImportPath: ours("webhooks"), Deps: []string{ours("controllers/distribute")}}, "admission reads"},
		"the operator knows kubectl weft":  {goPackage{ImportPath: ours("controllers/status"), Deps: []string{ours("cmd/kubectl-weft/mesh")}}, "nothing that runs"},
		"a finding asks a cluster":         {goPackage{ImportPath: ours("cmd/kubectl-weft/findings"), Imports: []string{"k8s.io/client-go/kubernetes"}}, "what judges a mesh"},
		"the operator ships a test":        {goPackage{ImportPath: ours("cmd/weft-operator"), Deps: []string{ours("test/report")}}, "commands are not imported"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			found := slices.ContainsFunc(rules, func(r rule) bool {
				return strings.HasPrefix(r.says, tc.want) && len(r.breaches([]goPackage{tc.pkg})) == 1
			})
			if !found {
				t.Errorf("no rule about %q finds it", tc.want)
			}
		})
	}
}
