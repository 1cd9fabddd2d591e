package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/cmd/kubectl-weft/standalone"
)

const runMesh = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: front, labels: {mesh.weft.dev/enabled: "true"}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: tcp-raw, port: 7000}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart-v2, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: mesh.weft.dev/v1alpha1
kind: MeshAuthorization
metadata: {name: callers, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: cart-v2}]
  action: Allow
  rules: [{from: [{serviceAccounts: [{namespace: front, name: web}]}]}]
`

const runRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{group: "", kind: Service, name: cart, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /v2}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-version, value: v2}]}}]
    backendRefs: [{name: cart-v2, port: 80}]
  - backendRefs: [{name: cart, port: 80}]
`

// runs is a run that goes on.
type runs struct {
	t       *testing.T
	dir     string
	out     *json.Decoder
	errOut  *bufio.Reader
	clients map[string]string
}

// startRun runs the mesh of a directory until the test ends, and expects it to end as interrupted.
func startRun(t *testing.T, dir string, args ...string) *runs {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	// The kernel holds what nobody has read yet: a run that waited for a reader of one would not write the other.
	out, outWriter := pipe(t)
	errOut, errWriter := pipe(t)
	a := &app{in: strings.NewReader(""), out: outWriter, errOut: errWriter, now: time.Now}
	a.connect = func() (*connection, error) { return nil, absent("no cluster is asked") }
	var ended sync.WaitGroup
	ended.Go(func() {
		if code := a.run(ctx, append([]string{"run", "-f", dir, "--port", "0", "-o", "json"}, args...)); code != exitInterrupted {
			t.Errorf("exit code %d, want %d", code, exitInterrupted)
		}
		_ = outWriter.Close()
		_ = errWriter.Close()
	})
	r := &runs{t: t, dir: dir, out: json.NewDecoder(out), errOut: bufio.NewReader(errOut)}
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
	r.listening()
	return r
}

func pipe(t *testing.T) (from, to *os.File) {
	t.Helper()
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = from.Close() })
	return from, to
}

// replaceFile gives a file its content at once, so that whoever looks at it sees the old or the new one.
func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	whole := filepath.Join(t.TempDir(), filepath.Base(path))
	writeFile(t, whole, content)
	if err := os.Rename(whole, path); err != nil {
		t.Fatal(err)
	}
}

// listening waits until it is said where clients connect to. Requests that are told of before are passed over.
func (r *runs) listening() {
	r.t.Helper()
	for {
		var shown struct {
			Addresses []standalone.Address
		}
		if err := r.out.Decode(&shown); err != nil {
			r.t.Fatal(err)
		}
		if shown.Addresses != nil {
			r.clients = map[string]string{}
			for _, at := range shown.Addresses {
				r.clients[at.Namespace+" "+at.ServicePort] = at.Address
			}
			return
		}
	}
}

// get sends a request from a client to a Service port, and returns the status and what the built-in backend says.
func (r *runs) get(client, path string) (int, standalone.Answer) {
	r.t.Helper()
	at := r.clients[client]
	if at == "" {
		r.t.Fatalf("no address for %s: there are %v", client, r.clients)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+at+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-Request-Id", "run-1")
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var answer standalone.Answer
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &answer); err != nil {
			r.t.Fatalf("%v in %s", err, body)
		}
	}
	return res.StatusCode, answer
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mesh.yaml"), runMesh)
	writeFile(t, filepath.Join(dir, "route.yaml"), runRoute)
	r := startRun(t, dir, "--from", "front/sa/web", "--from", "shop")
	if status, answer := r.get("shop shop/cart:80", "/a?b=1"); status != http.StatusOK || answer.Service != "shop/cart" || answer.Target != "/a?b=1" {
		t.Errorf("from the Service's own namespace: %d, %+v", status, answer)
	}
	// Over the hop, by an identity that may.
	status, answer := r.get("front shop/cart:80", "/v2/x")
	if status != http.StatusOK || answer.Service != "shop/cart-v2" || !strings.Contains(strings.Join(answer.Header, "\n"), "x-version: v2") {
		t.Errorf("from another namespace: %d, %+v", status, answer)
	}
	if status, _ := r.get("shop shop/cart:80", "/v2/x"); status != http.StatusForbidden {
		t.Errorf("by an identity that may not: %d", status)
	}
	// Each proxy tells in its own time.
	var shown []string
	for len(shown) < 3 {
		var s seen
		if err := r.out.Decode(&s); err != nil {
			t.Fatal(err)
		}
		if s.Listener == "captured" {
			shown = append(shown, fmt.Sprintf("%s %d %s %s", s.Backend, s.Status, s.Reason, s.ID))
		}
	}
	slices.Sort(shown)
	if diff := cmp.Diff([]string{" 403 authorization_denied run-1", "shop/cart-v2:80 200  run-1", "shop/cart:80 200  run-1"}, shown); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", r.clients["front shop/cart:7000"])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	bytes := bufio.NewReader(c)
	for _, want := range []string{"shop/cart\n", "hello\n"} {
		if got, err := bytes.ReadString('\n'); got != want || err != nil {
			t.Errorf("a connection gets %q, %v; want %q", got, err, want)
		}
	}
}

// A port that somebody else has is no cluster that cannot be reached.
func TestRunFindsItsPortTaken(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mesh.yaml"), runMesh)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := (&world{}).run(t, "run", "-f", dir, "--port", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
	if got.code != exitFailed || !strings.Contains(got.err, "address already in use; choose another --port") {
		t.Errorf("exit code %d, %s", got.code, got.err)
	}
}

func TestRunFollowsItsFiles(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mesh.yaml"), runMesh)
	r := startRun(t, dir, "--from", "front/sa/web")
	for client := range r.clients {
		if !strings.HasPrefix(client, "front ") {
			t.Errorf("%s has an address, though --from names another namespace", client)
		}
	}
	if _, answer := r.get("front shop/cart:80", "/v2/x"); answer.Service != "shop/cart" {
		t.Errorf("without a route: %+v", answer)
	}
	replaceFile(t, filepath.Join(dir, "route.yaml"), "kind: [\n")
	said := ""
	for !strings.Contains(said, "nothing is changed: ") {
		var err error
		if said, err = r.errOut.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if want := "nothing is changed: " + filepath.Join(dir, "route.yaml") + ":2:1: "; !strings.HasPrefix(said, want) {
		t.Errorf("a wrong file: %q, want %q", said, want)
	}
	replaceFile(t, filepath.Join(dir, "route.yaml"), runRoute)
	r.listening()
	if _, answer := r.get("front shop/cart:80", "/v2/x"); answer.Service != "shop/cart-v2" {
		t.Errorf("with the route: %+v", answer)
	}
}

// Files are read when nobody writes them any more, and once.
func TestRunWaitsForAFileToBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	writeFile(t, path, runMesh)
	read, err := stampOf([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	files := followed{paths: []string{path}, read: read}
	for _, step := range []struct {
		content string
		want    bool
	}{{"", false}, {"", false}, {runMesh[:200], false}, {runMesh + runRoute, false}, {"", true}, {"", false}} {
		if step.content != "" {
			writeFile(t, path, step.content)
		}
		if got := files.changed(); got != step.want {
			t.Errorf("after %d bytes: changed %v, want %v", len(step.content), got, step.want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if files.changed() {
		t.Error("a file that is away for a moment is taken for a change")
	}
}

func TestRunWithBackends(t *testing.T) {
	own := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"service": "mine"}`)
	}))
	t.Cleanup(own.Close)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mesh.yaml"), runMesh)
	address := own.Listener.Addr().(*net.TCPAddr)
	// One by a flag, one by an EndpointSlice.
	writeFile(t, filepath.Join(dir, "slice.yaml"), fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-v2, namespace: shop, labels: {kubernetes.io/service-name: cart-v2}}
addressType: IPv4
ports: [{name: http, port: %d}]
endpoints: [{addresses: [127.0.0.1]}]
`, address.Port))
	r := startRun(t, dir, "--from", "front/sa/web", "--backend", "cart.shop:80="+address.String())
	for _, client := range []string{"front shop/cart:80", "front shop/cart-v2:80"} {
		if status, answer := r.get(client, "/"); status != http.StatusOK || answer.Service != "mine" {
			t.Errorf("%s: %d, %+v", client, status, answer)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "mesh.yaml"), runMesh)
	for args, want := range map[string]string{
		"run":                      "error: name files or directories with -f; see kubectl weft run --help",
		"run -f -":                 "error: run reads its files again and again, so it cannot read standard input; see",
		"run -f nowhere":           "error: stat nowhere: no such file or directory",
		"run -f DIR --port 70000":  "error: --port 70000 is none",
		"run -f DIR --from legacy": "error: --from legacy: namespace legacy is not enrolled",
		"run -f DIR --from shop --from shop/sa/x":       "error: --from shop/sa/x: clients of namespace shop are somebody else already",
		"run -f DIR --backend cart.shop":                `error: --backend "cart.shop" is not written as SERVICE.NAMESPACE:PORT=ADDRESS`,
		"run -f DIR --backend cart.shop:80=10.0.0.1:1":  `error: --backend "cart.shop:80=10.0.0.1:1": "10.0.0.1:1" is no address and port on loopback`,
		"run -f DIR --backend cart.shop:81=127.0.0.1:1": "error: Service shop/cart has no port 81: it has 80, 7000",
	} {
		got := (&world{}).run(t, strings.Fields(strings.ReplaceAll(args, "DIR", dir))...)
		if got.code == exitOK || !strings.HasPrefix(got.err, want) || strings.Count(got.err, "\n") != 1 {
			t.Errorf("%s: exit code %d, %s; want %s", args, got.code, got.err, want)
		}
	}
}
