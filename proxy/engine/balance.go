package engine

import (
	"fmt"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/upstream"
	"weft.dev/weft/proxy/wire"
)

// wish is what the next try asks of its endpoint.
func (t *tries) wish() upstream.Wish {
	w := newWish(t.config.view, t.key, &t.head, t.source)
	w.Avoid, w.Prefer = t.avoid, t.preferred()
	w.GRPC, w.Upgrade = t.grpc, t.webSocket
	return w
}

// newWish is what a request asks of the endpoint that serves it at a backend: to be near the client, and to
// be the one that its hash belongs to if the backend is balanced that way. head is the request as it is
// sent, nil for opaque bytes.
func newWish(view *upstream.View, backend string, head *phttp.Request, source upstream.Source) upstream.Wish {
	w := upstream.Wish{Zone: source.Zone, Node: source.Node}
	if key := view.HashKey(backend); key != nil {
		w.Hash, w.Hashed = hash(key, head, source)
	}
	return w
}

// hash returns the hash of the part of a request that key names, false if the request does not have it.
func hash(key *wire.HashKey, head *phttp.Request, source upstream.Source) (uint64, bool) {
	if key.Type == wire.HashSourceAddress {
		return upstream.HashAddress(source.Address.Addr()), source.Address.IsValid()
	}
	if head == nil {
		return 0, false
	}
	value := ""
	switch key.Type {
	case wire.HashHeader:
		value = head.Field(key.Name)
	case wire.HashCookie:
		value = head.Cookie(key.Name)
	case wire.HashQueryParameter:
		value = head.Query(key.Name)
	case wire.HashSourceAddress:
	}
	return upstream.Hash(value), value != ""
}

// receivedSource says who a request of the hop comes from, as far as the proxy before this one has told.
func receivedSource(m upstream.Metadata) upstream.Source {
	return upstream.Source{Address: m.Client, Zone: m.Zone, Node: m.Node}
}

// validateLoadBalancing refuses what endpoints cannot be chosen by.
func validateLoadBalancing(b *wire.LoadBalancing) error {
	if b == nil {
		return nil
	}
	if b.Algorithm != nil && !upstream.Balances(*b.Algorithm) {
		return fmt.Errorf("loadBalancing.algorithm %q is not supported", *b.Algorithm)
	}
	if b.Hash == nil {
		return nil
	}
	switch b.Hash.Type {
	case wire.HashHeader, wire.HashCookie, wire.HashQueryParameter:
		if b.Hash.Name == "" {
			return fmt.Errorf("loadBalancing.hash of type %s has no name", b.Hash.Type)
		}
	case wire.HashSourceAddress:
	default:
		return fmt.Errorf("loadBalancing.hash of type %q is not supported", b.Hash.Type)
	}
	return nil
}
