package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"weft.dev/weft/proxy/wire"
)

// Verdict is the outcome of one probe.
type Verdict int

const (
	// Accepting means that the proxy takes new connections.
	Accepting Verdict = iota
	// Draining means that it says that it does not. It still serves the connections it has.
	Draining
	// Refused means that nobody listens at its address, so nothing that it had is there any more.
	Refused
	// Silent means that its address does not answer at all.
	Silent
	// Slow means that its address answers, and the proxy itself did not within the time.
	Slow
	// Unknown means that the probe proves nothing, for example because this process was not running itself.
	Unknown
)

const (
	// connectTimeout is many times what a connection takes on a pod network. A single lost packet
	// exceeds it, which is one reason to ask twice.
	connectTimeout = 500 * time.Millisecond
	probeTimeout   = time.Second
	// probeSlack is how much later than its timeout a probe may end. One that ends later was held up
	// on this side.
	probeSlack = 250 * time.Millisecond
)

// probeClient opens a connection for each probe, because what is asked is whether new connections are
// accepted, and asks nobody in between.
var probeClient = &http.Client{Transport: &http.Transport{
	DisableKeepAlives: true,
	DialContext:       (&net.Dialer{Timeout: connectTimeout}).DialContext,
}}

// ProbeHTTP asks a proxy over the pod network.
func ProbeHTTP(ctx context.Context, proxy netip.Addr) Verdict {
	start := time.Now()
	var connected atomic.Bool
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	url := fmt.Sprintf("http://%s/accepting", netip.AddrPortFrom(proxy, wire.PortHealth))
	request, err := http.NewRequestWithContext(traced, http.MethodGet, url, http.NoBody)
	if err != nil {
		return Unknown
	}
	response, err := probeClient.Do(request)
	took, limit := time.Since(start), connectTimeout
	if connected.Load() {
		limit = probeTimeout
	}
	switch {
	case err == nil:
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case took > limit+probeSlack, errors.Is(context.Cause(ctx), context.Canceled):
		return Unknown
	case connected.Load():
		return Slow
	default:
		return Silent
	}
	// Only the status matters. The body is read so that the proxy sees an orderly end.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<10))
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return Draining
	}
	return Accepting
}
