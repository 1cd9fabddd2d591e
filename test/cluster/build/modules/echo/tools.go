//go:build tools

// Package echo pins the echo application of the Gateway API mesh conformance suite, which is
// Istio's. It holds no code of its own.
package echo

import (
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
)
