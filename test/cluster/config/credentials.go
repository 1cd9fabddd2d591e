package config

import (
	"fmt"
	"net/netip"
	"time"
)

// Credentials are all keys and certificates of a cluster.
type Credentials struct {
	Authority []byte // certificate
	authority Pair

	Admin             Pair // member of system:masters
	APIServer         Pair // server
	APIServerKubelet  Pair // client of the kubelets
	ControllerManager Pair
	Scheduler         Pair
	Proxy             Pair
	Kubelet           map[string]Pair // client, by node
	KubeletServer     map[string]Pair // server, by node

	tokenPrivate, tokenPublic []byte
}

// NewCredentials issues everything that the programs of c need.
func NewCredentials(c Cluster, now time.Time) (Credentials, error) {
	ca, err := NewAuthority(now)
	if err != nil {
		return Credentials{}, err
	}
	creds := Credentials{
		Authority: ca.Certificate, authority: ca.Pair,
		Kubelet: map[string]Pair{}, KubeletServer: map[string]Pair{},
	}
	if creds.tokenPrivate, creds.tokenPublic, err = tokenKey(); err != nil {
		return Credentials{}, err
	}
	for _, client := range []struct {
		pair   *Pair
		user   string
		groups []string
	}{
		{&creds.Admin, "weft-cluster-admin", []string{"system:masters"}},
		{&creds.APIServerKubelet, "kube-apiserver-kubelet-client", []string{"system:masters"}},
		{&creds.ControllerManager, "system:kube-controller-manager", nil},
		{&creds.Scheduler, "system:kube-scheduler", nil},
		{&creds.Proxy, "system:kube-proxy", nil},
	} {
		if *client.pair, err = ca.Client(client.user, client.groups...); err != nil {
			return Credentials{}, err
		}
	}
	cp := c.ControlPlane()
	creds.APIServer, err = ca.Server("kube-apiserver",
		[]string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc.cluster.local", "localhost", cp.Name,
		},
		cp.IPv4, cp.IPv6, c.APIServerService4, c.APIServerService6,
		netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback())
	if err != nil {
		return Credentials{}, err
	}
	for _, n := range c.Nodes {
		// The Node authorizer knows a kubelet by exactly this user and group.
		if creds.Kubelet[n.Name], err = ca.Client("system:node:"+n.Name, "system:nodes"); err != nil {
			return Credentials{}, err
		}
		if creds.KubeletServer[n.Name], err = ca.Server(n.Name, []string{n.Name}, n.IPv4, n.IPv6); err != nil {
			return Credentials{}, fmt.Errorf("kubelet of %s: %w", n.Name, err)
		}
	}
	return creds, nil
}
