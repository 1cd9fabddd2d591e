package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weft.dev/weft/test/ports"
)

// asking are command lines of every command that asks a cluster, complete and right.
var asking = []string{
	"check", "check --pre", "status", "analyze", "describe svc shop/web", "describe route shop/web", "describe policy shop/web", "describe pod shop/web",
	"describe namespace shop", "routes explain http://web.shop/ --from shop", "routes diff cluster testdata/shop.yaml --replay testdata/replay.log",
	"routes test testdata/routes-test-cluster.yaml", "authz can shop web.shop:80", "proxy status", "proxy config shop", "proxy diff shop", "certs", "certs --expiring",
	"certs rotate-root", "stat", "top", "tap shop/web:80", "why x", "split shop/web", "split shop/web --set v2=20", "split shop/web --watch", "environments",
	"environments write staging", "debug bundle --file -",
}

// offline are those of every other command.
var offline = []string{
	"", "help", "version", "run -f testdata/shop.yaml", "routes test testdata/routes-test.yaml", "routes", "describe", "authz", "proxy", "debug",
	"completion", "completion bash", "completion zsh", "completion fish", "completion powershell",
}

// The lists have every command that there is, in the order of the tests below.
func TestEveryCommandIsTested(t *testing.T) {
	root := (&app{}).root()
	tested := map[*cobra.Command]bool{}
	for _, line := range slices.Concat(asking, offline) {
		cmd, _, err := root.Find(strings.Fields(line))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		tested[cmd] = true
	}
	for _, cmd := range everyCommand(root) {
		if !tested[cmd] {
			t.Errorf("%s is in neither list of command lines", display(cmd))
		}
	}
}

// oneLine says what is wrong with what people get for a mistake or a failure: one line that begins with error and holds
// a text, nothing else, and an exit code.
func (r ran) oneLine(code int, text string) string {
	if r.code != code || r.out != "" || !strings.HasPrefix(r.err, "error: ") || !strings.Contains(r.err, text) || strings.Count(r.err, "\n") != 1 {
		return fmt.Sprintf("exit code %d, %q, output %q; want %d, and one line with %q", r.code, r.err, r.out, code, text)
	}
	return ""
}

// Every command says in one line what is wrong with how it was called.
func TestMisuseOfEveryCommand(t *testing.T) {
	for _, line := range slices.Concat(asking, offline) {
		cmd, _, _ := (&app{}).root().Find(strings.Fields(line))
		see := "; see " + display(cmd) + " --help"
		for extra, want := range map[string]string{
			"--nothing":                        "unknown flag: --nothing" + see,
			"-Z":                               "unknown shorthand flag: 'Z' in -Z" + see,
			"too many words that mean nothing": see,
		} {
			if extra != "--nothing" && line == "help" {
				continue // its words are commands, and it says so
			}
			if wrong := (&world{}).run(t, strings.Fields(line+" "+extra)...).oneLine(exitUsage, want); wrong != "" {
				t.Errorf("%s %s: %s", line, extra, wrong)
			}
		}
		if words := strings.Fields(cmd.Use); len(words) > 1 && !strings.HasPrefix(words[1], "-") && cmd.Name() != "help" {
			if wrong := (&world{}).run(t, strings.Fields(strings.TrimPrefix(display(cmd), "kubectl weft "))...).oneLine(exitUsage, see); wrong != "" {
				t.Errorf("%s without its arguments: %s", display(cmd), wrong)
			}
		}
		all := pflag.NewFlagSet("", pflag.ContinueOnError)
		all.AddFlagSet(cmd.Flags())
		all.AddFlagSet(cmd.InheritedFlags())
		all.VisitAll(func(f *pflag.Flag) {
			given := "no:such/thing"
			switch value, limited := wrongValues[f.Name]; {
			case limited:
				given = value
			case !slices.Contains([]string{"bool", "int", "duration"}, f.Value.Type()):
				return // any text may be right
			}
			if wrong := (&world{objects: append(installed(), webService())}).run(t, append(strings.Fields(line), "--"+f.Name+"="+given)...).oneLine(exitUsage, "--"+f.Name); wrong != "" {
				t.Errorf("%s --%s=%s: %s", line, f.Name, given, wrong)
			}
		})
	}
}

// wrongValues are texts that flags do not take, by name.
var wrongValues = map[string]string{
	"output": "toml", "by": "pod", "fail-on": "never", "kind": "Deployment", "expiring": "soonish", "set": "v2", "window": "0s", "since": "yesterday",
	"backend": "web.shop:80=10.0.0.1:80", "header": "no colon",
}

// Every command that reads files says where they do not parse: line and column.
func TestFilesThatDoNotParse(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	writeFile(t, broken, "kind: [\n")
	misspelled := filepath.Join(t.TempDir(), "misspelled.yaml")
	writeFile(t, misspelled, "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {port: 1}\n")
	for _, file := range []struct{ path, where string }{{broken, ":2:1: "}, {misspelled, ":4:8: "}, {filepath.Join(t.TempDir(), "none.yaml"), "no such file"}} {
		lines := []string{
			"routes test FILE", "routes diff FILE testdata/shop.yaml --replay testdata/replay.log", "routes diff testdata/shop.yaml FILE --replay testdata/replay.log",
			"routes diff testdata/shop.yaml ./testdata/shop.yaml --replay testdata/replay.log -f FILE",
		}
		for _, line := range slices.Concat(asking, offline) {
			if cmd, _, _ := (&app{}).root().Find(strings.Fields(line)); cmd.Flags().Lookup("filename") != nil && cmd.Name() != "diff" {
				lines = append(lines, line+" -f FILE")
			}
		}
		for _, line := range lines {
			if file.path == misspelled && line == "routes test FILE" {
				continue // it is another kind of file
			}
			want := file.path + file.where
			if file.where[0] != ':' {
				want = file.path + ": " + file.where
			}
			if wrong := (&world{}).run(t, strings.Fields(strings.ReplaceAll(line, "FILE", file.path))...).oneLine(exitUsage, want); wrong != "" {
				t.Errorf("%s: %s", line, wrong)
			}
		}
	}
}

// Every command that asks a cluster says in one line what keeps it from that, and what to do.
func TestClustersThatDoNotHelp(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "x"}, "", errors.New("no"))
	for name, tc := range map[string]struct {
		world world
		code  int
		want  string
	}{
		"no permission": {world{list: forbidden, get: forbidden}, exitForbidden, "; ask for the ClusterRole weft-viewer"},
		"no Weft":       {world{noWeft: true}, exitAbsent, ""},
		"refused": {
			world{get: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}, list: &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}},
			exitUnreachable, "; try kubectl get namespaces",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, line := range asking {
				if tc.world.noWeft && strings.HasPrefix(line, "check") {
					continue // what it finds missing is its answer
				}
				w := tc.world
				if wrong := w.run(t, strings.Fields(line)...).oneLine(tc.code, tc.want); wrong != "" {
					t.Errorf("%s: %s", line, wrong)
				}
			}
		})
	}
}

// The same of servers that are there, through the whole client.
func TestServersThatDoNotHelp(t *testing.T) {
	answer := func(status int, kind, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
	}
	failure := func(code int, reason string) http.Handler {
		return answer(code, "application/json", fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"message":"it says %s","code":%d}`, reason, reason, code))
	}
	nobody := "https://" + ports.Refusing(t).String()
	for name, tc := range map[string]struct {
		handler http.Handler
		// config is what else the kubeconfig says of the server, args are further ones.
		config, args string
		code         int
		want         string
	}{
		"nobody listens":    {nil, "", "", exitUnreachable, "connection refused; try kubectl get namespaces"},
		"another authority": {failure(200, ""), " ", "", exitUnreachable, "; try kubectl get namespaces"},
		"who are you":       {failure(401, "Unauthorized"), "", "", exitForbidden, "the cluster does not know who you are; log in, or choose another --context"},
		"no right at all":   {failure(403, "Forbidden"), "", "", exitForbidden, "; ask for the ClusterRole weft-viewer"},
		"no API server":     {answer(404, "text/html", "<html>\n<h1>It works!</h1>"), "", "", exitUnreachable, "is no Kubernetes API server: it says 404 Not Found; see kubectl config get-contexts"},
		"something is lost": {answer(502, "text/html", "<html>\n<h1>Bad Gateway</h1>"), "", "", exitUnreachable, "it says 502 Bad Gateway; see kubectl config get-contexts"},
		"busy":              {failure(503, "ServiceUnavailable"), "", "", exitUnreachable, "; try again in a while"},
		"too slow": {
			http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				<-r.Context().Done()
				panic(http.ErrAbortHandler) // An answer could still reach the client while it hangs up.
			}), "", " --timeout 50ms",
			exitUnreachable, "the cluster does not answer in time; raise --timeout, or try kubectl get namespaces",
		},
		"no such kubeconfig": {nil, "none", "", exitUnreachable, "; name another with --kubeconfig or --context"},
		"other context":      {nil, "", " --context prod", exitUnreachable, `context "prod" does not exist; name another with --kubeconfig or --context`},
		"a cluster without Weft": {
			http.HandlerFunc(bareCluster), "", "", exitAbsent, "no Weft in this cluster; run kubectl weft check --pre, and install it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := nobody
			if tc.handler != nil {
				s := httptest.NewUnstartedServer(tc.handler)
				s.Config.ErrorLog = log.New(io.Discard, "", 0)
				s.StartTLS()
				t.Cleanup(s.Close)
				server = s.URL
			}
			path := filepath.Join(t.TempDir(), "config")
			if tc.config != "none" {
				trust := "insecure-skip-tls-verify: true"
				if tc.config != "" {
					trust = ""
				}
				writeFile(t, path, fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
users: [{name: me, user: {token: x}}]
clusters:
- name: here
  cluster:
    server: %s
    %s
`, server, trust))
			}
			for _, line := range asking {
				if name == "a cluster without Weft" && strings.HasPrefix(line, "check") {
					continue // what it finds missing is its answer
				}
				w := &world{own: true}
				if wrong := w.run(t, strings.Fields(line+" --kubeconfig "+path+tc.args)...).oneLine(tc.code, tc.want); wrong != "" {
					t.Errorf("%s: %s", line, wrong)
				}
			}
		})
	}
}

// bareCluster is an API server with nothing but namespaces and what else Kubernetes itself has, all of it empty.
func bareCluster(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	resource := func(name, kind string, namespaced bool) string {
		return fmt.Sprintf(`{"name":%q,"singularName":"","namespaced":%v,"kind":%q,"verbs":["get","list"]}`, name, namespaced, kind)
	}
	list := func(version string, resources ...string) string {
		return fmt.Sprintf(`{"kind":"APIResourceList","apiVersion":"v1","groupVersion":%q,"resources":[%s]}`, version, strings.Join(resources, ","))
	}
	group := func(name string) string {
		return fmt.Sprintf(`{"name":%q,"versions":[{"groupVersion":"%[1]s/v1","version":"v1"}],"preferredVersion":{"groupVersion":"%[1]s/v1","version":"v1"}}`, name)
	}
	switch path := r.URL.Path; {
	case path == "/api":
		fmt.Fprint(w, `{"kind":"APIVersions","versions":["v1"]}`)
	case path == "/apis":
		fmt.Fprintf(w, `{"kind":"APIGroupList","apiVersion":"v1","groups":[%s,%s,%s]}`, group("apps"), group("discovery.k8s.io"), group("networking.k8s.io"))
	case path == "/api/v1":
		fmt.Fprint(w, list("v1", resource("namespaces", "Namespace", false), resource("services", "Service", true), resource("pods", "Pod", true),
			resource("nodes", "Node", false), resource("configmaps", "ConfigMap", true)))
	case path == "/apis/apps/v1":
		fmt.Fprint(w, list("apps/v1", resource("deployments", "Deployment", true), resource("daemonsets", "DaemonSet", true)))
	case path == "/apis/discovery.k8s.io/v1":
		fmt.Fprint(w, list("discovery.k8s.io/v1", resource("endpointslices", "EndpointSlice", true)))
	case path == "/apis/networking.k8s.io/v1":
		fmt.Fprint(w, list("networking.k8s.io/v1", resource("networkpolicies", "NetworkPolicy", true)))
	case strings.Contains(path, "weft.dev") || strings.Contains(path, "gateway.networking.k8s.io") || strings.Contains(path, "/services/web"):
		http.NotFound(w, r)
	default:
		fmt.Fprint(w, `{"kind":"List","apiVersion":"v1","metadata":{},"items":[]}`)
	}
}

// Whoever may look but not write gets told which right is missing, and nothing is changed.
func TestNoRightToWrite(t *testing.T) {
	for line, next := range map[string]string{
		"certs rotate-root":          "; ask for the ClusterRole weft-mesh-editor",
		"split shop/web --set v2=20": "; ask for the right to patch it",
	} {
		route := webRoute("web", "web-v1")
		route.Spec.Rules[0].BackendRefs = append(route.Spec.Rules[0].BackendRefs, webRoute("x", "web-v2").Spec.Rules[0].BackendRefs...)
		w := &world{
			objects: append(installed(), webService(), route),
			patch:   apierrors.NewForbidden(schema.GroupResource{Group: "x", Resource: "y"}, "z", errors.New("no")),
		}
		if wrong := w.run(t, strings.Fields(line)...).oneLine(exitForbidden, next); wrong != "" {
			t.Errorf("%s: %s", line, wrong)
		}
	}
}

// What a command has to say comes as JSON and YAML too, and without colours where nobody wants any. Left out are commands
// that write what other programs take.
func TestOutputOfEveryCommand(t *testing.T) {
	without := []string{"kubectl weft environments write", "kubectl weft certs rotate-root", "kubectl weft help"}
	for _, cmd := range everyCommand((&app{}).root()) {
		if !cmd.HasParent() || cmd.Annotations[holderAnnotation] != "" || cmd.Parent().Name() == "completion" || slices.Contains(without, display(cmd)) {
			continue
		}
		if cmd.Flags().Lookup("output") == nil {
			t.Errorf("%s has no -o", display(cmd))
		}
	}
}

// Where nobody wants colours, no command writes any, not even on a terminal.
func TestNoColor(t *testing.T) {
	for _, noColor := range []bool{false, true} {
		coloured := 0
		for _, line := range slices.Concat(asking, offline) {
			w := &world{objects: append(installed(), webService(), webRoute("web", "gone")), terminal: true, noColor: noColor, allowed: true}
			if strings.HasPrefix(line, "run ") || strings.HasPrefix(line, "debug bundle") {
				continue // one goes on and on, the other writes an archive
			}
			got := w.run(t, strings.Fields(line)...)
			if strings.Contains(got.out+got.err, "\x1b") {
				coloured++
			}
		}
		if (coloured > 0) == noColor {
			t.Errorf("NO_COLOR %v: %d commands write colours", noColor, coloured)
		}
	}
}
