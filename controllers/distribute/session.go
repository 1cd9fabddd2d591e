package distribute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/wire"
)

var (
	errStopping = errors.New("the operator stops or is no longer the leader")
	errExpired  = errors.New("the token has expired")
	errNoHello  = errors.New("no Hello in time")
	errNoAck    = errors.New("no acknowledgement in time")
)

// session is one call of Serve.
type session struct {
	Server
	ctx        context.Context
	metrics    *Metrics
	ackTimeout time.Duration
	// streams counts the goroutines that read and write streams.
	streams sync.WaitGroup
}

// handle runs one stream. Nothing is sent before the client has proven who it is.
func (s *session) handle(stream grpc.ServerStream) error {
	identity, err := s.authenticate(stream.Context())
	if err != nil {
		s.metrics.refused.WithLabelValues(status.Code(err).String()).Inc()
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errStopping) })()
	if !identity.Expires.IsZero() {
		timer := time.AfterFunc(time.Until(identity.Expires), func() { cancel(errExpired) })
		defer timer.Stop()
	}
	conversation := &conversation{
		session: s, stream: stream, identity: identity,
		joined: make(chan *client, 1), acked: make(chan struct{}, 1),
	}
	// Both goroutines may be blocked in the stream, and only the return of this function ends it.
	s.streams.Go(func() { cancel(conversation.receive(ctx)) })
	s.streams.Go(func() { cancel(conversation.send(ctx, cancel)) })
	<-ctx.Done()
	err = context.Cause(ctx)
	s.Log.Info("configuration stream ended", "client", identity.String(), "reason", err.Error())
	return statusOf(err)
}

// authenticate establishes who opened the stream, from its bearer token alone.
func (s *session) authenticate(ctx context.Context) (Identity, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return Identity{}, status.Error(codes.Unauthenticated, "exactly one bearer token is needed")
	}
	token, ok := strings.CutPrefix(values[0], "Bearer ")
	if !ok || token == "" {
		return Identity{}, status.Error(codes.Unauthenticated, "exactly one bearer token is needed")
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	identity, err := s.Authenticator.Authenticate(ctx, token)
	if err == nil && len(subscriptions(identity)) == 0 {
		err = fmt.Errorf("%w: %s may have nothing", ErrUnauthenticated, identity)
	}
	if err != nil {
		s.Log.Info("configuration stream refused", "reason", err.Error())
		if errors.Is(err, ErrUnauthenticated) {
			return Identity{}, status.Error(codes.Unauthenticated, err.Error())
		}
		return Identity{}, status.Error(codes.Unavailable, "the token cannot be checked now")
	}
	return identity, nil
}

// conversation is one authenticated stream.
type conversation struct {
	*session
	stream   grpc.ServerStream
	identity Identity
	// joined carries the client once its Hello has arrived, acked a signal for each acknowledgement. At
	// most one delta is outstanding, so neither ever blocks.
	joined chan *client
	acked  chan struct{}
}

// start waits until there is something to say to the client. A proxy's Hello lists all that it holds; it
// is left in the network until it can be answered, so that a new leader does not keep those of all
// proxies in memory while it reads the cluster. Node agents are heard at once: what they report is part
// of what is published.
func (c *conversation) start(ctx context.Context) error {
	if c.identity.Kind == ClientNode {
		return nil
	}
	return c.Hub.ready(ctx, c.identity.Kind)
}

// receive reads the stream to its end. It owns the client's membership in the hub.
func (c *conversation) receive(ctx context.Context) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	var hello wire.ClientMessage
	if err := c.stream.RecvMsg(&hello); err != nil {
		return err
	}
	if hello.Hello == nil || hello.Ack != nil || hello.Node != nil {
		return fmt.Errorf("%w: the first message is no Hello", errProtocol)
	}
	client := c.Hub.join(c.identity, hello.Hello)
	defer c.Hub.leave(client)
	clients := c.metrics.clients.WithLabelValues(string(c.identity.Kind))
	clients.Inc()
	defer clients.Dec()
	c.Log.Info("configuration stream opened", "client", c.identity.String(), "build", client.build)
	c.joined <- client
	for {
		var message wire.ClientMessage
		if err := c.stream.RecvMsg(&message); err != nil {
			return err
		}
		if err := c.take(client, &message); err != nil {
			return err
		}
	}
}

// take handles one message after the Hello.
func (c *conversation) take(client *client, message *wire.ClientMessage) error {
	switch {
	case message.Hello == nil && message.Ack != nil && message.Node == nil:
		for _, r := range message.Ack.Rejected {
			c.metrics.rejected.WithLabelValues(resourceLabel(r.Kind)).Inc()
		}
		if err := c.Hub.acknowledge(client, message.Ack); err != nil {
			return err
		}
		c.acked <- struct{}{}
		return nil
	case message.Hello == nil && message.Ack == nil && message.Node != nil:
		return c.Hub.report(client, message.Node)
	}
	return fmt.Errorf("%w: a message is neither an acknowledgement nor a report", errProtocol)
}

// send alternates between sending a delta and waiting for its acknowledgement.
func (c *conversation) send(ctx context.Context, cancel context.CancelCauseFunc) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	var client *client
	select {
	case client = <-c.joined:
	case <-time.After(helloTimeout):
		return errNoHello
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	d, err := c.Hub.first(ctx, client)
	for err == nil {
		if err = c.deliver(ctx, cancel, d); err != nil {
			return err
		}
		d, err = c.Hub.next(ctx, client)
	}
	return err
}

// deliver sends one delta and waits until it is acknowledged. The time limit covers both: a client that
// does not read blocks the sending.
func (c *conversation) deliver(ctx context.Context, cancel context.CancelCauseFunc, d *delta) error {
	limit := time.AfterFunc(c.ackTimeout, func() { cancel(errNoAck) })
	defer limit.Stop()
	start := time.Now()
	if err := c.stream.SendMsg(d); err != nil {
		return fmt.Errorf("sending a delta: %w", err)
	}
	kind := string(c.identity.Kind)
	c.metrics.deltas.WithLabelValues(kind).Inc()
	c.metrics.bytes.WithLabelValues(kind).Add(float64(d.size))
	c.metrics.resources.WithLabelValues(kind).Add(float64(len(d.upserted) + len(d.removed)))
	select {
	case <-c.acked:
		c.metrics.ackLatency.WithLabelValues(kind).Observe(time.Since(start).Seconds())
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resourceLabel keeps what a client can put into a metric's label to the kinds that exist.
func resourceLabel(kind wire.Kind) string {
	switch kind {
	case wire.KindMesh, wire.KindDestination, wire.KindRoute, wire.KindBackend, wire.KindEndpoints,
		wire.KindProxies, wire.KindWorkload, wire.KindCertificate, wire.KindCapture, wire.KindInbound,
		wire.KindAuthorization:
		return string(kind)
	}
	return "unknown"
}

// statusOf returns what a client is told about the end of its stream.
func statusOf(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, errStopping):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, errExpired):
		return status.Error(codes.Unauthenticated, err.Error())
	case errors.Is(err, errReplaced):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, errProtocol):
		return status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, errNoHello), errors.Is(err, errNoAck):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	return status.Convert(err).Err()
}
