//go:build tools

// Package suite pins the upstream Gateway API conformance suite, which is compiled from here with
// `go test -c sigs.k8s.io/gateway-api/conformance` and run unmodified. It holds no code of its own.
package suite

import _ "sigs.k8s.io/gateway-api/conformance"
