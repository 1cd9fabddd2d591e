package config

import (
	"bytes"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"text/template"

	"weft.dev/weft/test/cluster/node"
)

//go:embed files
var files embed.FS

var templates = template.Must(template.ParseFS(files, "files/*"))

// File is a file of a node.
type File struct {
	Content []byte
	// Secret files are readable by root alone.
	Secret bool
}

const kubernetesDir = "/etc/kubernetes/"

// Kubeconfig renders the configuration of a client of the API server.
func Kubeconfig(c Cluster, authority []byte, client Pair) ([]byte, error) {
	encode := base64.StdEncoding.EncodeToString
	return render("kubeconfig.yaml", map[string]any{
		"Server":      c.Server(),
		"Authority":   encode(authority),
		"Certificate": encode(client.Certificate),
		"Key":         encode(client.Key),
	})
}

// Manifests renders the objects that the cluster starts with.
func Manifests(c Cluster) ([]byte, error) {
	return render("coredns.yaml", map[string]any{"Cluster": c, "Node": c.ControlPlane()})
}

// NodeFiles renders the configuration files of node n, by path inside the node.
func NodeFiles(c Cluster, n Node, creds Credentials) (map[string]File, error) {
	out := map[string]File{
		"/etc/hostname":    {Content: []byte(n.Name + "\n")},
		"/etc/hosts":       {Content: hosts(c)},
		"/etc/resolv.conf": {},
	}
	for target, name := range map[string]string{
		"/etc/containerd/config.toml":         "containerd.toml",
		"/etc/cni/net.d/10-weft.conflist":     "cni.conflist",
		kubernetesDir + "kubelet-config.yaml": "kubelet.yaml",
		kubernetesDir + "proxy-config.yaml":   "kube-proxy.yaml",
	} {
		content, err := render(name, map[string]any{"Cluster": c, "Node": n})
		if err != nil {
			return nil, err
		}
		out[target] = File{Content: content}
	}
	clients := map[string]Pair{"kubelet": creds.Kubelet[n.Name], "proxy": creds.Proxy}
	pairs := map[string]Pair{"kubelet": creds.KubeletServer[n.Name]}
	if n.Name == c.ControlPlane().Name {
		clients["controller-manager"] = creds.ControllerManager
		clients["scheduler"] = creds.Scheduler
		pairs["apiserver"] = creds.APIServer
		pairs["apiserver-kubelet"] = creds.APIServerKubelet
		out[kubernetesDir+"ca.key"] = File{Content: creds.authority.Key, Secret: true}
		out[kubernetesDir+"token.key"] = File{Content: creds.tokenPrivate, Secret: true}
		out[kubernetesDir+"token.pub"] = File{Content: creds.tokenPublic}
	}
	out[kubernetesDir+"ca.crt"] = File{Content: creds.Authority}
	for name, pair := range pairs {
		out[kubernetesDir+name+".crt"] = File{Content: pair.Certificate}
		out[kubernetesDir+name+".key"] = File{Content: pair.Key, Secret: true}
	}
	for name, pair := range clients {
		content, err := Kubeconfig(c, creds.Authority, pair)
		if err != nil {
			return nil, err
		}
		out[kubernetesDir+name+".kubeconfig"] = File{Content: content, Secret: true}
	}
	return out, nil
}

// Units returns the programs of node n in the order in which they are started.
func Units(c Cluster, n Node) []node.Unit {
	var units []node.Unit
	if n.Name == c.ControlPlane().Name {
		units = controlPlane(c, n)
	}
	return append(units,
		node.Unit{Name: "containerd", Command: []string{"containerd", "--config=/etc/containerd/config.toml"}},
		node.Unit{Name: "kubelet", Command: []string{
			"kubelet",
			"--config=" + kubernetesDir + "kubelet-config.yaml",
			"--kubeconfig=" + kubernetesDir + "kubelet.kubeconfig",
			"--hostname-override=" + n.Name,
			"--node-ip=" + n.IPv4.String() + "," + n.IPv6.String(),
			"--node-labels=topology.kubernetes.io/region=local,topology.kubernetes.io/zone=" + n.Zone,
			"--v=1",
		}},
		node.Unit{Name: "kube-proxy", Command: []string{
			"kube-proxy", "--config=" + kubernetesDir + "proxy-config.yaml", "--v=1",
		}},
	)
}

func controlPlane(c Cluster, n Node) []node.Unit {
	const etcd = "http://127.0.0.1:2379"
	services := c.Services4.String() + "," + c.Services6.String()
	return []node.Unit{
		{Name: "etcd", Command: []string{
			"etcd",
			"--data-dir=/var/lib/etcd",
			"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
			"--listen-peer-urls=http://127.0.0.1:2380",
			// The data lives as long as the cluster: what a power cut would lose is not missed.
			"--unsafe-no-fsync",
			"--quota-backend-bytes=1073741824",
			"--auto-compaction-mode=periodic", "--auto-compaction-retention=5m",
			"--log-level=warn",
		}},
		{Name: "kube-apiserver", Command: []string{
			"kube-apiserver",
			"--advertise-address=" + n.IPv4.String(),
			fmt.Sprintf("--secure-port=%d", apiServerPort),
			"--allow-privileged=true",
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--client-ca-file=" + kubernetesDir + "ca.crt",
			"--etcd-servers=" + etcd,
			"--kubelet-certificate-authority=" + kubernetesDir + "ca.crt",
			"--kubelet-client-certificate=" + kubernetesDir + "apiserver-kubelet.crt",
			"--kubelet-client-key=" + kubernetesDir + "apiserver-kubelet.key",
			// Node names resolve nowhere; logs and exec go to the address.
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + kubernetesDir + "token.pub",
			"--service-account-signing-key-file=" + kubernetesDir + "token.key",
			"--service-cluster-ip-range=" + services,
			"--tls-cert-file=" + kubernetesDir + "apiserver.crt",
			"--tls-private-key-file=" + kubernetesDir + "apiserver.key",
			"--v=1",
		}},
		{Name: "kube-controller-manager", Command: []string{
			"kube-controller-manager",
			"--kubeconfig=" + kubernetesDir + "controller-manager.kubeconfig",
			"--bind-address=127.0.0.1",
			"--use-service-account-credentials=true",
			"--root-ca-file=" + kubernetesDir + "ca.crt",
			"--service-account-private-key-file=" + kubernetesDir + "token.key",
			"--cluster-signing-cert-file=" + kubernetesDir + "ca.crt",
			"--cluster-signing-key-file=" + kubernetesDir + "ca.key",
			"--service-cluster-ip-range=" + services,
			"--cluster-cidr=" + c.Pods4.String() + "," + c.Pods6.String(),
			// The nodes' ranges are fixed here and written into the Node objects by package host.
			"--allocate-node-cidrs=false",
			"--leader-elect=false",
			"--v=1",
		}},
		{Name: "kube-scheduler", Command: []string{
			"kube-scheduler",
			"--kubeconfig=" + kubernetesDir + "scheduler.kubeconfig",
			"--bind-address=127.0.0.1",
			"--leader-elect=false",
			"--v=1",
		}},
	}
}

func hosts(c Cluster) []byte {
	var b bytes.Buffer
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, "%s %s\n%s %s\n", n.IPv4, n.Name, n.IPv6, n.Name)
	}
	return b.Bytes()
}

func render(name string, data any) ([]byte, error) {
	var b strings.Builder
	if err := templates.ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return []byte(b.String()), nil
}

// Places says where on the machine the parts of a node are.
type Places struct {
	// NetworkNamespace is a file; Root becomes the node's file system; Logs receives its logs.
	NetworkNamespace, Root, Logs string
	// ControlGroup is a name relative to each hierarchy.
	ControlGroup string
	// Kubernetes and Containerd are directories of binaries.
	Kubernetes, Containerd string
}

// NodeSpec describes node n to its first process.
func NodeSpec(c Cluster, n Node, places Places) node.Spec {
	return node.Spec{
		Hostname:         n.Name,
		NetworkNamespace: places.NetworkNamespace,
		Root:             places.Root,
		ControlGroup:     places.ControlGroup,
		Binds: []node.Bind{
			{Source: "/usr", Target: "/usr", ReadOnly: true},
			{Source: "/etc/alternatives", Target: "/etc/alternatives", ReadOnly: true},
			{Source: "/etc/ssl", Target: "/etc/ssl", ReadOnly: true},
			{Source: "/usr/lib/cni", Target: "/opt/cni/bin", ReadOnly: true},
			{Source: places.Kubernetes, Target: "/opt/weft/kubernetes", ReadOnly: true},
			{Source: places.Containerd, Target: "/opt/weft/containerd", ReadOnly: true},
			{Source: places.Logs, Target: node.LogDir},
		},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward":          "1",
			"net/ipv6/conf/all/forwarding": "1",
			// A pod's answer to a Service client on the same bridge must pass the node's connection
			// tracking, which a bridge alone would bypass.
			"net/bridge/bridge-nf-call-iptables":  "1",
			"net/bridge/bridge-nf-call-ip6tables": "1",
		},
		Units: Units(c, n),
	}
}

// NodePatch renders what a kubelet may not say about its own node: its pod ranges and its role.
func NodePatch(c Cluster, n Node) ([]byte, error) {
	patch := map[string]any{"spec": map[string]any{
		"podCIDR":  n.Pods4.String(),
		"podCIDRs": []string{n.Pods4.String(), n.Pods6.String()},
	}}
	if n.Name == c.ControlPlane().Name {
		patch["metadata"] = map[string]any{"labels": map[string]string{"node-role.kubernetes.io/control-plane": ""}}
	}
	content, err := json.Marshal(patch)
	if err != nil {
		return nil, fmt.Errorf("encode the patch of %s: %w", n.Name, err)
	}
	return content, nil
}

// EncodeSpec renders spec for the node's first process.
func EncodeSpec(spec node.Spec) ([]byte, error) {
	content, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the node's description: %w", err)
	}
	return content, nil
}
