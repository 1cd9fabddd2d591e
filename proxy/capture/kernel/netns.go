// Package kernel brings the tables of package rules into force in one network namespace, over netlink
// and without any program: nftables rules, addresses, and connection tracking entries. It decides
// nothing about what the rules shall be. It needs CAP_NET_ADMIN over the namespace and CAP_SYS_ADMIN
// to enter it.
package kernel

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"weft.dev/weft/proxy/capture/rules"
)

// socketBuffer holds the largest batch: the kernel takes a batch in one message or not at all. It is
// memory only while a batch is on its way.
const socketBuffer = 16 << 20

// Netns is an open network namespace. Its methods may be called by several goroutines. Whoever opens
// it must close it: the namespace lives on as long as it is open.
type Netns struct {
	file *os.File
	// lifetime is Lifetime but in tests of what happens after it.
	lifetime time.Duration
	// destroy is destroySocket but in tests of kernels that cannot.
	destroy func(*mdlayher.Conn, *netlink.Socket) error

	mu sync.Mutex
	// have and guarded are in force if known and guardKnown.
	have              rules.Tables
	guarded           []netip.Addr
	known, guardKnown bool
	// turn chooses which of the two expiring sets the next Refresh renews.
	turn int
	// generation is the number of the ruleset that holds have and guarded: the kernel counts every
	// change that anybody makes in the namespace.
	generation uint32
	// allowedInUse is which of the two sets of allowed callers each family uses.
	allowedInUse map[nftables.TableFamily]int
	// ending tells that connections may be open that shall be no more.
	ending bool
	// counted are the counters as they were read last, uncollected what they have grown by since Callers was
	// called.
	counted     map[counterID]uint64
	uncollected map[callerID]*Caller
}

// Open opens the namespace at path, such as /var/run/netns/NAME or /proc/PID/ns/net.
func Open(path string) (*Netns, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return &Netns{file: file, lifetime: Lifetime, destroy: destroySocket, allowedInUse: map[nftables.TableFamily]int{}}, nil
}

// Close lets go of the namespace. What is in force stays.
func (n *Netns) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.file.Close()
}

// Addresses returns the global addresses of the namespace's devices, in their order.
func (n *Netns) Addresses() ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	handle, err := n.handle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	held, err := handle.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	services := -1
	if link, err := handle.LinkByName(serviceDevice); err == nil {
		services = link.Attrs().Index
	}
	var out []netip.Addr
	for _, one := range held {
		address, ok := netip.AddrFromSlice(one.IP)
		if ok && address.Unmap().IsGlobalUnicast() && one.LinkIndex != services {
			out = append(out, address.Unmap())
		}
	}
	return out, nil
}

// serviceDevice is where kube-proxy holds the addresses of all Services, in its mode ipvs. They are nobody's
// own.
const serviceDevice = "kube-ipvs0"

// handle opens a netlink socket of one protocol in the namespace.
func (n *Netns) handle(protocol int) (*netlink.Handle, error) {
	handle, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return handle, nil
}

// batch sends what fill adds as one transaction: all of it comes into force in one step, or nothing.
func (n *Netns) batch(fill func(*nftables.Conn) error) error {
	conn, err := n.nftables()
	if err != nil {
		return err
	}
	if err := fill(conn); err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	if err := errors.Join(conn.Flush(), conn.CloseLasting()); err != nil {
		return err
	}
	n.generation++
	return nil
}

func (n *Netns) nftables() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(n.file.Fd())),
		nftables.WithSockOptions(func(c *mdlayher.Conn) error {
			return errors.Join(c.SetWriteBuffer(socketBuffer), c.SetReadBuffer(socketBuffer))
		}))
	if err != nil {
		return nil, fmt.Errorf("netfilter socket: %w", err)
	}
	return conn, nil
}
