package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	meshv1alpha1 "weft.dev/weft/api/v1alpha1"
	"weft.dev/weft/cmd/kubectl-weft/mesh"
	"weft.dev/weft/cmd/kubectl-weft/proxies"
	"weft.dev/weft/cmd/kubectl-weft/standalone"
	"weft.dev/weft/proxy/admin"
	"weft.dev/weft/proxy/wire"
)

// watchInterval is how often run looks at its files.
const watchInterval = 500 * time.Millisecond

func (a *app) runCommand() *cobra.Command {
	var backends, from []string
	port := 18000
	cmd := &cobra.Command{
		Use: "run -f DIR", Short: "Run the mesh of some files on loopback, without a cluster",
		Long: `Run the mesh of some files in this process, without a cluster and without privileges: the proxies of every enrolled namespace,
with certificates of an authority of their own. Nothing beyond loopback is listened at or connected to.

For clients of each enrolled namespace there is an address for each Service port, from --port on; it stands for the cluster IP. --from
says who the clients of a namespace are, and limits the addresses to the namespaces that it names.

What answers is, for a Service port:
  * --backend SERVICE.NAMESPACE:PORT=ADDRESS: an application of yours, on loopback;
  * an EndpointSlice of the files, whose addresses on loopback are applications of yours as well;
  * otherwise, and for other addresses of EndpointSlices, a built-in backend, which says as JSON what it has got.

Requests are shown as they end, as kubectl weft tap does. A file that changes is read again; one that is wrong changes nothing.`,
		Example: `  kubectl weft run -f examples/canary
  kubectl weft run -f manifests/ --backend cart.shop:80=127.0.0.1:8080 --from front/sa/web`,
		Args: usage(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(a.files) == 0 {
				return misused(cmd, "name files or directories with -f")
			}
			if slices.Contains(a.files, "-") {
				return misused(cmd, "run reads its files again and again, so it cannot read standard input")
			}
			if port < 0 || port > 65535 {
				return wrong("--port %d is none", port)
			}
			m, err := a.loadMesh(cmd)
			if err != nil {
				return err
			}
			options := standalone.Options{FirstPort: port}
			if options.Callers, err = parseCallers(m, from); err != nil {
				return err
			}
			if options.Backends, err = parseBackends(m, backends); err != nil {
				return err
			}
			return a.runMesh(cmd.Context(), m, options)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&backends, "backend", nil, "what serves a Service port, as SERVICE.NAMESPACE:PORT=ADDRESS; may be repeated")
	f.StringArrayVar(&from, "from", nil, "who the clients of a namespace are: NAMESPACE/sa/SERVICEACCOUNT, or NAMESPACE for default; may be repeated")
	f.IntVar(&port, "port", port, "first port that clients connect to; 0 is whichever are free")
	a.withFiles(f)
	a.withOutput(f)
	return cmd
}

// parseCallers reads --from.
func parseCallers(m *mesh.Mesh, texts []string) (map[string]string, error) {
	callers := map[string]string{}
	for _, text := range texts {
		c, err := parseCaller(m, text)
		if err != nil {
			return nil, err
		}
		if !m.Enrolled(c.Namespace) {
			return nil, wrong("--from %s: namespace %s is not enrolled, so that nothing of it passes the mesh", text, c.Namespace)
		}
		if _, twice := callers[c.Namespace]; twice {
			return nil, wrong("--from %s: clients of namespace %s are somebody else already", text, c.Namespace)
		}
		callers[c.Namespace] = c.ServiceAccount
	}
	return callers, nil
}

// parseBackends reads --backend.
func parseBackends(m *mesh.Mesh, texts []string) (map[string]netip.AddrPort, error) {
	backends := map[string]netip.AddrPort{}
	for _, text := range texts {
		name, address, ok := strings.Cut(text, "=")
		service, portText, _ := strings.Cut(name, ":")
		if !ok {
			return nil, wrong("--backend %q is not written as SERVICE.NAMESPACE:PORT=ADDRESS", text)
		}
		at, err := netip.ParseAddrPort(strings.Replace(address, "localhost:", "127.0.0.1:", 1))
		if err != nil || !at.Addr().IsLoopback() {
			return nil, wrong("--backend %q: %q is no address and port on loopback", text, address)
		}
		namespace := "default"
		if len(m.Compiled.Enrolled) == 1 {
			namespace = m.Compiled.Enrolled[0]
		}
		svc, err := findService(m, service, namespace)
		if err != nil {
			return nil, err
		}
		port, err := onePort(svc, portText)
		if err != nil {
			return nil, err
		}
		backends[wire.ServicePortKey(svc.Namespace, svc.Name, uint16(port))] = at
	}
	return backends, nil
}

// running is what run shows of the mesh.
type running struct {
	Addresses []standalone.Address `json:"addresses"`
	BuiltIn   []string             `json:"builtIn"`
}

// runMesh runs a mesh until ctx ends.
func (a *app) runMesh(ctx context.Context, m *mesh.Mesh, options standalone.Options) (err error) {
	s, err := standalone.Start(options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	files := followed{paths: a.files}
	if files.read, err = stampOf(a.files); err != nil {
		return err
	}
	for {
		applied, err := s.Apply(m.Snapshot)
		if err != nil {
			return err
		}
		show, end := a.followOwn(ctx, s)
		if err := a.showRunning(applied); err != nil {
			return errors.Join(err, end())
		}
		show()
		for m = nil; m == nil && ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-time.After(watchInterval):
				if !files.changed() {
					continue
				}
				m, err = mesh.Files(a.files, mesh.FileOptions{Namespace: a.namespace, SystemNamespace: a.system})
				if err != nil {
					fmt.Fprintln(a.errOut, "nothing is changed: "+explain(err).line())
				}
			}
		}
		if err := errors.Join(end(), ctx.Err()); err != nil {
			return err
		}
	}
}

// followOwn follows the requests of the mesh from now on, shows them once show is called, and does so until end is. Whoever
// sends one as soon as addresses are shown is told of it, below them.
func (a *app) followOwn(ctx context.Context, s *standalone.Mesh) (show func(), end func() error) {
	ctx, cancel := context.WithCancel(ctx)
	way := proxies.Local{}
	var pods []types.NamespacedName
	for namespace, exchanges := range s.Exchanges() {
		name := types.NamespacedName{Namespace: namespace, Name: meshv1alpha1.ProxyName}
		inventory := &admin.Inventory{Ready: func() bool { return true }, Connected: func() bool { return true }}
		way[name] = admin.Handler(inventory, exchanges)
		pods = append(pods, name)
	}
	var opened sync.WaitGroup
	opened.Add(len(pods))
	shown := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- a.tap(ctx, heldWay{way, opened.Done, shown}, pods, url.Values{}, 0) }()
	opened.Wait()
	return func() { close(shown) }, func() error {
		cancel()
		return <-ended
	}
}

// heldWay opens streams at once, and has them read once shown is closed.
type heldWay struct {
	proxies.Way
	opened func()
	shown  <-chan struct{}
}

// Get implements proxies.Way.
func (w heldWay) Get(ctx context.Context, pod types.NamespacedName, port int, path string) (io.ReadCloser, error) {
	body, err := w.Way.Get(ctx, pod, port, path)
	w.opened()
	select {
	case <-w.shown:
	case <-ctx.Done():
	}
	return body, err
}

// followed are files that are looked at again and again. Stamps tell what they were when they were read and at the last look.
type followed struct {
	paths      []string
	read, last []byte
}

// changed says whether the files are others than those that were read, and takes them as read if so. They have to be the
// same at two looks: what an editor is still writing would be read by half, and half a mesh be run until the next look.
func (f *followed) changed() bool {
	now, err := stampOf(f.paths)
	if err != nil {
		return false // A file that is being written may be away for a moment.
	}
	still := bytes.Equal(now, f.last)
	f.last = now
	if !still || bytes.Equal(now, f.read) {
		return false
	}
	f.read = now
	return true
}

// stampOf tells files apart by their names, sizes and times.
func stampOf(paths []string) ([]byte, error) {
	var stamp []byte
	for _, path := range paths {
		err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			if !entry.IsDir() {
				stamp = fmt.Appendf(stamp, "%s %d %d\n", name, info.Size(), info.ModTime().UnixNano())
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return stamp, nil
}

// showRunning says where clients connect to.
func (a *app) showRunning(applied standalone.Applied) error {
	for _, r := range applied.Rejected {
		fmt.Fprintf(a.errOut, "rejected: %s: %s\n", r.Ref, line(r.Reason))
	}
	return a.print(running{applied.Addresses, applied.BuiltIn}, func(w io.Writer) error {
		var rows [][]string
		for _, at := range applied.Addresses {
			answers := "your backend"
			if slices.Contains(applied.BuiltIn, at.ServicePort) {
				answers = "built in"
			}
			rows = append(rows, []string{at.Namespace, at.ServicePort, string(at.Protocol), at.Address, answers})
		}
		if len(rows) == 0 {
			_, err := fmt.Fprintln(w, "no Service of the files passes the mesh: see kubectl weft analyze -f")
			return err
		}
		return table(w, []string{"CLIENTS OF", "SERVICE", "PROTOCOL", "CONNECT TO", "BEHIND IT"}, rows)
	})
}
