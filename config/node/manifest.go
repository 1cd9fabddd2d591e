// Package node holds the manifest of the node agents, so that an operator that has to deploy them itself
// deploys what config/default installs.
package node

import _ "embed"

// DaemonSet is the agents' DaemonSet in YAML, with the image weft-node and in the namespace weft-system.
//
//go:embed daemonset.yaml
var DaemonSet []byte
