// Package lifecycle installs and removes Weft on the local cluster under load, by its manifests and as the
// Operator Lifecycle Manager would. Its tests take away what all others need, so they come after them (go test
// -p 1), and the last thing that they do is to install it again.
package lifecycle
