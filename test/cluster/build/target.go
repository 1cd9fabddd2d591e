package build

const (
	// KubernetesVersion is the release of the control plane and the nodes.
	KubernetesVersion = "1.36.3"
	etcdVersion       = "3.6.8"
	containerdVersion = "2.4.2"
	coreDNSVersion    = "1.13.1"
	echoVersion       = "0.1.0"
	suiteVersion      = "1.7.0"

	modules = "test/cluster/build/modules/"
)

// Target is a set of binaries compiled from one pinned Go module.
type Target struct {
	// Name and Version name the cache directory; they identify nothing by themselves.
	Name, Version string
	// Module is the directory of the pinned go.mod and go.sum, relative to the checkout.
	Module string
	// Tags are build tags; LDFlags are added to `-s -w`.
	Tags, LDFlags string
	Binaries      []Binary
}

// Binary is one file of a Target.
type Binary struct {
	Name, Package string
	// Test compiles the package's tests instead of the package.
	Test bool
}

const (
	kubernetesCommand = "k8s.io/kubernetes/cmd/"
	versionVariable   = "k8s.io/component-base/version."
)

// Kubernetes has the control plane, the node programs, kubectl and etcd. The version variables are set
// because clients and the API server refuse what they cannot parse as a version.
var Kubernetes = Target{
	Name: "kubernetes", Version: KubernetesVersion,
	Module: modules + "kubernetes",
	LDFlags: "-X " + versionVariable + "gitVersion=v" + KubernetesVersion +
		" -X " + versionVariable + "gitMajor=1 -X " + versionVariable + "gitMinor=36",
	Binaries: []Binary{
		{Name: "kube-apiserver", Package: kubernetesCommand + "kube-apiserver"},
		{Name: "etcd", Package: "go.etcd.io/etcd/server/v3"},
		{Name: "kubectl", Package: kubernetesCommand + "kubectl"},
		{Name: "kube-controller-manager", Package: kubernetesCommand + "kube-controller-manager"},
		{Name: "kube-scheduler", Package: kubernetesCommand + "kube-scheduler"},
		{Name: "kubelet", Package: kubernetesCommand + "kubelet"},
		{Name: "kube-proxy", Package: kubernetesCommand + "kube-proxy"},
	},
}

// Envtest is the part of Kubernetes that envtest starts. It shares Kubernetes' cache directory.
var Envtest = Target{
	Name: Kubernetes.Name, Version: Kubernetes.Version, Module: Kubernetes.Module, LDFlags: Kubernetes.LDFlags,
	Binaries: Kubernetes.Binaries[:3],
}

// Containerd has the runtime, its shim and its client. btrfs is left out because it needs C headers.
var Containerd = Target{
	Name: "containerd", Version: containerdVersion,
	Module:  modules + "containerd",
	Tags:    "no_btrfs",
	LDFlags: "-X github.com/containerd/containerd/v2/version.Version=v" + containerdVersion,
	Binaries: []Binary{
		{Name: "containerd", Package: "github.com/containerd/containerd/v2/cmd/containerd"},
		{Name: "containerd-shim-runc-v2", Package: "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"},
		{Name: "ctr", Package: "github.com/containerd/containerd/v2/cmd/ctr"},
	},
}

// CoreDNS is the cluster's DNS server.
var CoreDNS = Target{
	Name: "coredns", Version: coreDNSVersion,
	Module:   modules + "coredns",
	Binaries: []Binary{{Name: "coredns", Package: "github.com/coredns/coredns"}},
}

// Echo is the application that the mesh conformance suite drives: Istio's echo server and client.
var Echo = Target{
	Name: "echo", Version: echoVersion,
	Module: modules + "echo",
	Binaries: []Binary{
		{Name: "server", Package: "istio.io/istio/pkg/test/echo/cmd/server"},
		{Name: "client", Package: "istio.io/istio/pkg/test/echo/cmd/client"},
	},
}

// Conformance is the upstream Gateway API suite, unmodified.
var Conformance = Target{
	Name: "conformance", Version: suiteVersion,
	Module:   "test/conformance/suite",
	Binaries: []Binary{{Name: "conformance.test", Package: "sigs.k8s.io/gateway-api/conformance", Test: true}},
}
