package main

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// asking are command lines of every command that asks a cluster.
var asking = []string{
	"check", "check --pre", "status", "analyze", "describe svc shop/web", "describe route shop/web", "describe policy shop/web", "describe pod shop/web",
	"describe namespace shop", "routes explain http://web.shop/ --from shop", "routes diff cluster testdata/shop.yaml --replay testdata/replay.log",
	"authz can shop web.shop:80", "proxy status", "proxy config shop", "proxy diff shop", "certs", "certs rotate-root", "stat", "top", "tap shop/web:80",
	"why x", "split shop/web", "split shop/web --set v2=20", "environments", "environments write staging", "debug bundle --file -",
}

// offline are those that ask none.
var offline = []string{"version", "run", "routes test"}

// Every command says in one line what is wrong, and ends with the exit code that docs/cli.md lists.
func TestBadInputOfEveryCommand(t *testing.T) {
	tested := map[string]bool{}
	for _, args := range append(append([]string{}, asking...), offline...) {
		words := strings.Fields(args)
		tested[words[0]] = true
		if len(words) > 1 {
			tested[words[0]+" "+words[1]] = true
		}
	}
	for _, cmd := range everyCommand((&app{}).root()) {
		name := strings.TrimPrefix(display(cmd), "kubectl weft ")
		if cmd.HasParent() && !cmd.HasSubCommands() && !tested[name] {
			t.Errorf("%s is not tested", name)
		}
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for name, tc := range map[string]struct {
		err   error
		extra string
		code  int
		want  string
	}{
		"unknown flag":     {nil, " --nothing", exitUsage, "unknown flag: --nothing; see kubectl weft "},
		"wrong value":      {nil, " --timeout soon", exitUsage, `invalid argument "soon" for "--timeout" flag`},
		"no permission":    {apierrors.NewForbidden(schema.GroupResource{Resource: "x"}, "", errors.New("no")), "", exitForbidden, "ask for the ClusterRole weft-viewer"},
		"unknown user":     {apierrors.NewUnauthorized("no"), "", exitForbidden, "log in, or choose another --context"},
		"no cluster":       {refused, "", exitUnreachable, "try kubectl get namespaces"},
		"no Weft":          {nil, "", exitAbsent, ""},
		"wrong kubeconfig": {nil, " --kubeconfig testdata/nowhere", exitUnreachable, "--kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			lines := asking
			if tc.code == exitUsage {
				lines = append(append([]string{}, asking...), offline...)
			}
			for _, args := range lines {
				w := &world{list: tc.err, get: tc.err, own: name == "wrong kubeconfig", noWeft: name == "no Weft"}
				if w.noWeft && strings.HasPrefix(args, "check") {
					continue // what it finds missing is its answer
				}
				got := w.run(t, strings.Fields(args+tc.extra)...)
				if got.code != tc.code || !strings.HasPrefix(got.err, "error: ") || !strings.Contains(got.err, tc.want) || strings.Count(got.err, "\n") != 1 {
					t.Errorf("%s: exit code %d, %q; want %d, and %q", args, got.code, got.err, tc.code, tc.want)
				}
			}
		})
	}
}
