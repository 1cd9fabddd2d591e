package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"weft.dev/weft/test/cluster/cgroup"
	"weft.dev/weft/test/cluster/config"
)

// Down removes the cluster and everything that belongs to it, however it was left. Logs stay.
func (m *Machine) Down(ctx context.Context) error {
	release, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	return m.clear(ctx)
}

// clear goes by names that only the cluster has, not by its record alone, so that it also works when
// the record is lost, and it may be interrupted and repeated anywhere.
func (m *Machine) clear(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("the cluster did not end within %s", endTimeout))
	defer cancel()
	s, sameBoot, err := loadState()
	if err != nil {
		fmt.Fprintf(m.Progress, "going on without the record: %v\n", err)
	}
	if sameBoot {
		for _, first := range s.Nodes {
			if err := first.Kill(ctx); err != nil {
				return err
			}
		}
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	if err := killGroup(ctx, hierarchies, controlGroup); err != nil {
		return err
	}
	if err := removeHostLink(ctx); err != nil {
		return err
	}
	for _, n := range m.Cluster.Nodes {
		if err := removeNamespace(ctx, networkNamespace(n.Name)); err != nil {
			return err
		}
	}
	if err := removeNamespace(ctx, switchNS); err != nil {
		return err
	}
	if s.NetnsMount {
		removeNetnsMount()
	}
	if err := cgroup.Remove(ctx, hierarchies, controlGroup); err != nil {
		return err
	}
	return m.removeFiles(s.Output)
}

// removeFiles removes the cluster's directories, after making sure that nothing of the machine is
// mounted in them: the nodes' mounts end with the nodes and are never visible here.
func (m *Machine) removeFiles(output string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	for _, dir := range []string{dataDir, stateDir} {
		if mount, ok := mountBelow(string(mounts), dir); ok {
			return fmt.Errorf("%s is mounted on this machine; unmount it first", mount)
		}
	}
	if output == "" {
		output = m.Output
	}
	for _, path := range []string{kubeconfig(output), kubectlLink(output)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove %s: %w", path, err)
		}
	}
	// The record goes last: until then an interrupted removal can be continued.
	for _, dir := range []string{dataDir, stateDir} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	return nil
}

// mountBelow finds a mount at or below dir in the content of /proc/self/mountinfo.
func mountBelow(mountinfo, dir string) (string, bool) {
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) > 4 && (fields[4] == dir || strings.HasPrefix(fields[4], dir+"/")) {
			return fields[4], true
		}
	}
	return "", false
}

// StopNode makes a node a dead machine: unplugged first, then everything on it killed at once. Its disk
// stays for StartNode.
func (m *Machine) StopNode(ctx context.Context, name string) error {
	s, n, release, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	first, running := s.Nodes[n.Name]
	if !running {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("%s did not end within %s", name, endTimeout))
	defer cancel()
	if err := run(ctx, cutLink(n.Name)); err != nil {
		return err
	}
	if err := killNode(ctx, n.Name, first); err != nil {
		return err
	}
	if err := m.removeRemains(ctx, n.Name); err != nil {
		return err
	}
	delete(s.Nodes, n.Name)
	return s.save()
}

// StartNode brings a stopped node back and returns when it is ready.
func (m *Machine) StartNode(ctx context.Context, name string) error {
	s, n, release, err := m.open(ctx, name)
	if err != nil {
		return err
	}
	defer release()
	if first, running := s.Nodes[n.Name]; running && first.Alive() {
		return nil
	}
	return m.startStopped(ctx, &s, n)
}

func (m *Machine) startStopped(ctx context.Context, s *state, n config.Node) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("%s did not start within %s", n.Name, startTimeout))
	defer cancel()
	begin := time.Now()
	// A node that died by itself has left these.
	if err := m.removeRemains(ctx, n.Name); err != nil {
		return err
	}
	if err := m.startNode(ctx, s, n); err != nil {
		return err
	}
	a, err := newAPI(m.Cluster, *s)
	if err != nil {
		return err
	}
	return poll(ctx, 200*time.Millisecond, func(ctx context.Context) error { return a.nodeReady(ctx, n.Name, begin) })
}

// removeRemains removes what a dead node has left in the machine's memory.
func (m *Machine) removeRemains(ctx context.Context, name string) error {
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	if err := killGroup(ctx, hierarchies, nodeControlGroup(name)); err != nil {
		return err
	}
	if err := removeNodeLink(ctx, name); err != nil {
		return err
	}
	if err := removeNamespace(ctx, networkNamespace(name)); err != nil {
		return err
	}
	return cgroup.Remove(ctx, hierarchies, nodeControlGroup(name))
}

// open takes the lock and returns the record of a running cluster and the node called name.
func (m *Machine) open(ctx context.Context, name string) (state, config.Node, func(), error) {
	n, ok := m.Cluster.Node(name)
	if !ok {
		return state{}, config.Node{}, nil, fmt.Errorf("no node is called %q", name)
	}
	release, err := m.lock(ctx)
	if err != nil {
		return state{}, config.Node{}, nil, err
	}
	s, ok, err := loadState()
	if err == nil && !ok {
		err = errNotUp
	}
	if err != nil {
		release()
		return state{}, config.Node{}, nil, err
	}
	return s, n, release, nil
}
