package host

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"weft.dev/weft/test/cluster/config"
	"weft.dev/weft/test/cluster/process"
)

// Status describes what runs on the machine. It returns an error when the cluster is not healthy.
func (m *Machine) Status(ctx context.Context, w io.Writer) error {
	s, ok, err := loadState()
	if err != nil {
		return err
	}
	if !ok {
		return errNotUp
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NODE\tZONE\tADDRESSES\tPROGRAM\tPID")
	for _, n := range m.Cluster.Nodes {
		if err := m.statusRows(table, n, s.Nodes[n.Name]); err != nil {
			return err
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("write the status: %w", err)
	}
	fmt.Fprintf(w, "\nkubeconfig  %s\nkubectl     %s\nlogs        %s\n",
		kubeconfig(s.Output), kubectlLink(s.Output), filepath.Join(s.Output, "logs"))
	fmt.Fprintln(w, "look into a node with: nsenter -a -t PID-OF-ITS-INIT")
	for _, n := range m.Cluster.Nodes {
		if !s.Nodes[n.Name].Alive() {
			return fmt.Errorf("%s does not run", n.Name)
		}
	}
	a, err := newAPI(m.Cluster, s)
	if err != nil {
		return err
	}
	return m.healthy(ctx, a, time.Time{})
}

func (m *Machine) statusRows(w io.Writer, n config.Node, first process.Identity) error {
	prefix := fmt.Sprintf("%s\t%s\t%s %s", n.Name, n.Zone, n.IPv4, n.IPv6)
	if !first.Alive() {
		fmt.Fprintf(w, "%s\tstopped\t-\n", prefix)
		return nil
	}
	fmt.Fprintf(w, "%s\tinit\t%d\n", prefix, first.PID)
	children, err := process.Children(first.PID)
	if err != nil {
		return err
	}
	var names []string
	pids := map[string]string{}
	for _, unit := range config.Units(m.Cluster, n) {
		names = append(names, unit.Name)
		pids[unit.Name] = "down"
		if child, ok := children[unit.Name]; ok {
			pids[unit.Name] = strconv.Itoa(child.PID)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "\t\t\t%s\t%s\n", name, pids[name])
	}
	return nil
}
