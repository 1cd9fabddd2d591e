//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.dev/weft/test/e2e/testbed"
	"weft.dev/weft/test/e2e/traffic"
)

// says runs a command line and fails unless it ends with a code and what it has written holds all texts.
func says(t *testing.T, p *testbed.Person, code int, command string, texts ...string) testbed.Ran {
	t.Helper()
	got := p.Run(t, strings.Fields(command)...)
	if got.Code != code {
		t.Errorf("kubectl weft %s: %s", command, got)
	}
	for _, text := range texts {
		if !strings.Contains(got.Out+got.Errors, text) {
			t.Errorf("kubectl weft %s: %q is missing in: %s", command, text, got)
		}
	}
	return got
}

// TestCommandLineOverview asks about the whole mesh, which nobody may disturb meanwhile.
func TestCommandLineOverview(t *testing.T) {
	here, there := bed.Namespace(t, true), bed.Namespace(t, true)
	for _, namespace := range []string{here, there} {
		bed.Run(t, namespace, testbed.App{Name: "client", Node: "node1"})
		bed.Proxies(t, namespace)
	}
	viewer := bed.Person(t, here, "overview", "weft-viewer", "weft-debugger")
	// The Mesh may not have heard yet that the proxies of the new namespaces are ready.
	testbed.Eventually(t, func(context.Context) error {
		if got := viewer.Run(t, "check"); got.Code != 0 {
			return fmt.Errorf("kubectl weft check: %s", got)
		}
		return nil
	})
	says(t, viewer, 0, "check", "ok: ", "checks: 0 failed")
	says(t, viewer, 0, "status", "Weft on Kubernetes v1.", "node agents", here+" ", "2/2", "GatewayAPIInstalled", "The root ends")
	says(t, viewer, 0, "proxy status", here, there, "synced")
	says(t, viewer, 0, "certs", "root", "intermediate", "/ns/"+here+"/sa/default", "/ns/"+there+"/sa/default", "Exchange of the root: Steady")
	says(t, viewer, 1, "check --pre", "create clusterroles")
}

// TestCommandLine runs the commands that look at a mesh as somebody who has the roles that are made for it and no
// other rights.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	w := inTown(t)
	viewer := bed.Person(t, w.home, "viewer", "weft-viewer", "weft-debugger")
	stranger := bed.Person(t, w.home, "stranger")
	w.services(t, "cli")
	bed.Create(t, testbed.NewService(w.home, "cli-empty", map[string]string{"version": "none"}))
	bed.Enforce(t, testbed.MeshPolicy(t, w.home, `
metadata: {name: cli}
spec:
  targetRefs: [{group: "", kind: Service, name: cli}]
  timeouts: {request: 7s}
`))
	audit := testbed.MeshAuthorization(t, w.home, `
metadata: {name: cli}
spec:
  targetRefs: [{group: "", kind: Service, name: cli-v2}]
  mode: Audit
  action: Deny
  rules: [{to: [{paths: [{type: Prefix, value: /secret}]}]}]
`)
	bed.Create(t, audit)
	testbed.Await(t, bed, audit, programmed)
	bed.Program(t, testbed.HTTPRoute(t, w.home, `
metadata: {name: cli}
spec:
  parentRefs: [{group: "", kind: Service, name: cli, port: 80}]
  rules:
  - name: preview
    matches: [{headers: [{name: x-preview, value: "true"}]}]
    backendRefs: [{name: cli-v2, port: 80}]
  - name: broken
    matches: [{path: {type: PathPrefix, value: /broken}}]
    backendRefs: [{name: cli-empty, port: 80}]
  - name: everybody
    backendRefs: [{name: cli-v1, port: 80, weight: 3}, {name: cli-v2, port: 80, weight: 1}]
`))
	url := "http://cli." + w.home
	captured(t, w.client, traffic.Request{URL: url})
	captured(t, w.abroadClient, traffic.Request{URL: url})
	route := "HTTPRoute " + w.home + "/cli"
	cli := w.home + "/cli:80"

	t.Run("describe", func(t *testing.T) {
		proxies := "a proxy"
		if w.client.Beside {
			proxies = "the proxy beside it"
		}
		says(t, viewer, 0, "describe svc cli", "In the mesh\n  yes", `2. header x-preview "true"`, "75 % "+w.home+"/cli-v1:80, 25 % "+w.home+"/cli-v2:80",
			"everybody in the mesh", "timeouts.request = 7s, says MeshPolicy "+w.home+"/cli")
		says(t, viewer, 0, "describe route "+w.home+"/cli", "yes: attached to Service "+cli[:len(cli)-3]+", port 80", `(rule "preview" of `+route+")")
		says(t, viewer, 0, "describe policy cli", "timeouts.request = 7s")
		says(t, viewer, 0, "describe pod client", "yes: its calls to captured Services pass "+proxies, "/ns/"+w.home+"/sa/default")
		says(t, viewer, 0, "describe namespace "+w.home, "Enrolled\n  yes", "HTTPRoute cli", "weft-proxy-")
		says(t, viewer, 5, "describe svc nobody", "error: Service "+w.home+"/nobody does not exist")
	})
	t.Run("explain", func(t *testing.T) {
		got := viewer.Run(t, "routes", "explain", "GET "+url+"/", "-H", "x-preview: true", "--from", w.abroad+"/client")
		for _, text := range []string{"from Pod " + w.abroad + "/client", `takes rule "preview" of ` + route, "100 % goes to " + w.home + "/cli-v2:80, over mutual TLS", "1 pod"} {
			if !strings.Contains(got.Out, text) || got.Code != 0 {
				t.Errorf("%q is missing in: %s", text, got)
			}
		}
		got = viewer.Run(t, "routes", "explain", "GET "+url+"/broken", "--from", w.home)
		if got.Code != 1 || !strings.Contains(got.Out, "no_endpoints") {
			t.Errorf("a backend without pods: %s", got)
		}
		// What is said is what happens.
		a := w.client.Send(t, traffic.Request{URL: url + "/broken"})
		if wrong := local(503, "no_endpoints")(&a); wrong != "" {
			t.Errorf("%s: %s", wrong, show(&a))
		}
	})
	t.Run("authz", func(t *testing.T) {
		says(t, viewer, 0, "authz can "+w.abroad+"/client cli-v2."+w.home+":80 --path /secret/1", "allowed, but would be denied by rule 0 of MeshAuthorization "+w.home+"/cli")
		says(t, viewer, 0, "authz can "+w.abroad+"/client cli-v2."+w.home+":80 --path /open", "MeshAuthorization "+w.home+"/cli (Deny, audited): no rule matches")
	})
	t.Run("proxies", func(t *testing.T) {
		// What other tests declare meanwhile may be on its way.
		testbed.Eventually(t, func(context.Context) error {
			for _, command := range []string{"proxy status -n " + w.home, "proxy diff " + w.home} {
				if got := viewer.Run(t, strings.Fields(command)...); got.Code != 0 {
					return fmt.Errorf("kubectl weft %s: %s", command, got)
				}
			}
			return nil
		})
		says(t, viewer, 0, "proxy config "+w.home+" --kind Route --key "+"HTTPRoute/"+w.home+"/cli", "Proxy "+w.home+"/weft-proxy-", "HTTPRoute/"+w.home+"/cli/0", route)
		if got := says(t, viewer, 0, "proxy config "+w.home+" -o json", `"spiffeID"`); strings.Contains(got.Out, "PRIVATE KEY") {
			t.Error("a private key is shown")
		}
		says(t, viewer, 0, "certs -n "+w.abroad, "/ns/"+w.abroad+"/sa/default")
	})
	t.Run("analyze", func(t *testing.T) {
		says(t, viewer, 1, "analyze -n "+w.home, "WEFT110", `rule "broken" sends to `+w.home+"/cli-empty:80, which has no ready pod")
		dangling := testbed.HTTPRoute(t, w.home, `
metadata: {name: cli-dangling}
spec:
  parentRefs: [{group: "", kind: Service, name: cli-v1, port: 80}]
  rules: [{backendRefs: [{name: cli-nowhere, port: 80}]}]
`)
		bed.Create(t, dangling)
		says(t, viewer, 1, "analyze -n "+w.home, "WEFT102", "Service "+w.home+"/cli-nowhere does not exist")
		// Who comes past the mesh, and what is not encrypted. The pod is never scheduled, the policy picks no other.
		outside := testbed.NewService(w.home, "cli-outside", onlyV1)
		outside.Spec.Type = corev1.ServiceTypeNodePort
		host := bed.Object(w.home, testbed.App{Name: "cli-host"})
		host.Spec.HostNetwork, host.Spec.SchedulingGates = true, []corev1.PodSchedulingGate{{Name: "weft.dev/never"}}
		fenced := bed.Object(w.home, testbed.App{Name: "cli-fenced"})
		fenced.Spec.SchedulingGates = host.Spec.SchedulingGates
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: w.home, Name: "cli-fence"}}
		policy.Spec.PodSelector.MatchLabels = fenced.Labels
		policy.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
		through := testbed.HTTPRoute(t, w.home, `
metadata: {name: cli-outside}
spec:
  parentRefs: [{group: "", kind: Service, name: cli-outside, port: 80}]
  rules: [{backendRefs: [{name: cli-outside, port: 80}]}]
`)
		bed.Create(t, outside, through, host, fenced, policy)
		says(t, viewer, 1, "analyze -n "+w.home+" -o wide",
			"WEFT130", "NetworkPolicy "+w.home+"/cli-fence", "it blocks egress of pod cli-fenced", "WEFT131", "Pod "+w.home+"/cli-host",
			"WEFT132", "it is of type NodePort: who comes in by it passes HTTPRoute cli-outside", "WEFT133", "its pods and proxies are on 2 nodes")
	})
	t.Run("why", func(t *testing.T) {
		callee := proxyName(w.v1)
		if w.v1.Beside {
			callee = w.home + "/v" // either version
		}
		for id, path := range map[string]string{"cli-good": "/", "cli-bad": "/broken"} {
			w.abroadClient.Send(t, traffic.Request{URL: url + path, Header: map[string]string{"x-request-id": id}})
		}
		says(t, viewer, 0, "why cli-good", "at the proxy of the caller, "+proxyName(w.abroadClient), "at the proxy of the callee, "+callee,
			`for `+cli+", by rule ", "answered 200 after")
		says(t, viewer, 1, "why cli-bad", "at the proxy of the callee, "+w.home, "by the proxy: no_endpoints", "by the callee's namespace, whose proxies know why")
		says(t, viewer, 1, "why cli-bad -n "+w.abroad, "leave out -n to ask them")
		says(t, viewer, 5, "why cli-never", "no proxy remembers")
	})
	t.Run("traffic", func(t *testing.T) { watchTraffic(t, w, viewer, cli, url) })
	t.Run("a stranger", func(t *testing.T) {
		for _, command := range []string{
			"check", "check --pre", "status", "analyze", "describe svc cli", "describe route cli", "describe policy cli", "describe pod client",
			"describe namespace " + w.home, "routes explain http://cli." + w.home + "/", "authz can x cli." + w.home, "proxy status", "proxy config " + w.home,
			"proxy diff " + w.home, "certs", "certs rotate-root", "stat", "top", "tap cli:80", "why x", "split cli", "split cli --set v2=20 --rule everybody",
			"environments", "environments write staging", "debug bundle --file -",
		} {
			if got := says(t, stranger, 4, command, "error: ", "; ask for the ClusterRole weft-viewer"); strings.Count(got.Errors, "\n") != 1 {
				t.Errorf("kubectl weft %s: not one line: %s", command, got)
			}
		}
	})
}

// proxyName is how the names of the proxies of a pod begin, in their namespace.
func proxyName(of *testbed.Pod) string {
	if of.Beside {
		return of.Namespace + "/" + of.Name
	}
	return of.Namespace + "/weft-proxy-"
}

// watchTraffic looks at requests while they come.
func watchTraffic(t *testing.T, w *town, viewer *testbed.Person, cli, url string) {
	load := w.client.Load(t, traffic.Load{Rate: 40, Workers: 2, Requests: []traffic.Request{
		{URL: url + "/list?secret=1", Header: map[string]string{"authorization": "Bearer hidden", "x-shown": "shown"}}, {URL: url + "/broken"},
	}})
	got := says(t, viewer, 0, "stat -n "+w.home+" --window 3s -o json")
	var rows []struct {
		Name                    string
		PerSecond, Success, P99 float64
	}
	if err := json.Unmarshal([]byte(got.Out), &rows); err != nil {
		t.Fatalf("stat: %v: %s", err, got)
	}
	i := 0
	for i < len(rows) && rows[i].Name != cli {
		i++
	}
	if i == len(rows) || rows[i].PerSecond < 5 || rows[i].Success < 25 || rows[i].Success > 75 || rows[i].P99 <= 0 {
		t.Errorf("stat says %+v, want half of 40 requests a second to %s to succeed", rows, cli)
	}
	says(t, viewer, 0, "stat -n "+w.home+" --by backend --window 3s", "BACKEND", w.home+"/cli-v1:80")
	says(t, viewer, 0, "stat -n "+w.home+" --by route --window 3s", "HTTPRoute/"+w.home+"/cli")

	got = says(t, viewer, 0, "tap "+cli+" --path /list --limit 3 -o wide", "200 GET cli."+w.home+"/list ", "x-shown: shown", "/ns/"+w.home+"/sa/default")
	if n := strings.Count(got.Out, "captured"); n != 3 || strings.Contains(got.Out, "hidden") || strings.Contains(got.Out, "secret") {
		t.Errorf("tap shows %d requests, or what is secret: %s", n, got)
	}
	refuser, limit := cli, "1"
	if w.client.Beside {
		// The caller's own proxy passes on what those of the Service's namespace have said. They know why, and the request as
		// one for the backend; the caller's lines are about that as well, and may come first.
		refuser, limit = w.home+"/cli-empty:80", "200"
		says(t, viewer, 0, "tap "+cli+" --status 500 --limit 1", "captured 503 GET", "-> "+refuser)
	}
	says(t, viewer, 0, "tap "+refuser+" --status 500 --limit "+limit, "503 GET", "no_endpoints")

	// top goes on until it is interrupted.
	ctx, cancel := context.WithTimeout(t.Context(), testbed.Patience)
	defer cancel()
	top := viewer.Weft(ctx, "top", "-n", w.home, "--window", "1s")
	out, err := top.StdoutPipe()
	if err == nil {
		err = top.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), cli+" ") {
			if shown++; shown == 2 {
				if err := top.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	err = top.Wait()
	if status, ok := top.ProcessState.Sys().(syscall.WaitStatus); !ok || status.ExitStatus() != 130 || shown < 2 {
		t.Errorf("top has shown %s %d times and ended with %v, want exit code 130", cli, shown, err)
	}
	load.Stop()
}
