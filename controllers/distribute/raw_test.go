package distribute_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weft.dev/weft/proxy/wire"
)

// rawCodec sends bytes as they are and values as JSON.
type rawCodec struct{}

func (rawCodec) Name() string { return wire.Codec }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if data, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(data)}, nil
	}
	data, err := json.Marshal(v)
	return mem.BufferSlice{mem.SliceBuffer(data)}, err
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return json.Unmarshal(data.Materialize(), v)
}

// rawClient is a client that keeps to no rules.
type rawClient struct {
	t      testing.TB
	stream grpc.ClientStream
}

// raw opens a stream with the given authorization headers.
func (m *mesh) raw(authorization ...string) *rawClient {
	m.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(m.ca.cert)
	return m.rawOver(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: serverName}), authorization...)
}

func (m *mesh) rawOver(security credentials.TransportCredentials, authorization ...string) *rawClient {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+m.address, grpc.WithTransportCredentials(security))
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m.t.Cleanup(func() {
		cancel()
		if err := conn.Close(); err != nil {
			m.t.Error(err)
		}
	})
	ctx = metadata.NewOutgoingContext(ctx, metadata.MD{"authorization": authorization})
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, wire.StreamMethod,
		grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		return &rawClient{t: m.t, stream: failedStream{err: err}}
	}
	return &rawClient{t: m.t, stream: stream}
}

// failedStream is a stream that could not be opened.
type failedStream struct {
	grpc.ClientStream
	err error
}

func (s failedStream) SendMsg(any) error { return s.err }
func (s failedStream) RecvMsg(any) error { return s.err }

// send sends messages. That a stream has ended shows when receiving.
func (c *rawClient) send(messages ...any) {
	for _, message := range messages {
		if c.stream.SendMsg(message) != nil {
			return
		}
	}
}

// delta receives the next delta.
func (c *rawClient) delta() *wire.Delta {
	c.t.Helper()
	var message wire.ServerMessage
	if err := c.stream.RecvMsg(&message); err != nil {
		c.t.Fatalf("receiving a delta: %v", err)
	}
	return message.Delta
}

// end reads the stream to its end and returns the code, and how many messages came before.
func (c *rawClient) end() (code codes.Code, messages int) {
	for {
		if err := c.stream.RecvMsg(new(wire.ServerMessage)); err != nil {
			return status.Code(err), messages
		}
		messages++
	}
}

func hello(held ...wire.Held) *wire.ClientMessage {
	return &wire.ClientMessage{Hello: &wire.Hello{Held: held}}
}

func ack(seq uint64) *wire.ClientMessage { return &wire.ClientMessage{Ack: &wire.Ack{Seq: seq}} }
