package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"weft.dev/weft/test/e2e/traffic"
)

// forge takes another pod's address for its own, beside its own one, and sends a request from each. Were
// nothing in the way, the node would learn from the packets where to send the answers.
func forge(ctx context.Context, address, url string) error {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address: %w", err)
	}
	own, err := ownAddress(a.Is6())
	if err != nil {
		return err
	}
	if err := addAddress(device, a); err != nil {
		return err
	}
	client := traffic.NewClient()
	defer client.Close()
	var f traffic.Forgery
	f.Forged = client.Do(ctx, &traffic.Request{URL: url, Source: a.String(), Timeout: 5 * time.Second})
	f.Own = client.Do(ctx, &traffic.Request{URL: url, Source: own.String(), Timeout: onceTimeout})
	return leave(f)
}

// device is the pod's link to the node.
const device = "eth0"

// ownAddress returns the pod's address of a family.
func ownAddress(v6 bool) (netip.Addr, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("device: %w", err)
	}
	addresses, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses: %w", err)
	}
	for _, address := range addresses {
		if p, err := netip.ParsePrefix(address.String()); err == nil && p.Addr().Is6() == v6 && p.Addr().IsGlobalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("the pod has no address of that family")
}

// addAddress adds an address to a device with a netlink message (rtnetlink(7), RTM_NEWADDR).
func addAddress(device string, a netip.Addr) error {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return fmt.Errorf("device: %w", err)
	}
	family := byte(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	const header, ifaddr, attribute = unix.SizeofNlMsghdr, unix.SizeofIfAddrmsg, unix.SizeofRtAttr
	bytes := a.AsSlice()
	message := make([]byte, header+ifaddr+2*(attribute+len(bytes)))
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint16(message[4:], unix.RTM_NEWADDR)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	body := message[header:]
	// IFA_F_NODAD: an IPv6 address is usable at once.
	body[0], body[1], body[2] = family, byte(a.BitLen()), unix.IFA_F_NODAD
	binary.NativeEndian.PutUint32(body[4:], uint32(link.Index))
	rest := body[ifaddr:]
	for _, kind := range []uint16{unix.IFA_LOCAL, unix.IFA_ADDRESS} {
		binary.NativeEndian.PutUint16(rest, uint16(attribute+len(bytes)))
		binary.NativeEndian.PutUint16(rest[2:], kind)
		copy(rest[attribute:], bytes)
		rest = rest[attribute+len(bytes):]
	}
	return netlink(message)
}

// netlink sends one message to the kernel's routing family and reads whether it was taken.
func netlink(message []byte) error {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer func() { _ = unix.Close(socket) }()
	if err := unix.Sendto(socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(socket, reply, 0)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	if n < unix.SizeofNlMsghdr+4 {
		return fmt.Errorf("netlink: a reply of %d bytes", n)
	}
	if code := int32(binary.NativeEndian.Uint32(reply[unix.SizeofNlMsghdr:])); code != 0 {
		return fmt.Errorf("netlink: %w", unix.Errno(-code))
	}
	return nil
}
