package main

import (
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"weft.dev/weft/test/cluster/image"
	"weft.dev/weft/test/demo/split"
)

// fake returns a kubectl that answers everything with one text, and fails if that holds "break".
func fake(t *testing.T, answer string) kubectl {
	t.Helper()
	t.Setenv("DEMO_TEST_ANSWER", answer)
	const script = `printf %s "$DEMO_TEST_ANSWER"; case "$DEMO_TEST_ANSWER" in *break*) echo "it broke" >&2; exit 1;; esac`
	return kubectl{command: []string{"sh", "-c", script, "kubectl"}}
}

func TestExec(t *testing.T) {
	tests := map[string]struct {
		answer  string
		want    report
		wantErr string
	}{
		"to the end": {
			answer: "{\"sent\": 10}\n{\"sent\": 20, \"failed\": 1, \"done\": true, \"errors\": [\"x\"]}\n",
			want:   report{Sent: 20, Failed: 1, Done: true, Errors: []string{"x"}},
		},
		"cut off":        {answer: "{\"sent\": 10}\n", want: report{Sent: 10}, wantErr: "the client ended after 10 requests"},
		"nothing":        {answer: "", wantErr: "the client ended after 0 requests"},
		"something else": {answer: "error: not found", wantErr: "invalid character"},
		"a failure":      {answer: "{\"sent\": 10, \"errors\": [\"break\"]}\n", want: report{Sent: 10, Errors: []string{"break"}}, wantErr: "it broke"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := &demo{kubectl: fake(t, tc.answer), requests: 20}
			seen := 0
			got, err := d.exec(t.Context(), &overHTTP, func(report) { seen++ })
			if !matches(err, tc.wantErr) {
				t.Errorf("exec: %v, want %q", err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("last report (-want +got):\n%s", diff)
			}
			if want := strings.Count(tc.answer, "sent"); seen != want {
				t.Errorf("%d reports, want %d", seen, want)
			}
		})
	}
}

// matches tells whether an error holds a text, or is none where the text is empty.
func matches(err error, text string) bool {
	if err == nil || text == "" {
		return err == nil && text == ""
	}
	return strings.Contains(err.Error(), text)
}

func TestCount(t *testing.T) {
	pods := versions{first: []string{"a", "b"}, second: []string{"c"}}
	for _, tc := range []struct {
		step *step
		want split.Counts
	}{
		{&overHTTP, split.Counts{First: 10, Second: 5}},
		{&overGRPC, split.Counts{First: 14, Second: 7}},
	} {
		d := &demo{kubectl: fake(t, `{"http": 5, "grpc": 7}`)}
		got, err := d.count(t.Context(), tc.step, pods)
		if err != nil || got != tc.want {
			t.Errorf("%s: counted %+v (%v), want %+v", tc.step.kind, got, err, tc.want)
		}
	}
	d := &demo{kubectl: fake(t, "break")}
	if _, err := d.count(t.Context(), &overHTTP, pods); !matches(err, "it broke") {
		t.Errorf("a pod that does not answer: %v", err)
	}
}

func TestVersions(t *testing.T) {
	pod := func(name, version string, phase corev1.PodPhase) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"version": version}},
			Status:     corev1.PodStatus{Phase: phase},
		}
	}
	leaving := pod("leaving", "v1", corev1.PodRunning)
	leaving.DeletionTimestamp = &metav1.Time{}
	got := byVersion([]corev1.Pod{
		pod("a", "v1", corev1.PodRunning), pod("b", "v2", corev1.PodRunning), pod("c", "v1", corev1.PodPending),
		pod("d", "v1", corev1.PodRunning), pod("e", "v3", corev1.PodRunning), leaving,
	})
	want := versions{first: []string{"a", "d"}, second: []string{"b"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(versions{})); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
}

func TestProgrammed(t *testing.T) {
	parent := func(controller string, conditions ...metav1.Condition) gwv1.RouteParentStatus {
		return gwv1.RouteParentStatus{ControllerName: gwv1.GatewayController(controller), Conditions: conditions}
	}
	programmed := func(status metav1.ConditionStatus, generation int64) metav1.Condition {
		return metav1.Condition{Type: "Programmed", Status: status, ObservedGeneration: generation, Reason: "Pending", Message: "1 of 2"}
	}
	const weft = "mesh.weft.dev/controller"
	tests := map[string]struct {
		parents []gwv1.RouteParentStatus
		want    string
	}{
		"programmed":         {parents: []gwv1.RouteParentStatus{parent(weft, programmed(metav1.ConditionTrue, 3))}},
		"an older one":       {parents: []gwv1.RouteParentStatus{parent(weft, programmed(metav1.ConditionTrue, 2))}, want: "generation 3 of the route is not programmed"},
		"not yet":            {parents: []gwv1.RouteParentStatus{parent(weft, programmed(metav1.ConditionFalse, 3))}, want: "Pending: 1 of 2"},
		"no status":          {want: "has not written a status"},
		"of somebody else":   {parents: []gwv1.RouteParentStatus{parent("example.org/x", programmed(metav1.ConditionTrue, 3))}, want: "has not written a status"},
		"beside another one": {parents: []gwv1.RouteParentStatus{parent("example.org/x"), parent(weft, programmed(metav1.ConditionTrue, 3))}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := route{ObjectMeta: metav1.ObjectMeta{Generation: 3}, Status: gwv1.RouteStatus{Parents: tc.parents}}
			if err := r.programmed(); !matches(err, tc.want) {
				t.Errorf("programmed: %v, want %q", err, tc.want)
			}
		})
	}
}

func TestWithImage(t *testing.T) {
	app, err := os.ReadFile("../../examples/demo/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := withImage(app, "registry.example.org/weft-demo:1")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(got, []byte("image: registry.example.org/weft-demo:1\n")); n != 3 {
		t.Errorf("%d containers have the image, want 3", n)
	}
	if _, err := withImage([]byte("image: other\n"), "x"); err == nil {
		t.Error("a file without the application's image is accepted")
	}
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	binary, archive := filepath.Join(t.TempDir(), "weft-proxy"), filepath.Join(t.TempDir(), "weft-proxy.tar")
	if err := os.WriteFile(binary, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := image.Write(image.Static("local/weft-proxy:v1", binary), archive); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := pushArchive(t.Context(), host+"/team", archive, &out); err != nil {
		t.Fatal(err)
	}
	if want := "pushing " + host + "/team/weft-proxy:v1\n"; out.String() != want {
		t.Errorf("said %q, want %q", out.String(), want)
	}
	ref, err := name.NewTag(host + "/team/weft-proxy:v1")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	pulled, err := remote.Image(ref, remote.WithContext(t.Context()), remote.WithTransport(transport))
	if err != nil {
		t.Fatal(err)
	}
	config, err := pulled.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/usr/local/bin/weft-proxy"}, config.Config.Entrypoint); diff != "" {
		t.Errorf("entrypoint (-want +got):\n%s", diff)
	}
}

func TestPushFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pushArchive(ctx, "127.0.0.1:1/team", "no-such.tar", io.Discard); !matches(err, "no-such.tar") {
		t.Errorf("push: %v, want an error that names the archive", err)
	}
}
