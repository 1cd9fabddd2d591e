package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// device is the name of the device in a namespace that Join connects, as in a pod.
const device = "eth0"

// New makes a network namespace without a name. It ends when it is closed, or when the process ends,
// however that happens; nothing of it is ever left behind.
func New() (*Netns, error) {
	var made *Netns
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		var err error
		made, err = Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	handle, err := made.handle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	defer handle.Close()
	if err := up(handle, "lo"); err != nil {
		return nil, errors.Join(err, made.Close())
	}
	return made, nil
}

// Do runs f in the namespace: sockets that f opens belong to it for good. f must not start goroutines
// that open sockets.
func (n *Netns) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that ends afterwards, because what f does to it cannot be undone
// with certainty.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Join connects two namespaces by a pair of Ethernet devices named eth0, with these addresses.
func Join(a, b *Netns, ofA, ofB []netip.Prefix) error {
	handle, err := a.handle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	pair := netlink.NewVeth(netlink.NewLinkAttrs())
	pair.Name, pair.PeerName, pair.PeerNamespace = device, device, netlink.NsFd(int(b.file.Fd()))
	if err := handle.LinkAdd(pair); err != nil {
		return fmt.Errorf("connect network namespaces: %w", err)
	}
	peer, err := b.handle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer peer.Close()
	for _, end := range []struct {
		handle    *netlink.Handle
		addresses []netip.Prefix
	}{{handle, ofA}, {peer, ofB}} {
		if err := address(end.handle, end.addresses); err != nil {
			return err
		}
	}
	return nil
}

func address(handle *netlink.Handle, addresses []netip.Prefix) error {
	link, err := handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	for _, prefix := range addresses {
		added := &netlink.Addr{IPNet: &net.IPNet{
			IP:   prefix.Addr().AsSlice(),
			Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
		}}
		if prefix.Addr().Is6() {
			// Nobody else is on the link, so the wait for a duplicate address is in vain.
			added.Flags = unix.IFA_F_NODAD
		}
		if err := handle.AddrAdd(link, added); err != nil {
			return fmt.Errorf("add address %s: %w", prefix, err)
		}
	}
	return up(handle, device)
}

func up(handle *netlink.Handle, name string) error {
	link, err := handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("device %s: %w", name, err)
	}
	if err := handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// Route sends everything that is not on the link to gateway.
func (n *Netns) Route(gateway netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	handle, err := n.handle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	if err := handle.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}
