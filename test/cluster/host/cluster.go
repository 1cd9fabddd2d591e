package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"weft.dev/weft/test/cluster/build"
	"weft.dev/weft/test/cluster/config"
	"weft.dev/weft/test/cluster/filelock"
	"weft.dev/weft/test/cluster/image"
	"weft.dev/weft/test/cluster/process"
)

const (
	// startTimeout is generous: a machine that is busy with compiling takes several times as long.
	startTimeout = 5 * time.Minute
	endTimeout   = time.Minute
)

// Machine is this machine as the place of a cluster.
type Machine struct {
	Cluster config.Cluster
	Builder *build.Builder
	// Output is the directory for the kubeconfig and the logs.
	Output string
	// Progress receives a line per step.
	Progress io.Writer
}

// Up brings the cluster up and returns when both nodes are ready and names resolve. A healthy cluster is
// left as it is, except that stopped nodes are started; what a crash has left is removed first.
func (m *Machine) Up(ctx context.Context) error {
	release, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := build.InstallPackages(ctx, m.Progress); err != nil {
		return err
	}
	kubernetes, err := m.Builder.Build(ctx, build.Kubernetes)
	if err != nil {
		return err
	}
	containerd, err := m.Builder.Build(ctx, build.Containerd)
	if err != nil {
		return err
	}
	coreDNS, err := m.Builder.Build(ctx, build.CoreDNS)
	if err != nil {
		return err
	}
	if err := loadBridgeFilter(ctx); err != nil {
		return err
	}
	if done, err := m.resume(ctx, kubernetes, containerd); done || err != nil {
		return err
	}
	if err := m.clear(ctx); err != nil {
		return fmt.Errorf("clear what is left of an earlier cluster: %w", err)
	}
	start := time.Now()
	fmt.Fprintf(m.Progress, "starting Kubernetes %s on %d nodes ... ", build.KubernetesVersion, len(m.Cluster.Nodes))
	if err := m.create(ctx, kubernetes, containerd, coreDNS); err != nil {
		fmt.Fprintln(m.Progress, "failed")
		return fmt.Errorf("%w (logs are in %s)", err, filepath.Join(m.Output, "logs"))
	}
	fmt.Fprintf(m.Progress, "%.0fs\n", time.Since(start).Seconds())
	return nil
}

// resume reports whether a cluster of these binaries is up and healthy, after it has started its stopped
// nodes.
func (m *Machine) resume(ctx context.Context, kubernetes, containerd string) (bool, error) {
	// A record that cannot be read is one of the leftovers; clearing them says so.
	s, ok, err := loadState()
	if err != nil || !ok || !s.Complete || s.Kubernetes != kubernetes || s.Containerd != containerd {
		return false, nil
	}
	if s.Output != m.Output {
		return false, fmt.Errorf("a cluster that reports to %s is up; end it with down first", s.Output)
	}
	for _, n := range m.Cluster.Nodes {
		first, running := s.Nodes[n.Name]
		if running && !first.Alive() {
			return false, nil
		}
		if !running {
			fmt.Fprintf(m.Progress, "starting %s\n", n.Name)
			if err := m.startStopped(ctx, &s, n); err != nil {
				return false, err
			}
		}
	}
	a, err := newAPI(m.Cluster, s)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("the cluster is not healthy"))
	defer cancel()
	if err := poll(ctx, 300*time.Millisecond, func(ctx context.Context) error { return m.healthy(ctx, a, time.Time{}) }); err != nil {
		fmt.Fprintf(m.Progress, "making the cluster anew: %v\n", err)
		return false, nil
	}
	return true, nil
}

// healthy returns nil when every node has been ready since the given time and CoreDNS answers.
func (m *Machine) healthy(ctx context.Context, a *api, since time.Time) error {
	for _, n := range m.Cluster.Nodes {
		if err := a.nodeReady(ctx, n.Name, since); err != nil {
			return err
		}
	}
	return a.deploymentReady(ctx, "kube-system", "coredns")
}

func (m *Machine) create(ctx context.Context, kubernetes, containerd, coreDNS string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the cluster did not start within %s", startTimeout))
	defer cancel()
	boot, err := bootID()
	if err != nil {
		return err
	}
	_, err = os.Stat(netnsDir)
	s := state{
		BootID: boot, Output: m.Output, NetnsMount: errors.Is(err, fs.ErrNotExist),
		Kubernetes: kubernetes, Containerd: containerd, Nodes: map[string]process.Identity{},
	}
	if err := s.save(); err != nil {
		return err
	}
	images, err := m.writeImages(ctx, coreDNS)
	if err != nil {
		return err
	}
	if err := m.prepare(ctx, s); err != nil {
		return err
	}
	begin := time.Now()
	for _, n := range m.Cluster.Nodes {
		if err := m.startNode(ctx, &s, n); err != nil {
			return err
		}
	}
	a, err := newAPI(m.Cluster, s)
	if err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return importAll(groupCtx, s, images) })
	group.Go(func() error { return m.bootstrap(groupCtx, a) })
	if err := group.Wait(); err != nil {
		return err
	}
	err = poll(ctx, 200*time.Millisecond, func(ctx context.Context) error { return m.healthy(ctx, a, begin) })
	if err != nil {
		return err
	}
	s.Complete = true
	return s.save()
}

// writeImages makes the archives of the images that every node needs.
func (m *Machine) writeImages(ctx context.Context, coreDNS string) ([]string, error) {
	pauseArchive, dnsArchive := filepath.Join(stateDir, "pause.tar"), filepath.Join(stateDir, "coredns.tar")
	if err := WritePauseImage(ctx, m.Builder, m.Cluster.PauseImage, pauseArchive); err != nil {
		return nil, err
	}
	dns := image.Static(m.Cluster.CoreDNSImage, filepath.Join(coreDNS, "coredns"))
	if err := image.Write(dns, dnsArchive); err != nil {
		return nil, fmt.Errorf("image of CoreDNS: %w", err)
	}
	return []string{pauseArchive, dnsArchive}, nil
}

// WritePauseImage compiles the program that holds a pod's namespaces and writes its image to out.
func WritePauseImage(ctx context.Context, b *build.Builder, tag, out string) error {
	dir, err := os.MkdirTemp("", "weft-pause-")
	if err != nil {
		return fmt.Errorf("create a directory to build in: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left has no reader
	binary := filepath.Join(dir, "pause")
	if err := b.Program(ctx, "./test/cluster/pause", binary); err != nil {
		return err
	}
	if err := image.Write(image.Static(tag, binary), out); err != nil {
		return fmt.Errorf("image of pause: %w", err)
	}
	return nil
}

// prepare makes credentials, the network's switch and the nodes' file systems.
func (m *Machine) prepare(ctx context.Context, s state) error {
	if err := m.Builder.Program(ctx, "./test/cluster/node/init", initBinary()); err != nil {
		return err
	}
	creds, err := config.NewCredentials(m.Cluster, time.Now())
	if err != nil {
		return err
	}
	if err := saveAdmin(creds); err != nil {
		return err
	}
	admin, err := config.Kubeconfig(m.Cluster, creds.Authority, creds.Admin)
	if err != nil {
		return err
	}
	if err := writeFile(kubeconfig(s.Output), admin, 0o600); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Join(s.Kubernetes, "kubectl"), kubectlLink(s.Output)); err != nil {
		return fmt.Errorf("leave a link to kubectl: %w", err)
	}
	for _, n := range m.Cluster.Nodes {
		files, err := config.NodeFiles(m.Cluster, n, creds)
		if err != nil {
			return err
		}
		logs := logDir(s.Output, n.Name)
		if err := os.RemoveAll(logs); err != nil {
			return fmt.Errorf("remove old logs: %w", err)
		}
		if err := os.MkdirAll(logs, 0o755); err != nil {
			return fmt.Errorf("create the log directory: %w", err)
		}
		spec := config.NodeSpec(m.Cluster, n, config.Places{
			NetworkNamespace: filepath.Join(netnsDir, networkNamespace(n.Name)),
			Root:             nodeRoot(n.Name),
			ControlGroup:     nodeControlGroup(n.Name),
			Logs:             logs,
			Kubernetes:       s.Kubernetes,
			Containerd:       s.Containerd,
		})
		if err := prepareNode(n, files, spec); err != nil {
			return err
		}
	}
	return runAll(ctx, createSwitch(m.Cluster))
}

// startNode makes the network of a prepared node and starts it.
func (m *Machine) startNode(ctx context.Context, s *state, n config.Node) error {
	if err := runAll(ctx, createNodeNetwork(m.Cluster, n)); err != nil {
		return err
	}
	first, err := startNode(ctx, n.Name, logDir(s.Output, n.Name))
	if err != nil {
		return err
	}
	s.Nodes[n.Name] = first
	return s.save()
}

// bootstrap brings the API server's content to what a cluster starts with.
func (m *Machine) bootstrap(ctx context.Context, a *api) error {
	ready := func(ctx context.Context) error { return a.get(ctx, "/readyz", nil) }
	if err := poll(ctx, 200*time.Millisecond, ready); err != nil {
		return err
	}
	manifests, err := config.Manifests(m.Cluster)
	if err != nil {
		return err
	}
	// The namespace controller and the service account controller are still on their way; kubectl's
	// apply is complete or fails, and then it is repeated.
	apply := func(ctx context.Context) error {
		return a.kubectlRun(ctx, manifests, "apply", "--server-side", "--force-conflicts", "-f", "-")
	}
	if err := poll(ctx, 500*time.Millisecond, apply); err != nil {
		return err
	}
	for _, n := range m.Cluster.Nodes {
		registered := func(ctx context.Context) error { return a.get(ctx, "/api/v1/nodes/"+n.Name, nil) }
		if err := poll(ctx, 200*time.Millisecond, registered); err != nil {
			return err
		}
		patch, err := config.NodePatch(m.Cluster, n)
		if err != nil {
			return err
		}
		if err := a.kubectlRun(ctx, nil, "patch", "node", n.Name, "--patch", string(patch)); err != nil {
			return err
		}
	}
	return nil
}

// Load imports image archives into every running node.
func (m *Machine) Load(ctx context.Context, archives []string) error {
	release, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	s, ok, err := loadState()
	if err != nil {
		return err
	}
	if !ok {
		return errNotUp
	}
	return importAll(ctx, s, archives)
}

var errNotUp = errors.New("the cluster is not up")

// importAll imports every archive into every running node, as soon as its containerd answers.
func importAll(ctx context.Context, s state, archives []string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("containerd did not take the images"))
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	for name, first := range s.Nodes {
		group.Go(func() error {
			for _, archive := range archives {
				err := poll(ctx, 200*time.Millisecond, func(ctx context.Context) error {
					file, err := os.Open(archive)
					if err != nil {
						return fmt.Errorf("open the archive: %w", err)
					}
					defer file.Close() //nolint:errcheck // nothing was written
					return importImage(ctx, s.Containerd, first.PID, file)
				})
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

func (m *Machine) lock(ctx context.Context) (func(), error) {
	return filelock.Acquire(ctx, filepath.Join(m.Builder.Cache, "cluster.lock"))
}
