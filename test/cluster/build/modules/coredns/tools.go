//go:build tools

// Package coredns pins the DNS server of the local cluster. It holds no code of its own.
package coredns

import _ "github.com/coredns/coredns"
