package upstream

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Source is the pod that a request comes from.
type Source struct {
	// ServiceAccount selects the certificate presented on the hop. Only the hop needs it.
	ServiceAccount string
	// Address is the pod's own address and port, forwarded over the hop.
	Address netip.AddrPort
	// Zone is the source's zone, forwarded over the hop; empty means this proxy's own.
	Zone string
}

// Call is what a try needs beyond the request itself. All of it but Source.ServiceAccount only travels
// as metadata of the hop.
type Call struct {
	Source Source
	// Deadline ends the whole request, all tries included; zero means none.
	Deadline time.Time
	// Attempt counts tries from zero.
	Attempt int
	// Avoid are endpoints that earlier tries ended at. Only the first MaxAvoid travel.
	Avoid []netip.AddrPort
}

// RoundTrip sends req to the endpoint once and returns the response's head; it never follows a redirect,
// never decompresses, never retries and takes no proxy from the environment. Failures are of type *Error.
//
// The endpoint and its Backend decide the protocol: HTTP/1.1 or HTTP/2 with prior knowledge in plain text
// for pods, HTTP/2 over mutual TLS for the hop. Scheme and host of req.URL are replaced; Host, Header,
// Body, ContentLength and Trailer are sent as they are, except that fields named weft-* are removed on the
// way to and from pods and set on the hop. req itself is not modified and no User-Agent is invented.
//
// A request with an Upgrade field takes an HTTP/1.1 connection of its own, over the hop as well. The Body
// of a 101 response is an io.ReadWriteCloser with CloseWrite and belongs to the caller.
//
// The Body of the request is closed, except when the returned Error says BodyIntact: then nothing was read
// from it and the caller may send it elsewhere. The Body of the response must be closed.
func (s *Set) RoundTrip(ctx context.Context, to Endpoint, call Call, req *http.Request) (*http.Response, error) {
	panic("not yet")
}

// Dial opens a connection for opaque bytes: plain TCP to a pod, or a TLS connection of its own to a proxy
// whose preface names the backend. Over the hop it returns only after the receiver has connected to a pod,
// so every failure is one where nothing was sent. The connection has CloseWrite. Failures are of type
// *Error.
func (s *Set) Dial(ctx context.Context, to Endpoint, call Call) (net.Conn, error) { panic("not yet") }

// HopServerHTTP2 returns the HTTP/2 settings for the listener at wire.PortHop. Stream limit and windows
// belong together: the connection window holds every stream's, so that streams whose bodies nobody reads
// cannot stop the others.
func HopServerHTTP2() *http.HTTP2Config { panic("not yet") }
