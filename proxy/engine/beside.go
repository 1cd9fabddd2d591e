package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"weft.dev/weft/proxy/identity"
	"weft.dev/weft/proxy/reason"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// A proxy beside a pod serves two sides. What the pod sends to cluster IPs comes to it within the pod's network, and
// goes over the hop. What comes from the hop is for the pod itself and decided about here, whoever picked it.

// ownPod is the pod that the proxy is beside. A nil one is not known yet.
type ownPod struct {
	*wire.Sidecar
	source wire.Workload
}

func newOwnPod(s *wire.Sidecar) *ownPod {
	return &ownPod{Sidecar: s, source: wire.Workload{
		Pod: s.Pod, UID: s.UID, Namespace: s.Namespace, ServiceAccount: s.ServiceAccount, Node: s.Node, Zone: s.Zone,
	}}
}

// known tells that the addresses of the pod are.
func (p *ownPod) known() bool { return p != nil && len(p.Addresses) > 0 }

// endpoints are the pod's ports by the Backends that they serve. Of both families it has the address of the first.
func (p *ownPod) endpoints() map[string]netip.AddrPort {
	if !p.known() {
		return nil
	}
	own := make(map[string]netip.AddrPort, len(p.Ports))
	for _, port := range p.Ports {
		own[port.Backend] = netip.AddrPortFrom(p.Addresses[0].Unmap(), port.Port)
	}
	return own
}

// sends tells that a connection from an address is the pod's own.
func (p *ownPod) sends(from netip.Addr) bool {
	return from.IsLoopback() || slices.Contains(p.Addresses, from)
}

// validateSidecar accepts what is about a pod of this proxy's namespace and ServiceAccount.
func (e *Engine) validateSidecar(s *wire.Sidecar) error {
	switch {
	case !e.sidecar():
		return errors.New("this proxy is beside no pod")
	case s.Namespace != e.options.Namespace || s.ServiceAccount != e.options.ServiceAccount:
		return fmt.Errorf("pod %s/%s runs as %s, not as %s in %s", s.Namespace, s.Pod, s.ServiceAccount, e.options.ServiceAccount, e.options.Namespace)
	}
	for _, port := range s.Ports {
		if port.Port == 0 {
			return fmt.Errorf("port 0 serves %s", port.Backend)
		}
	}
	return validAddresses(s.Addresses)
}

// identifyOwn fills in where a connection comes from, which can only be the pod. It returns why the connection is
// refused, or "".
func (e *Engine) identifyOwn(ctx context.Context, c *conn) reason.Reason {
	for {
		cfg := e.config.Load()
		if cfg.pod.known() {
			if !cfg.pod.sends(c.client.Addr()) {
				return reason.ForeignSource
			}
			c.source = &cfg.pod.source
			c.caller = e.metrics.Caller(c.source.Namespace, c.source.ServiceAccount)
			return ""
		}
		select {
		case <-cfg.replaced:
		case <-ctx.Done():
			return reason.UnknownSource
		}
	}
}

// vouched returns the connection as it is for what a peer passes on of somebody else: the namespace's own proxies do
// for the proxies of its pods, which do not hold the caller's key. From anybody else it is refused.
func (e *Engine) vouched(c *hopConn, m upstream.Metadata) (*hopConn, bool) {
	if m.Caller == "" {
		return c, true
	}
	id, err := identity.ParseID(m.Caller)
	if err != nil || !e.sidecar() || id.TrustDomain != c.peer.TrustDomain ||
		c.peer.Namespace != e.options.Namespace || c.peer.ServiceAccount != wire.ProxyAccount {
		return nil, false
	}
	return &hopConn{Conn: c.Conn, peer: id, caller: e.metrics.Caller(id.Namespace, id.ServiceAccount), release: c.release}, true
}

// onBehalf is how a request that came over the hop is passed on to the proxy of a pod: as this proxy, which vouches for
// the caller.
func onBehalf(of identity.PeerID, source upstream.Source) (as upstream.Source, caller string) {
	source.ServiceAccount = wire.ProxyAccount
	return source, of.String()
}
