package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"weft.dev/weft/proxy/capture"
)

func TestParseFlags(t *testing.T) {
	required := []string{"--operator-address=a:1,b:2", "--token-file=/t", "--ca-file=/c", "--node=n1"}
	cluster := map[string]string{"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
	tests := map[string]struct {
		args        []string
		environment map[string]string
		wantService string
		wantErr     string
	}{
		"required ones alone":       {args: required, wantService: "invalid AddrPort"},
		"in a cluster":              {args: required, environment: cluster, wantService: "[fd00::1]:443"},
		"another Service":           {args: append([]string{"--canary-service=10.96.0.9:80"}, required...), environment: cluster, wantService: "10.96.0.9:80"},
		"a Service that has a name": {args: append([]string{"--canary-service=kubernetes:443"}, required...), wantErr: "canary service"},
		"no operator":               {args: required[1:], wantErr: "--operator-address is required"},
		"an argument":               {args: append([]string{"run"}, required...), wantErr: "unexpected argument"},
		"a flag that there is not":  {args: append([]string{"--fast"}, required...), wantErr: "not defined"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := parseFlags(tc.args, func(name string) string { return tc.environment[name] }, io.Discard)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.service.String(); got != tc.wantService {
				t.Errorf("Service %s, want %s", got, tc.wantService)
			}
			if diff := cmp.Diff([]string{"a:1", "b:2"}, c.operatorAddresses); diff != "" {
				t.Errorf("operator addresses differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStrictFile(t *testing.T) {
	dir := t.TempDir()
	file := strictFile(dir)
	want := func(want ...string) {
		t.Helper()
		got, err := file.read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("strict namespaces differ (-want +got):\n%s", diff)
		}
	}
	want()
	for _, namespaces := range [][]string{{"a", "b"}, {"b"}, nil} {
		if err := file.write(namespaces); err != nil {
			t.Fatal(err)
		}
		want(namespaces...)
	}
	if err := os.WriteFile(filepath.Join(dir, "strict.json"), []byte(`["a`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := file.read(); err == nil {
		t.Errorf("half a file is read as %v", got)
	}
	if err := strictFile(filepath.Join(dir, "gone")).write([]string{"a"}); err == nil {
		t.Error("written into a directory that there is not")
	}
}

// criServer is a container runtime with one pod of each sort.
type criServer struct {
	runtimev1.UnimplementedRuntimeServiceServer
	asked map[string]int
}

var created = time.Unix(1_700_000_000, 0)

func (s *criServer) ListPodSandbox(_ context.Context, request *runtimev1.ListPodSandboxRequest) (*runtimev1.ListPodSandboxResponse, error) {
	if request.GetFilter().GetState().GetState() != runtimev1.PodSandboxState_SANDBOX_READY {
		return nil, errors.New("asked for more than what is ready")
	}
	answer := &runtimev1.ListPodSandboxResponse{}
	for _, name := range []string{"pod", "host", "crio", "gone", "unknown"} {
		answer.Items = append(answer.Items, &runtimev1.PodSandbox{
			Id: "id-" + name, CreatedAt: created.UnixNano(), Labels: map[string]string{"app": name},
			Metadata: &runtimev1.PodSandboxMetadata{Name: name, Namespace: "shop", Uid: "uid-" + name},
		})
	}
	return answer, nil
}

func (s *criServer) PodSandboxStatus(_ context.Context, request *runtimev1.PodSandboxStatusRequest) (*runtimev1.PodSandboxStatusResponse, error) {
	s.asked[request.GetPodSandboxId()]++
	answer := &runtimev1.PodSandboxStatusResponse{
		Status: &runtimev1.PodSandboxStatus{Network: &runtimev1.PodSandboxNetworkStatus{
			Ip: "10.0.0.1", AdditionalIps: []*runtimev1.PodIP{{Ip: "fd00::1"}},
		}},
		Info: map[string]string{},
	}
	switch request.GetPodSandboxId() {
	case "id-pod":
		answer.Info["info"] = `{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"ipc","path":"/i"},{"type":"network","path":"/run/netns/a"}]}}}`
	case "id-crio":
		answer.Info["info"] = `{"pid":8,"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}`
	case "id-host":
		answer.Status = &runtimev1.PodSandboxStatus{Linux: &runtimev1.LinuxPodSandboxStatus{Namespaces: &runtimev1.Namespace{
			Options: &runtimev1.NamespaceOption{Network: runtimev1.NamespaceMode_NODE},
		}}}
	case "id-gone":
		return nil, errors.New("not found")
	}
	return answer, nil
}

// serveCRI serves at a new socket.
func serveCRI(t *testing.T, server *criServer) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	runtimev1.RegisterRuntimeServiceServer(s, server)
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return socket
}

// wantSandboxes are those of criServer that can be reached.
var wantSandboxes = []capture.Sandbox{
	sandbox("pod", "/run/netns/a", "10.0.0.1", "fd00::1"),
	sandbox("host", ""),
	sandbox("crio", "/proc/8/ns/net", "10.0.0.1", "fd00::1"),
}

func sandbox(name, netns string, addresses ...string) capture.Sandbox {
	s := capture.Sandbox{
		ID: "id-" + name, UID: "uid-" + name, Namespace: "shop", Name: name,
		Labels: map[string]string{"app": name}, Netns: netns, Started: created,
	}
	for _, address := range addresses {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(address))
	}
	return s
}

var byText = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestCRISandboxes(t *testing.T) {
	server := &criServer{asked: map[string]int{}}
	client, err := newCRI(serveCRI(t, server))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.close() }()
	for range 3 {
		got, err := client.sandboxes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wantSandboxes, got, byText); diff != "" {
			t.Errorf("sandboxes differ (-want +got):\n%s", diff)
		}
	}
	if server.asked["id-pod"] != 1 {
		t.Errorf("asked %d times for the details of a pod, want once", server.asked["id-pod"])
	}
}

// listener is told what runs.
type listener struct{ synchronized chan []capture.Sandbox }

func (l *listener) Start(context.Context, capture.Sandbox) {}
func (l *listener) Stop(string)                            {}
func (l *listener) Synchronize(sandboxes []capture.Sandbox) {
	select {
	case l.synchronized <- sandboxes:
	default:
	}
}

func TestRuntimeWithoutNRI(t *testing.T) {
	client, err := newCRI(serveCRI(t, &criServer{asked: map[string]int{}}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.close() }()
	told := &listener{synchronized: make(chan []capture.Sandbox, 1)}
	r := &runtime{nriSocket: filepath.Join(t.TempDir(), "none"), cri: client, agent: told, log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.run(ctx)
	}()
	select {
	case got := <-told.synchronized:
		if diff := cmp.Diff(wantSandboxes, got, byText); diff != "" {
			t.Errorf("sandboxes differ (-want +got):\n%s", diff)
		}
	case <-time.After(30 * time.Second):
		t.Error("no pod was seen")
	}
	cancel()
	<-ended
}
