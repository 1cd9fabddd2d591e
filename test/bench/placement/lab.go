package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"weft.dev/weft/proxy/capture/kernel"
	"weft.dev/weft/proxy/capture/rules"
	"weft.dev/weft/proxy/wire"
	"weft.dev/weft/test/bench/cost"
	"weft.dev/weft/test/bench/load"
)

const (
	// maxPods is what the addresses of a namespace suffice for.
	maxPods = 100
	appPort = 8080
	bridge  = "pods"
	// patience bounds what is not measured.
	patience = time.Minute
)

// lab is the network that the pods are in, and the proxies that run.
type lab struct {
	dir, program string
	// switched is the network namespace with the bridge that all pods are at.
	switched *kernel.Netns
	pods     []*pod
	// starts are done on a thread that stays. What the kernel kills with its parent ends with the thread that has started
	// it, and those of this process come and go with the network namespaces that they enter.
	starts  chan func()
	closers []func() error
}

// pod is a network namespace with an address, and the proxy in it if there is one.
type pod struct {
	namespace, name string
	address         netip.Addr
	netns           *kernel.Netns
	// self is open to the network namespace, for those who enter it by its path.
	self  *os.File
	proxy *exec.Cmd
	// shared tells that the proxy is one of the namespace's.
	shared bool
	output bytes.Buffer
}

func newLab(program string) (l *lab, err error) {
	l = &lab{program: program, starts: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for start := range l.starts {
			start()
		}
	}()
	l.closers = append(l.closers, func() error { close(l.starts); return nil })
	if l.dir, err = os.MkdirTemp("", "bench-placement"); err != nil {
		return nil, err
	}
	l.closers = append(l.closers, func() error { return os.RemoveAll(l.dir) })
	if l.switched, err = kernel.New(); err != nil {
		return nil, errors.Join(err, l.close())
	}
	l.closers = append(l.closers, l.switched.Close)
	err = l.switched.Do(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = bridge
		return errors.Join(netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}), up(bridge, gateway, 16), forward())
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bridge: %w", err), l.close())
	}
	return l, nil
}

// forward has the network namespace of this thread forward what comes over the bridge, and nobody told a shorter way: pods
// know their gateway alone, as with most plugins for networks. The kernel's table of neighbours, which all network
// namespaces share, would not have room for all that call each other.
func forward() error {
	var errs []error
	for name, value := range map[string]string{"ip_forward": "1", "conf/all/send_redirects": "0", "conf/" + bridge + "/send_redirects": "0"} {
		errs = append(errs, os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o600))
	}
	return errors.Join(errs...)
}

// up gives a device of the network namespace of this thread an address and brings it up.
func up(device string, address netip.Addr, bits int) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	if address.IsValid() {
		all := &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(bits, 32)}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: all}); err != nil {
			return fmt.Errorf("address of %s: %w", device, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", device, err)
	}
	return nil
}

// near says that an address is to be found at a device of the network namespace of this thread.
func near(device string, address netip.Addr) error {
	link, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("device %s: %w", device, err)
	}
	to := &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(32, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("route to %s: %w", address, err)
	}
	return nil
}

// add makes a pod at an address.
func (l *lab) add(namespace, name string, address netip.Addr) (*pod, error) {
	p := &pod{namespace: namespace, name: name, address: address}
	var err error
	if p.netns, err = kernel.New(); err != nil {
		return nil, err
	}
	l.closers = append(l.closers, p.netns.Close)
	err = p.netns.Do(func() (err error) {
		p.self, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, p.self.Close)
	port := fmt.Sprintf("pod%d", len(l.pods))
	err = l.switched.Do(func() error {
		pair := netlink.NewVeth(netlink.NewLinkAttrs())
		pair.Name, pair.PeerName, pair.PeerNamespace = port, "eth0", netlink.NsFd(int(p.self.Fd()))
		to, err := netlink.LinkByName(bridge)
		if err != nil {
			return err
		}
		pair.MasterIndex = to.Attrs().Index
		return errors.Join(netlink.LinkAdd(pair), up(port, netip.Addr{}, 0))
	})
	if err != nil {
		return nil, fmt.Errorf("connect a pod: %w", err)
	}
	if err := p.netns.Do(func() error { return errors.Join(up("eth0", address, 32), near("eth0", gateway)) }); err != nil {
		return nil, err
	}
	l.pods = append(l.pods, p)
	return p, p.netns.Route(gateway)
}

// serve has the application of a pod answer.
func (l *lab) serve(ctx context.Context, p *pod) error {
	listener, err := p.listen(ctx, netip.AddrPortFrom(p.address, appPort))
	if err != nil {
		return err
	}
	l.closers = append(l.closers, listener.Close)
	go load.Accept(listener, load.Answer)
	return nil
}

// listen opens a listener in the pod.
func (p *pod) listen(ctx context.Context, at netip.AddrPort) (l net.Listener, err error) {
	err = p.netns.Do(func() (err error) {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", at.String())
		return err
	})
	return l, err
}

// dial connects from the pod.
func (p *pod) dial(ctx context.Context, to netip.AddrPort) (c net.Conn, err error) {
	err = p.netns.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, "tcp", to.String())
		return err
	})
	return c, err
}

// run starts a proxy in the pod, with the flags and the environment that it has in a cluster.
func (l *lab) run(ctx context.Context, p *pod, caFile string) error {
	dir := filepath.Join(l.dir, p.namespace+"-"+p.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	token, flags := filepath.Join(dir, "token"), []string{"--leave-grace=100ms", "--drain-grace=5s", "--service-account=" + account}
	if p.shared {
		flags = nil
	}
	if err := os.WriteFile(token, []byte(p.token()), 0o600); err != nil {
		return err
	}
	p.proxy = exec.CommandContext(ctx, "nsenter", append([]string{
		fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), p.self.Fd()), "taskset", "-c", cost.ProxyCore, l.program,
		"--operator-address=" + operatorAddress, "--token-file=" + token, "--ca-file=" + caFile, "--state-dir=" + dir,
		"--namespace=" + p.namespace, "--pod=" + p.name, "--node=node",
	}, flags...)...)
	p.proxy.Env = []string{"GOMEMLIMIT=230MiB", "GOMAXPROCS=2"}
	p.proxy.Stdout, p.proxy.Stderr = &p.output, &p.output
	p.proxy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	l.starts <- func() { started <- p.proxy.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start a proxy: %w", err)
	}
	l.closers = append(l.closers, func() error {
		_ = p.proxy.Process.Kill()
		_ = p.proxy.Wait() // it was killed
		return nil
	})
	return nil
}

// apply puts the node agent's rules into all pods.
func (l *lab) apply(captures map[string]*wire.Capture, sidecars bool) error {
	for _, p := range l.pods {
		of := rules.Pod{Addresses: []netip.Addr{p.address}, Capture: captures[p.namespace], Proxy: p.shared, Sidecar: sidecars}
		if err := p.netns.Apply(rules.Build(of, "", func(netip.Addr) bool { return true })); err != nil {
			return err
		}
	}
	return nil
}

// refresh keeps the rules in force, which end a while after the agent.
func (l *lab) refresh() error {
	for _, p := range l.pods {
		if p.shared {
			continue
		}
		if err := p.netns.Refresh(); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) close() error {
	var err error
	for i := range l.closers {
		err = errors.Join(err, l.closers[len(l.closers)-1-i]())
	}
	return err
}
