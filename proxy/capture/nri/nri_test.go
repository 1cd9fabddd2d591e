package nri_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"weft.dev/weft/proxy/capture"
	"weft.dev/weft/proxy/capture/nri"
)

const deadline = 30 * time.Second

// agent remembers what it was told, in order.
type agent struct {
	started      chan capture.Sandbox
	stopped      chan string
	synchronized chan []capture.Sandbox
}

func newAgent() *agent {
	return &agent{
		started: make(chan capture.Sandbox, 8), stopped: make(chan string, 8), synchronized: make(chan []capture.Sandbox, 8),
	}
}

func (a *agent) Start(_ context.Context, sandbox capture.Sandbox) { a.started <- sandbox }
func (a *agent) Stop(id string)                                   { a.stopped <- id }
func (a *agent) Synchronize(sandboxes []capture.Sandbox)          { a.synchronized <- sandboxes }

// receive takes what must have been sent, or will be soon.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(deadline):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func TestMain(m *testing.M) {
	// The runtime's side speaks through the library's own logger.
	logrus.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// runtime is the container runtime's side of NRI, as containerd has it.
func runtime(t *testing.T, socket string, pods []*api.PodSandbox, containers []*api.Container) *adaptation.Adaptation {
	t.Helper()
	r, err := adaptation.New("test", "1.0.0",
		func(ctx context.Context, synchronize adaptation.SyncCB) error {
			_, err := synchronize(ctx, pods, containers)
			return err
		},
		func(context.Context, []*adaptation.ContainerUpdate) ([]*adaptation.ContainerUpdate, error) {
			return nil, nil
		},
		adaptation.WithSocketPath(socket), adaptation.WithPluginPath(t.TempDir()), adaptation.WithPluginConfigPath(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	return r
}

func pod(name string, pid uint32, netns string, addresses ...string) *api.PodSandbox {
	p := &api.PodSandbox{
		Id: "id-" + name, Uid: "uid-" + name, Name: name, Namespace: "shop", Pid: pid, Ips: addresses,
		Labels: map[string]string{"app": name}, Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{{Type: "ipc"}}},
	}
	if netns != "" {
		p.Linux.Namespaces = append(p.Linux.Namespaces, &api.LinuxNamespace{Type: "network", Path: netns})
	}
	return p
}

func sandbox(name, netns string, started time.Time, addresses ...string) capture.Sandbox {
	s := capture.Sandbox{
		ID: "id-" + name, UID: "uid-" + name, Name: name, Namespace: "shop",
		Labels: map[string]string{"app": name}, Netns: netns, Started: started,
	}
	for _, address := range addresses {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(address))
	}
	return s
}

var byText = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestEvents(t *testing.T) {
	socket, told := filepath.Join(t.TempDir(), "nri.sock"), newAgent()
	started := time.Unix(1_700_000_000, 0)
	r := runtime(t, socket, []*api.PodSandbox{
		pod("running", 10, "/run/netns/a", "10.0.0.1", "fd00::1"),
		pod("idle", 11, "/run/netns/b", "10.0.0.2"),
		pod("host", 12, ""),
		pod("ended", 0, "", "10.0.0.3"),
		pod("host-ended", 0, ""),
	}, []*api.Container{
		{Id: "2", PodSandboxId: "id-running", StartedAt: started.Add(time.Hour).UnixNano()},
		{Id: "1", PodSandboxId: "id-running", StartedAt: started.UnixNano()},
		{Id: "3", PodSandboxId: "id-host", CreatedAt: started.UnixNano()},
	})
	defer r.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := nri.Run(ctx, socket, told, slog.New(slog.DiscardHandler))
		ended <- err
	}()

	want := []capture.Sandbox{
		sandbox("running", "/run/netns/a", started, "10.0.0.1", "fd00::1"),
		sandbox("idle", "/run/netns/b", time.Time{}, "10.0.0.2"),
		sandbox("host", "", started),
	}
	if diff := cmp.Diff(want, receive(t, told.synchronized), byText); diff != "" {
		t.Errorf("running sandboxes differ (-want +got):\n%s", diff)
	}

	// Runtimes start no sandbox between the list and the end of a plugin's registration.
	defer r.BlockPluginSync().Unblock()
	// The runtime returns only when the agent has: what it was told is there without waiting.
	if err := r.RunPodSandbox(ctx, &adaptation.RunPodSandboxRequest{Pod: pod("new", 13, "/run/netns/c", "10.0.0.4")}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told.started:
		if diff := cmp.Diff(sandbox("new", "/run/netns/c", time.Time{}, "10.0.0.4"), got, byText); diff != "" {
			t.Errorf("started sandbox differs (-want +got):\n%s", diff)
		}
	default:
		t.Error("the runtime went on before the agent was done")
	}
	if err := r.StopPodSandbox(ctx, &adaptation.StopPodSandboxRequest{Pod: pod("new", 13, "/run/netns/c")}); err != nil {
		t.Fatal(err)
	}
	if err := r.RemovePodSandbox(ctx, &adaptation.RemovePodSandboxRequest{Pod: pod("failed", 0, "")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"id-new", "id-failed"} {
		if got := receive(t, told.stopped); got != want {
			t.Errorf("stopped %s, want %s", got, want)
		}
	}
	cancel()
	if err := receive(t, ended); err == nil {
		t.Error("Run ended without saying why")
	}
}

// A runtime that ends takes its connections along, and the next one has the same socket.
func TestRuntimeThatRestarts(t *testing.T) {
	socket, behind, told := filepath.Join(t.TempDir(), "nri.sock"), filepath.Join(t.TempDir(), "nri.sock"), newAgent()
	r := runtime(t, behind, nil, nil)
	defer r.Stop()
	for range 2 {
		cut := relay(t, socket, behind)
		type outcome struct {
			connected bool
			err       error
		}
		ended := make(chan outcome, 1)
		go func() {
			connected, err := nri.Run(t.Context(), socket, told, slog.New(slog.DiscardHandler))
			ended <- outcome{connected, err}
		}()
		receive(t, told.synchronized)
		cut()
		if got := receive(t, ended); !got.connected || got.err == nil {
			t.Errorf("connected %v, error %v, want the loss of a connection", got.connected, got.err)
		}
	}
}

// relay passes one connection on from one socket to another; cut ends it and removes the socket.
func relay(t *testing.T, from, to string) (cut func()) {
	t.Helper()
	listener, err := net.Listen("unix", from)
	if err != nil {
		t.Fatal(err)
	}
	near := make(chan net.Conn, 1)
	go func() {
		defer close(near)
		accepted, err := listener.Accept()
		if err != nil {
			return
		}
		near <- accepted
		far, err := net.Dial("unix", to)
		if err != nil {
			return
		}
		defer func() { _ = far.Close() }()
		go func() { _, _ = io.Copy(accepted, far) }()
		_, _ = io.Copy(far, accepted)
	}()
	return func() {
		_ = listener.Close()
		if accepted := <-near; accepted != nil {
			_ = accepted.Close()
		}
	}
}

func TestNoRuntime(t *testing.T) {
	connected, err := nri.Run(t.Context(), filepath.Join(t.TempDir(), "nri.sock"), newAgent(), slog.New(slog.DiscardHandler))
	if connected || err == nil {
		t.Errorf("connected %v, error %v, want neither connection nor nil", connected, err)
	}
}
