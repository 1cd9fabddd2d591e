package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	phttp "weft.dev/weft/proxy/http"
	"weft.dev/weft/proxy/wire"
)

// validate reports why a resource cannot be used by a proxy. Mesh and certificates are judged by
// package identity when they are put to use.
func (e *Engine) validate(r *wire.Resource) error {
	if err := r.Valid(); err != nil {
		return err
	}
	switch r.Kind {
	case wire.KindDestination:
		return validateDestination(r.Key, r.Destination)
	case wire.KindRoute:
		return validateRoute(r.Route)
	case wire.KindBackend:
		return validateBackend(r.Key, r.Backend)
	case wire.KindEndpoints:
		for _, endpoint := range r.Endpoints.Endpoints {
			if !endpoint.Address.IsValid() || endpoint.Address.Port() == 0 {
				return fmt.Errorf("endpoint address %q is not usable", endpoint.Address)
			}
		}
	case wire.KindProxies:
		for i := range r.Proxies.Proxies {
			proxy := &r.Proxies.Proxies[i]
			if len(proxy.Addresses) == 0 {
				return fmt.Errorf("proxy %q has no address", proxy.Pod)
			}
			if err := validAddresses(proxy.Addresses); err != nil {
				return fmt.Errorf("proxy %q: %w", proxy.Pod, err)
			}
		}
	case wire.KindWorkload:
		return validateWorkload(r.Key, r.Workload)
	case wire.KindMesh, wire.KindCertificate:
		return nil
	case wire.KindAuthorization:
		return validateAuthorization(r.Key, r.Authorization)
	case wire.KindSidecar:
		return e.validateSidecar(r.Sidecar)
	case wire.KindCapture, wire.KindInbound:
		return errors.New("capture is for node agents, not for proxies")
	}
	return nil
}

func validateDestination(key string, d *wire.Destination) error {
	if err := validateKey(key, wire.ServicePortKey(d.Namespace, d.Service, d.Port)); err != nil {
		return err
	}
	if d.Number != 0 && d.Number < wire.MinNumber {
		return fmt.Errorf("number %d is below %d", d.Number, wire.MinNumber)
	}
	switch d.Protocol {
	case wire.ProtocolHTTP, wire.ProtocolH2C, wire.ProtocolTCP:
	default:
		return fmt.Errorf("protocol %q is not supported", d.Protocol)
	}
	if err := validatePolicy(d.Policy); err != nil {
		return err
	}
	return validAddresses(d.Addresses)
}

func validateBackend(key string, b *wire.Backend) error {
	if err := validateKey(key, wire.ServicePortKey(b.Namespace, b.Service, b.Port)); err != nil {
		return err
	}
	switch b.Protocol {
	case wire.ProtocolHTTP, wire.ProtocolH2C, wire.ProtocolTCP:
	default:
		return fmt.Errorf("protocol %q is not supported", b.Protocol)
	}
	if err := validatePolicy(b.Policy); err != nil {
		return err
	}
	return validAddresses(b.Addresses)
}

// validateKey accepts the key of a Service port and that of a copy for one consumer.
func validateKey(key, servicePort string) error {
	if plain, _, _ := strings.Cut(key, "@"); plain != servicePort {
		return fmt.Errorf("key is %q although the content is %q", key, servicePort)
	}
	return nil
}

func validateRoute(route *wire.Route) error {
	if err := validatePolicy(route.Policy); err != nil {
		return err
	}
	return phttp.Check(route)
}

func validateWorkload(key string, w *wire.Workload) error {
	if !w.Address.IsValid() {
		return errors.New("address is not valid")
	}
	if want := w.Address.String(); key != want {
		return fmt.Errorf("key is %q although the address is %q", key, want)
	}
	if w.Namespace == "" || w.ServiceAccount == "" {
		return errors.New("namespace or service account is empty")
	}
	return nil
}

func validAddresses(addresses []netip.Addr) error {
	for _, address := range addresses {
		if !address.IsValid() || address.IsUnspecified() {
			return fmt.Errorf("address %q is not usable", address)
		}
	}
	return nil
}
