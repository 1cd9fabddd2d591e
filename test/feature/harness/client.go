package harness

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// clients are closed with their Mesh.
type clients struct {
	mu   sync.Mutex
	http []*http.Transport
	grpc []*grpc.ClientConn
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.http {
		t.CloseIdleConnections()
	}
	for _, conn := range c.grpc {
		// It may have been closed before.
		_ = conn.Close()
	}
	c.http, c.grpc = nil, nil
}

// HTTP returns a client in a namespace that speaks HTTP/1.1. It follows no redirects and decompresses
// nothing.
func (m *Mesh) HTTP(namespace string) *http.Client {
	return m.newClient(namespace, func(p *http.Protocols) { p.SetHTTP1(true) })
}

// H2C returns a client like that of HTTP which speaks HTTP/2 with prior knowledge.
func (m *Mesh) H2C(namespace string) *http.Client {
	return m.newClient(namespace, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
}

func (m *Mesh) newClient(namespace string, speak func(*http.Protocols)) *http.Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return m.Dial(ctx, namespace, address)
		},
		DisableCompression: true, MaxIdleConnsPerHost: 256, Protocols: new(http.Protocols),
	}
	speak(transport.Protocols)
	m.clients.mu.Lock()
	defer m.clients.mu.Unlock()
	m.clients.http = append(m.clients.http, transport)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// GRPC returns a client in a namespace for a target "host:port". It retries nothing by itself.
func (m *Mesh) GRPC(namespace, target string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return m.Dial(ctx, namespace, address)
		}),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("gRPC client: %w", err)
	}
	m.clients.mu.Lock()
	defer m.clients.mu.Unlock()
	m.clients.grpc = append(m.clients.grpc, conn)
	return conn, nil
}
