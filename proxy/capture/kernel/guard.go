package kernel

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Offsets within the headers that the guard reads.
const (
	offsetEtherType = 12
	offsetARPSender = 14
)

// guardTable is a table of family netdev.
func guardTable(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyNetdev, Name: name}
}

func removeTable(c *nftables.Conn, table *nftables.Table) {
	c.AddTable(table)
	c.DelTable(table)
}

// addGuard replaces a table of family netdev. It passes only frames that carry an address of the
// pod as their source and drops everything else, so that there is no kind of frame to hide behind: a
// frame's type is read from the frame itself, because the sender of a raw frame chooses what the
// kernel remembers as its protocol, and tagged frames do not pass, because the receiver takes the tag
// of VLAN 0 off and delivers what is inside. Neighbour discovery needs link-local sources and, for
// duplicate address detection, the unspecified one; neither can open a connection through the mesh.
func addGuard(c *nftables.Conn, name, device string, addresses []netip.Addr) {
	table := guardTable(name)
	removeTable(c, table)
	c.AddTable(table)
	chain := c.AddChain(&nftables.Chain{
		Name: "guard", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookEgress, Priority: nftables.ChainPriorityFilter, Device: device,
	})
	for _, rule := range guardRules(addresses) {
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	}
}

func guardRules(addresses []netip.Addr) [][]expr.Any {
	var out [][]expr.Any
	for _, f := range passing(addresses) {
		out = append(out, f.accept())
	}
	// A rule and not the chain's policy: a policy is in force as soon as the chain is there, before its
	// rules are, and would drop what is on its way in between.
	return append(out, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// frame is a kind of frame that passes: its type, and where a source address within prefix stands
// behind the Ethernet header.
type frame struct {
	etherType uint16
	offset    uint32
	prefix    netip.Prefix
}

// passing lists the frames that a pod with these addresses may send, the most frequent first.
func passing(addresses []netip.Addr) []frame {
	var out []frame
	for _, address := range addresses {
		prefix := netip.PrefixFrom(address, address.BitLen())
		if address.Is6() {
			out = append(out, frame{unix.ETH_P_IPV6, familyIPv6.source, prefix})
			continue
		}
		out = append(out, frame{unix.ETH_P_IP, familyIPv4.source, prefix}, frame{unix.ETH_P_ARP, offsetARPSender, prefix})
	}
	return append(out,
		frame{unix.ETH_P_IPV6, familyIPv6.source, netip.MustParsePrefix("fe80::/10")},
		frame{unix.ETH_P_IPV6, familyIPv6.source, netip.MustParsePrefix("::/128")})
}

func (f frame) accept() []expr.Any {
	address := f.prefix.Masked().Addr().AsSlice()
	match := []expr.Any{
		&expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseLLHeader, Offset: offsetEtherType, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: registerKey, Data: binaryutil.BigEndian.PutUint16(f.etherType)},
		&expr.Payload{DestRegister: registerKey, Base: expr.PayloadBaseNetworkHeader, Offset: f.offset, Len: uint32(len(address))},
	}
	if !f.prefix.IsSingleIP() {
		mask := make([]byte, len(address))
		for bit := range f.prefix.Bits() {
			mask[bit/8] |= 0x80 >> (bit % 8)
		}
		match = append(match, &expr.Bitwise{
			SourceRegister: registerKey, DestRegister: registerKey, Len: uint32(len(address)),
			Mask: mask, Xor: make([]byte, len(address)),
		})
	}
	return append(match,
		&expr.Cmp{Op: expr.CmpOpEq, Register: registerKey, Data: address},
		&expr.Verdict{Kind: expr.VerdictAccept})
}

// ethernetHolding returns the name of the Ethernet device that holds one of the addresses.
func ethernetHolding(handle *netlink.Handle, addresses []netip.Addr) (string, error) {
	links, err := handle.LinkList()
	if err != nil {
		return "", fmt.Errorf("list devices: %w", err)
	}
	for _, link := range links {
		held, err := addressesOf(handle, link)
		if err != nil {
			return "", err
		}
		if !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return slices.Contains(held, a) }) {
			continue
		}
		if kind := link.Attrs().EncapType; kind != "ether" {
			return "", fmt.Errorf("device %s is of type %q and the guard knows Ethernet only", link.Attrs().Name, kind)
		}
		return link.Attrs().Name, nil
	}
	return "", fmt.Errorf("no device holds any of %v", addresses)
}

func addressesOf(handle *netlink.Handle, link netlink.Link) ([]netip.Addr, error) {
	held, err := handle.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	var out []netip.Addr
	for _, one := range held {
		if address, ok := netip.AddrFromSlice(one.IP); ok {
			out = append(out, address.Unmap())
		}
	}
	return out, nil
}
