// Package host puts the local cluster onto this machine and takes it off again: network namespaces,
// control groups, node file systems, processes and the record of them. What a cluster looks like is
// decided by package config.
package host

import "path/filepath"

// A machine has one cluster. These names say what on the machine belongs to it: everything that has
// them is the cluster's own and is removed by Down.
const (
	stateDir     = "/run/weft-cluster"
	dataDir      = "/var/lib/weft-cluster"
	controlGroup = "weft-cluster"
	switchNS     = "weft-switch"
	hostLink     = "weft0"
)

func networkNamespace(node string) string { return "weft-" + node }
func nodeDir(node string) string          { return filepath.Join(dataDir, node) }
func nodeRoot(node string) string         { return filepath.Join(nodeDir(node), "root") }
func nodeSpec(node string) string         { return filepath.Join(nodeDir(node), "spec.json") }
func nodeControlGroup(node string) string { return controlGroup + "/" + node }
func initBinary() string                  { return filepath.Join(dataDir, "node-init") }

// kubeconfig and logDir are what the cluster leaves for people, in a directory of the checkout.
func kubeconfig(output string) string   { return filepath.Join(output, "kubeconfig") }
func kubectlLink(output string) string  { return filepath.Join(output, "kubectl") }
func logDir(output, node string) string { return filepath.Join(output, "logs", node) }
