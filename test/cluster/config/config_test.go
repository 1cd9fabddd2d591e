package config

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"weft.dev/weft/test/cluster/node"
)

func TestAddressesAreTheNodesOwn(t *testing.T) {
	c := Local()
	ranges := []netip.Prefix{c.NodeNetwork4, c.NodeNetwork6, c.Services4, c.Services6}
	addresses := []netip.Addr{c.Gateway4, c.Gateway6, c.Host4, c.Host6}
	for _, n := range c.Nodes {
		ranges = append(ranges, n.Pods4, n.Pods6)
		addresses = append(addresses, n.IPv4, n.IPv6)
		if !c.NodeNetwork4.Contains(n.IPv4) || !c.NodeNetwork6.Contains(n.IPv6) {
			t.Errorf("%s is outside the node network", n.Name)
		}
		if !c.Pods4.Contains(n.Bridge4().Addr()) || !c.Pods6.Contains(n.Bridge6().Addr()) {
			t.Errorf("the pods of %s are outside the pod network", n.Name)
		}
		if got, ok := c.Node(n.Name); !ok || got != n {
			t.Errorf("Node(%q) = %v, %t", n.Name, got, ok)
		}
	}
	for i, a := range ranges {
		for _, b := range ranges[i+1:] {
			if a.Overlaps(b) {
				t.Errorf("%s overlaps %s", a, b)
			}
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	if unique := slices.Compact(slices.Clone(addresses)); len(unique) != len(addresses) {
		t.Errorf("an address is used twice: %v", addresses)
	}
	for service, address := range map[netip.Prefix][]netip.Addr{
		c.Services4: {c.APIServerService4, c.DNSService4}, c.Services6: {c.APIServerService6, c.DNSService6},
	} {
		for _, a := range address {
			if !service.Contains(a) {
				t.Errorf("%s is outside %s", a, service)
			}
		}
	}
	// The API server gives its own Service the first address of each range.
	if c.APIServerService4 != c.Services4.Addr().Next() || c.APIServerService6 != c.Services6.Addr().Next() {
		t.Error("the API server's Service has not the first address")
	}
	if _, ok := c.Node("node3"); ok {
		t.Error("Node() finds a node that does not exist")
	}
}

func TestNodeFiles(t *testing.T) {
	c := Local()
	creds, err := NewCredentials(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	common := []string{
		"/etc/cni/net.d/10-weft.conflist", "/etc/containerd/config.toml",
		"/etc/hostname", "/etc/hosts",
		"/etc/kubernetes/ca.crt",
		"/etc/kubernetes/kubelet-config.yaml", "/etc/kubernetes/kubelet.crt", "/etc/kubernetes/kubelet.key", "/etc/kubernetes/kubelet.kubeconfig",
		"/etc/kubernetes/proxy-config.yaml", "/etc/kubernetes/proxy.kubeconfig",
		"/etc/resolv.conf",
	}
	controlPlane := []string{
		"/etc/kubernetes/apiserver-kubelet.crt", "/etc/kubernetes/apiserver-kubelet.key",
		"/etc/kubernetes/apiserver.crt", "/etc/kubernetes/apiserver.key",
		"/etc/kubernetes/ca.key", "/etc/kubernetes/controller-manager.kubeconfig", "/etc/kubernetes/scheduler.kubeconfig",
		"/etc/kubernetes/token.key", "/etc/kubernetes/token.pub",
	}
	for i, n := range c.Nodes {
		files, err := NodeFiles(c, n, creds)
		if err != nil {
			t.Fatal(err)
		}
		want := slices.Clone(common)
		if i == 0 {
			want = append(want, controlPlane...)
		}
		slices.Sort(want)
		var got []string
		for path, file := range files {
			got = append(got, path)
			wantSecret := strings.HasSuffix(path, ".key") || strings.HasSuffix(path, ".kubeconfig")
			if file.Secret != wantSecret {
				t.Errorf("%s: secret = %t, want %t", path, file.Secret, wantSecret)
			}
			if strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".kubeconfig") {
				var object struct{ Kind string }
				if err := yaml.Unmarshal(file.Content, &object); err != nil || object.Kind == "" {
					t.Errorf("%s is no object: %v", path, err)
				}
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files of %s (-want +got):\n%s", n.Name, diff)
		}
	}
}

func TestPodNetworkCoversBothFamilies(t *testing.T) {
	c := Local()
	n := c.Nodes[1]
	files, err := NodeFiles(c, n, Credentials{})
	if err != nil {
		t.Fatal(err)
	}
	type plugin struct {
		Type      string
		IPMasq    *bool
		IsGateway bool
		IPAM      struct {
			Ranges [][]struct{ Subnet string }
		}
	}
	var cni struct {
		CNIVersion string
		Plugins    []plugin
	}
	if err := json.Unmarshal(files["/etc/cni/net.d/10-weft.conflist"].Content, &cni); err != nil {
		t.Fatal(err)
	}
	bridge := cni.Plugins[0]
	if bridge.Type != "bridge" || !bridge.IsGateway || bridge.IPMasq == nil || *bridge.IPMasq {
		t.Errorf("first plugin = %+v, want a bridge with a gateway that translates no address", bridge)
	}
	var subnets []string
	for _, alternatives := range bridge.IPAM.Ranges {
		for _, r := range alternatives {
			subnets = append(subnets, r.Subnet)
		}
	}
	if diff := cmp.Diff([]string{n.Pods4.String(), n.Pods6.String()}, subnets); diff != "" {
		t.Errorf("pod ranges (-want +got):\n%s", diff)
	}
	var proxy struct{ Mode, ClusterCIDR, HostnameOverride string }
	if err := yaml.Unmarshal(files["/etc/kubernetes/proxy-config.yaml"].Content, &proxy); err != nil {
		t.Fatal(err)
	}
	if proxy.Mode != "nftables" || proxy.HostnameOverride != "node2" || proxy.ClusterCIDR != "10.244.0.0/16,fd77:6566:7401::/48" {
		t.Errorf("kube-proxy = %+v", proxy)
	}
}

func TestManifests(t *testing.T) {
	manifests, err := Manifests(Local())
	if err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for document := range strings.SplitSeq(string(manifests), "\n---\n") {
		var object struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, object.Kind)
	}
	want := []string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "Service", "Deployment"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("kinds (-want +got):\n%s", diff)
	}
}

func TestKubeconfigHoldsTheClientItWasMadeFor(t *testing.T) {
	c := Local()
	ca, err := NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Client("somebody", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	content, err := Kubeconfig(c, ca.Certificate, pair)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Clusters []struct {
			Cluster struct {
				Server    string
				Authority []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Certificate []byte `json:"client-certificate-data"`
				Key         []byte `json:"client-key-data"`
			}
		}
	}
	if err := yaml.Unmarshal(content, &got); err != nil {
		t.Fatal(err)
	}
	if got.Clusters[0].Cluster.Server != "https://10.250.0.11:6443" {
		t.Errorf("server = %s", got.Clusters[0].Cluster.Server)
	}
	if !bytes.Equal(got.Clusters[0].Cluster.Authority, ca.Certificate) {
		t.Error("the authority is another")
	}
	if _, err := tls.X509KeyPair(got.Users[0].User.Certificate, got.Users[0].User.Key); err != nil {
		t.Errorf("certificate and key: %v", err)
	}
}

func TestCredentialsAreWhatKubernetesKnowsThemBy(t *testing.T) {
	c := Local()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	creds, err := NewCredentials(c, now)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(creds.Authority) {
		t.Fatal("the authority is no certificate")
	}
	verify := func(pair Pair, usage x509.ExtKeyUsage, name string) *x509.Certificate {
		t.Helper()
		keyPair, err := tls.X509KeyPair(pair.Certificate, pair.Key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = keyPair.Leaf.Verify(x509.VerifyOptions{
			Roots: roots, CurrentTime: now, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			t.Errorf("%s: %v", keyPair.Leaf.Subject, err)
		}
		return keyPair.Leaf
	}
	for _, name := range []string{"10.250.0.11", "fd77:6566:7400::11", "10.96.0.1", "127.0.0.1", "kubernetes.default.svc"} {
		verify(creds.APIServer, x509.ExtKeyUsageServerAuth, name)
	}
	verify(creds.KubeletServer["node2"], x509.ExtKeyUsageServerAuth, "10.250.0.12")
	kubelet := verify(creds.Kubelet["node2"], x509.ExtKeyUsageClientAuth, "")
	if kubelet.Subject.CommonName != "system:node:node2" || !slices.Equal(kubelet.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("kubelet = %s", kubelet.Subject)
	}
	admin := verify(creds.Admin, x509.ExtKeyUsageClientAuth, "")
	if !slices.Equal(admin.Subject.Organization, []string{"system:masters"}) {
		t.Errorf("administrator = %s", admin.Subject)
	}
}

func TestSelfSignedServesTLS(t *testing.T) {
	pair, err := SelfSigned("echo", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tls.X509KeyPair(pair.Certificate, pair.Key); err != nil {
		t.Error(err)
	}
}

func TestNodeSpec(t *testing.T) {
	c := Local()
	places := Places{
		NetworkNamespace: "/run/netns/x", Root: "/data/root", Logs: "/logs", ControlGroup: "weft/x",
		Kubernetes: "/cache/k", Containerd: "/cache/c",
	}
	var names []string
	spec := NodeSpec(c, c.Nodes[0], places)
	for _, unit := range spec.Units {
		names = append(names, unit.Name)
	}
	want := []string{
		"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet", "kube-proxy",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("programs of the control plane (-want +got):\n%s", diff)
	}
	for _, b := range spec.Binds {
		if b.Target != node.LogDir && !b.ReadOnly {
			t.Errorf("the node may write to the machine's %s", b.Source)
		}
	}
	if got := len(NodeSpec(c, c.Nodes[1], places).Units); got != 3 {
		t.Errorf("the second node runs %d programs, want 3", got)
	}
	encoded, err := EncodeSpec(spec)
	if err != nil {
		t.Fatal(err)
	}
	var decoded node.Spec
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, decoded); diff != "" {
		t.Errorf("the description after a round trip (-want +got):\n%s", diff)
	}
}

func TestNodePatch(t *testing.T) {
	c := Local()
	for i, want := range []string{
		`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}},"spec":{"podCIDR":"10.244.16.0/20","podCIDRs":["10.244.16.0/20","fd77:6566:7401:1::/64"]}}`,
		`{"spec":{"podCIDR":"10.244.32.0/20","podCIDRs":["10.244.32.0/20","fd77:6566:7401:2::/64"]}}`,
	} {
		got, err := NodePatch(c, c.Nodes[i])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("patch of %s (-want +got):\n%s", c.Nodes[i].Name, diff)
		}
	}
}
