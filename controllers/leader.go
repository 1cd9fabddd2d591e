package controllers

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	discoveryac "k8s.io/client-go/applyconfigurations/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"weft.dev/weft/controllers/distribute"
	"weft.dev/weft/controllers/identity"
)

const (
	// ConfigService is the Service that proxies and node agents connect to. It has no selector: the
	// leader alone serves configuration, and writes its own address into the Service's slices.
	ConfigService = "weft-config"
	// ConfigPort is the port of the Service and of the leader.
	ConfigPort = 15010
	// fieldOwner is the one owner of every field that the operator applies.
	fieldOwner = client.FieldOwner("weft")

	servingLifetime = 24 * time.Hour
)

// Leader serves the configuration stream while this operator leads.
type Leader struct {
	Client client.Client
	Server *distribute.Server
	// CA returns the authority that clients trust now.
	CA  func() *identity.CA
	Log logr.Logger
	// Namespace is the operator's own; PodName and PodAddresses are its own pod's.
	Namespace    string
	PodName      string
	PodAddresses []netip.Addr
	// Listen is the address to listen on, host:port.
	Listen string
}

// NeedLeaderElection keeps standbys from serving: one process knows every acknowledgement.
func (l *Leader) NeedLeaderElection() bool { return true }

// Start announces this process and serves until ctx ends.
func (l *Leader) Start(ctx context.Context) error {
	serving := &identity.Serving{
		CA:       l.CA,
		Names:    identity.ServiceNames(ConfigService, l.Namespace),
		Lifetime: servingLifetime,
		Now:      time.Now,
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.Listen)
	if err != nil {
		return fmt.Errorf("listen for configuration streams: %w", err)
	}
	go l.announce(ctx)
	return l.Server.Serve(ctx, listener, &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: serving.GetCertificate})
}

// announce writes the leader's address until it has succeeded, and then again now and then, since
// somebody may have deleted it.
func (l *Leader) announce(ctx context.Context) {
	backoff := wait.Backoff{Duration: 50 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 5 * time.Second}
	for ctx.Err() == nil {
		next := 30 * time.Second
		if err := l.apply(ctx); err != nil {
			l.Log.Error(err, "announce the leader")
			next = backoff.Step()
		}
		select {
		case <-ctx.Done():
		case <-time.After(next):
		}
	}
}

func (l *Leader) apply(ctx context.Context) error {
	families := map[discoveryv1.AddressType]string{discoveryv1.AddressTypeIPv4: "ipv4", discoveryv1.AddressTypeIPv6: "ipv6"}
	for family, suffix := range families {
		var addresses []string
		for _, a := range l.PodAddresses {
			if a.Is4() == (family == discoveryv1.AddressTypeIPv4) {
				addresses = append(addresses, a.String())
			}
		}
		if len(addresses) == 0 {
			continue
		}
		name := ConfigService + "-" + suffix
		slice := discoveryac.EndpointSlice(name, l.Namespace).
			WithLabels(map[string]string{
				discoveryv1.LabelServiceName: ConfigService,
				discoveryv1.LabelManagedBy:   "weft-operator",
			}).
			WithAddressType(family).
			WithPorts(discoveryac.EndpointPort().WithName("config").WithProtocol(corev1.ProtocolTCP).WithPort(ConfigPort)).
			WithEndpoints(discoveryac.Endpoint().
				WithAddresses(addresses...).
				WithConditions(discoveryac.EndpointConditions().WithReady(true).WithServing(true).WithTerminating(false)).
				WithTargetRef(corev1ac.ObjectReference().WithKind("Pod").WithNamespace(l.Namespace).WithName(l.PodName)))
		if err := l.Client.Apply(ctx, slice, fieldOwner, client.ForceOwnership); err != nil {
			return fmt.Errorf("apply endpoint slice %s: %w", name, err)
		}
	}
	return nil
}
