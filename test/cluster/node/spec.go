// Package node is the inside of a local cluster node: it turns a fresh process into the first process
// of a machine of its own — own mounts, processes, host name, control groups and network — and keeps
// the node's programs running. It knows nothing about Kubernetes and nothing about other nodes.
package node

// Spec describes a node to its first process.
type Spec struct {
	Hostname string `json:"hostname"`
	// NetworkNamespace is the path of the node's network namespace; its interfaces exist already.
	NetworkNamespace string `json:"networkNamespace"`
	// Root is the directory that becomes the node's file system root. It holds the node's own /etc,
	// /opt, /var and the mount points of everything else.
	Root string `json:"root"`
	// ControlGroup is the node's group in every hierarchy; inside the node it is the root.
	ControlGroup string `json:"controlGroup"`
	// Binds are directories of the machine that the node sees.
	Binds []Bind `json:"binds"`
	// Sysctls are set in the node's network namespace: path below /proc/sys to value.
	Sysctls map[string]string `json:"sysctls"`
	Units   []Unit            `json:"units"`
}

// Bind mounts Source of the machine at Target of the node.
type Bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

// Unit is a program that is started again whenever it ends.
type Unit struct {
	// Name is also the name of the unit's log, /var/log/node/NAME.log.
	Name    string   `json:"name"`
	Command []string `json:"command"`
}

const (
	// LogDir is where a node's units log, inside the node.
	LogDir = "/var/log/node"
	// SpecFile is where the Spec lies, inside the node.
	SpecFile = "/etc/weft-node.json"
	// Path is PATH inside a node: what Binds bring to /opt/weft comes first.
	Path = "/opt/weft/kubernetes:/opt/weft/containerd:/usr/sbin:/usr/bin:/sbin:/bin"
)
