package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"time"

	"weft.dev/weft/proxy/upstream/outlier"
)

// Dial opens a connection for opaque bytes: plain TCP to a pod, or a TLS connection of its own to a proxy
// whose preface names the backend. Over the hop it returns only after the receiver has connected to a pod,
// so every failure is one where nothing was sent. The connection has CloseWrite; it counts as a request in
// flight until it is closed. Failures are of type *Error.
func (s *Set) Dial(ctx context.Context, to Endpoint, call Call) (net.Conn, error) {
	t := &try{set: s, to: to, call: call, started: s.elapsed(), slot: to.claim(true)}
	c, err := s.dialOpaque(ctx, to, call)
	if err != nil {
		t.slot.release()
		if failure, ok := errors.AsType[*Error](err); ok {
			t.judge(t.blame(ctx, failure.Reason, failure.Err))
		}
		return nil, err
	}
	t.took = t.elapsed()
	t.judge(outlier.Success)
	return tracked(c, t.slot), nil
}

func (s *Set) dialOpaque(ctx context.Context, to Endpoint, call Call) (net.Conn, error) {
	if !to.Hop() {
		to.makeRoom()
		d, cancel := to.startDialing(ctx)
		defer cancel()
		return d.tcp()
	}
	key := to.hopKey(call)
	for renewals := 0; ; renewals++ {
		config, err := s.clientConfig(key, to.state)
		if err != nil {
			return nil, err
		}
		c, err := s.dialHop(ctx, to, call, config)
		if err == nil {
			return c, nil
		}
		if now, renewErr := s.clientConfig(key, to.state); renewErr != nil || now == config || renewals == maxRenewals {
			return nil, err
		}
		// The certificate was replaced meanwhile: the failure says nothing about the present one.
	}
}

// dialHop makes a connection whose receiver has accepted the preface.
func (s *Set) dialHop(ctx context.Context, to Endpoint, call Call, config *tls.Config) (net.Conn, error) {
	d, cancel := to.startDialing(ctx)
	defer cancel()
	secured, err := d.tls(config, ALPNTCP)
	if err != nil {
		return nil, err
	}
	if err := s.announce(ctx, secured, to, call); err != nil {
		closeQuietly(secured)
		return nil, err
	}
	return secured, nil
}

// announce sends the preface and waits for its answer.
func (s *Set) announce(ctx context.Context, c net.Conn, to Endpoint, call Call) error {
	// The receiver has to connect to a pod before it answers, perhaps to a second one.
	var deadline time.Time
	if timeout := podTimeout(to); timeout > 0 {
		deadline = time.Now().Add(2 * timeout)
	}
	err := c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(time.Unix(1, 0)) // fails only if closed already
	})
	if err == nil {
		err = WritePreface(c, s.metadata(to, call))
	}
	if err == nil {
		err = readAnswer(c)
	}
	if stop() && err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err == nil && ctx.Err() == nil {
		return nil
	}
	failure := &Error{Reason: contextReason(ctx), Endpoint: to.state.address, NotSent: true, Err: err}
	switch {
	case failure.Reason != 0:
		failure.Err = context.Cause(ctx)
	case errors.Is(err, errRejected):
		failure.Reason = ReasonRefused
	case errors.Is(err, os.ErrDeadlineExceeded):
		failure.Reason = ReasonConnectTimeout
	default:
		failure.Reason = handshakeReason(err)
	}
	return failure
}

// podTimeout is how long the proxy at the other end may take to connect to a pod.
func podTimeout(to Endpoint) time.Duration {
	to.kind = KindPod
	return to.connectTimeout()
}
