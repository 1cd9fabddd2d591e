// Package config says what the local cluster looks like: its addresses, certificates, and every
// configuration file and command line of its nodes. It computes values only; package host puts them on
// the machine.
package config

import "net/netip"

// Cluster is the shape of a local cluster. Every node has one address and one pod range per family,
// and routes to the pod ranges of the others, so addresses are never translated between pods.
type Cluster struct {
	Nodes []Node
	// NodeNetwork4 and NodeNetwork6 join the nodes, the gateway and the machine.
	NodeNetwork4, NodeNetwork6 netip.Prefix
	// Gateway4 and Gateway6 are the nodes' default route. It leads nowhere on purpose: the gateway
	// answers "unreachable", so that nothing in the cluster waits for an outside that is not there.
	Gateway4, Gateway6 netip.Addr
	// Host4 and Host6 are this machine's addresses in the node network.
	Host4, Host6 netip.Addr
	// Pods4 and Pods6 contain every node's range.
	Pods4, Pods6         netip.Prefix
	Services4, Services6 netip.Prefix
	// APIServerService and DNSService are the addresses of two well-known Services.
	APIServerService4, APIServerService6 netip.Addr
	DNSService4, DNSService6             netip.Addr
	// PauseImage and CoreDNSImage are never pulled: package host imports them.
	PauseImage, CoreDNSImage string
}

// Node is one machine of the cluster.
type Node struct {
	Name, Zone   string
	IPv4, IPv6   netip.Addr
	Pods4, Pods6 netip.Prefix
}

// Local returns the one cluster that a machine can have: two nodes in two zones, the control plane on
// the first. The IPv6 ranges are of a unique local prefix (RFC 4193) that spells "weft".
//
// Addresses of pods are given in turn. Whoever on a node's bridge knew the pod that had one before sends to
// that one's device for up to ten seconds, since the network plugin does not announce the new one: so there
// are more addresses than a cluster that runs tests for a day has pods.
func Local() Cluster {
	return Cluster{
		Nodes: []Node{
			{
				Name: "node1", Zone: "zone-a",
				IPv4: netip.MustParseAddr("10.250.0.11"), IPv6: netip.MustParseAddr("fd77:6566:7400::11"),
				Pods4: netip.MustParsePrefix("10.244.16.0/20"), Pods6: netip.MustParsePrefix("fd77:6566:7401:1::/64"),
			},
			{
				Name: "node2", Zone: "zone-b",
				IPv4: netip.MustParseAddr("10.250.0.12"), IPv6: netip.MustParseAddr("fd77:6566:7400::12"),
				Pods4: netip.MustParsePrefix("10.244.32.0/20"), Pods6: netip.MustParsePrefix("fd77:6566:7401:2::/64"),
			},
		},
		NodeNetwork4: netip.MustParsePrefix("10.250.0.0/24"), NodeNetwork6: netip.MustParsePrefix("fd77:6566:7400::/64"),
		Gateway4: netip.MustParseAddr("10.250.0.1"), Gateway6: netip.MustParseAddr("fd77:6566:7400::1"),
		Host4: netip.MustParseAddr("10.250.0.2"), Host6: netip.MustParseAddr("fd77:6566:7400::2"),
		Pods4: netip.MustParsePrefix("10.244.0.0/16"), Pods6: netip.MustParsePrefix("fd77:6566:7401::/48"),
		Services4: netip.MustParsePrefix("10.96.0.0/16"), Services6: netip.MustParsePrefix("fd77:6566:7402::/112"),
		APIServerService4: netip.MustParseAddr("10.96.0.1"), APIServerService6: netip.MustParseAddr("fd77:6566:7402::1"),
		DNSService4: netip.MustParseAddr("10.96.0.10"), DNSService6: netip.MustParseAddr("fd77:6566:7402::a"),
		PauseImage:   "weft.dev/cluster/pause:1",
		CoreDNSImage: "weft.dev/cluster/coredns:1",
	}
}

// ControlPlane returns the node that runs etcd, the API server and the controllers.
func (c Cluster) ControlPlane() Node { return c.Nodes[0] }

// Node returns the node called name.
func (c Cluster) Node(name string) (Node, bool) {
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Server is the API server's URL for clients inside and outside the cluster.
func (c Cluster) Server() string {
	return "https://" + netip.AddrPortFrom(c.ControlPlane().IPv4, apiServerPort).String()
}

const apiServerPort = 6443

// Bridge4 is the address of the node's pod bridge: the first of the range, which is the pods' gateway.
func (n Node) Bridge4() netip.Prefix {
	return netip.PrefixFrom(n.Pods4.Addr().Next(), n.Pods4.Bits())
}

// Bridge6 is Bridge4 for IPv6.
func (n Node) Bridge6() netip.Prefix {
	return netip.PrefixFrom(n.Pods6.Addr().Next(), n.Pods6.Bits())
}
