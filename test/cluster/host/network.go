package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"weft.dev/weft/test/cluster/config"
)

const netnsDir = "/run/netns"

// bridgeMAC is the address of every bridge; each is alone in its segment. A bridge without one of its own
// takes the lowest of its ports, and with a port that goes, as a pod's does, everybody else in the segment
// sends to an address that is nobody's until they have asked again.
const bridgeMAC = "02:77:65:66:74:01"

// createSwitch returns the commands that make the bridge which joins the nodes, in a network namespace
// of its own, and this machine's link to it. The routes lead the machine to pods and Services too.
func createSwitch(c config.Cluster) [][]string {
	cp := c.ControlPlane()
	commands := [][]string{
		{"ip", "netns", "add", switchNS},
		{"ip", "-n", switchNS, "link", "set", "lo", "up"},
		// Snooping would withhold neighbour discovery from nodes that have not spoken yet.
		{"ip", "-n", switchNS, "link", "add", "br0", "address", bridgeMAC, "type", "bridge", "mcast_snooping", "0"},
		{"ip", "-n", switchNS, "addr", "add", within(c.Gateway4, c.NodeNetwork4), "dev", "br0"},
		{"ip", "-n", switchNS, "addr", "add", within(c.Gateway6, c.NodeNetwork6), "dev", "br0", "nodad"},
		{"ip", "-n", switchNS, "link", "set", "br0", "up"},
		// The gateway forwards and has no route out: that is how it answers "unreachable".
		{"ip", "netns", "exec", switchNS, "sh", "-c",
			"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"},
		{"ip", "link", "add", hostLink, "type", "veth", "peer", "name", "host", "netns", switchNS},
		{"ip", "-n", switchNS, "link", "set", "host", "master", "br0", "up"},
		{"ip", "addr", "add", within(c.Host4, c.NodeNetwork4), "dev", hostLink},
		{"ip", "addr", "add", within(c.Host6, c.NodeNetwork6), "dev", hostLink, "nodad"},
		{"ip", "link", "set", hostLink, "up"},
	}
	for _, n := range c.Nodes {
		commands = append(commands,
			[]string{"ip", "route", "add", n.Pods4.String(), "via", n.IPv4.String(), "dev", hostLink},
			[]string{"ip", "route", "add", n.Pods6.String(), "via", n.IPv6.String(), "dev", hostLink})
	}
	return append(commands,
		[]string{"ip", "route", "add", c.Services4.String(), "via", cp.IPv4.String(), "dev", hostLink},
		[]string{"ip", "route", "add", c.Services6.String(), "via", cp.IPv6.String(), "dev", hostLink})
}

// createNodeNetwork returns the commands that make the network namespace of node n, its link to the
// switch, its pod bridge and its routes to the pods of the other nodes. Addresses skip duplicate
// detection: nobody else is there, and a node must not wait for it.
func createNodeNetwork(c config.Cluster, n config.Node) [][]string {
	ns := networkNamespace(n.Name)
	in := func(args ...string) []string { return append([]string{"ip", "-n", ns}, args...) }
	commands := [][]string{
		{"ip", "netns", "add", ns},
		in("link", "set", "lo", "up"),
		{"ip", "link", "add", "eth0", "netns", ns, "type", "veth", "peer", "name", n.Name, "netns", switchNS},
		{"ip", "-n", switchNS, "link", "set", n.Name, "master", "br0", "up"},
		in("addr", "add", within(n.IPv4, c.NodeNetwork4), "dev", "eth0"),
		in("addr", "add", within(n.IPv6, c.NodeNetwork6), "dev", "eth0", "nodad"),
		in("link", "set", "eth0", "up"),
		in("route", "add", "default", "via", c.Gateway4.String()),
		in("route", "add", "default", "via", c.Gateway6.String()),
		in("link", "add", "cni0", "address", bridgeMAC, "type", "bridge", "mcast_snooping", "0"),
		in("addr", "add", n.Bridge4().String(), "dev", "cni0"),
		in("addr", "add", n.Bridge6().String(), "dev", "cni0", "nodad"),
		in("link", "set", "cni0", "up"),
	}
	for _, other := range c.Nodes {
		if other.Name != n.Name {
			commands = append(commands,
				in("route", "add", other.Pods4.String(), "via", other.IPv4.String()),
				in("route", "add", other.Pods6.String(), "via", other.IPv6.String()))
		}
	}
	return commands
}

// cutLink returns the command that unplugs a node: nothing it sends from now on, such as the farewell
// of its dying connections, reaches anybody.
func cutLink(node string) []string {
	return []string{"ip", "-n", switchNS, "link", "set", node, "down"}
}

// loadBridgeFilter makes the kernel offer the settings by which bridged packets pass connection
// tracking. Unlike the rest of what the cluster needs, nothing loads this module by itself.
func loadBridgeFilter(ctx context.Context) error {
	if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
		return nil
	}
	return run(ctx, []string{"modprobe", "br_netfilter"})
}

func within(address netip.Addr, network netip.Prefix) string {
	return netip.PrefixFrom(address, network.Bits()).String()
}

func runAll(ctx context.Context, commands [][]string) error {
	for _, command := range commands {
		if err := run(ctx, command); err != nil {
			return err
		}
	}
	return nil
}

func run(ctx context.Context, command []string) error {
	output, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

// removeNamespace deletes a network namespace with everything in it; one that does not exist is fine.
func removeNamespace(ctx context.Context, name string) error {
	if _, err := os.Stat(filepath.Join(netnsDir, name)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return run(ctx, []string{"ip", "netns", "del", name})
}

// removeNodeLink deletes a node's link to the switch. The node's network namespace alone does not take
// it along at once: the kernel keeps the namespace for as long as connections that died with the node
// wait for an answer.
func removeNodeLink(ctx context.Context, node string) error {
	del := []string{"ip", "-n", switchNS, "link", "del", "dev", node}
	show := []string{"ip", "-n", switchNS, "link", "show", "dev", node}
	if exists := run(ctx, show) == nil; exists {
		return run(ctx, del)
	}
	return nil
}

func removeHostLink(ctx context.Context) error {
	if _, err := os.Stat("/sys/class/net/" + hostLink); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return run(ctx, []string{"ip", "link", "del", hostLink})
}

// removeNetnsMount undoes what the first `ip netns add` leaves behind, a mount of /run/netns on itself,
// once no namespace is left in it. The plain unmount fails when somebody has just made one; theirs
// counts then.
func removeNetnsMount() {
	entries, err := os.ReadDir(netnsDir)
	if err != nil || len(entries) > 0 {
		return
	}
	for syscall.Unmount(netnsDir, 0) == nil {
		continue
	}
	os.Remove(netnsDir) //nolint:errcheck // in use or gone: both are fine
}
