package traffic

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// CallMethod is the gRPC method that is called unless a request names another; backends answer any.
const CallMethod = "/weft.e2e.Echo/Call"

// maxBody bounds how much of an answer is read.
const maxBody = 1 << 20

// Client sends requests one after the other and keeps a connection to each place it has sent to. It is
// not safe for concurrent use. Requests that a connection breaks under are not repeated, except where
// the protocol's own library does so.
type Client struct {
	transports map[transportKey]*http.Transport
	grpc       map[string]*grpc.ClientConn
	lines      map[string]*lineConn
}

type transportKey struct {
	protocol Protocol
	source   string
}

// lineConn is a TCP connection or a WebSocket over which one line or message is exchanged at a time.
type lineConn struct {
	net.Conn
	reader *bufio.Reader
	socket *websocket.Conn
}

// NewClient returns a client without connections.
func NewClient() *Client {
	return &Client{
		transports: map[transportKey]*http.Transport{}, grpc: map[string]*grpc.ClientConn{}, lines: map[string]*lineConn{},
	}
}

// Close ends all connections. The client can be used again.
func (c *Client) Close() {
	for key, t := range c.transports {
		t.CloseIdleConnections()
		delete(c.transports, key)
	}
	for key, conn := range c.grpc {
		// It may be broken already.
		_ = conn.Close()
		delete(c.grpc, key)
	}
	for key := range c.lines {
		c.dropLine(key)
	}
}

// Do sends a request and waits for the whole answer.
func (c *Client) Do(ctx context.Context, r *Request) Answer {
	ctx, cancel := context.WithTimeout(ctx, r.timeout())
	defer cancel()
	a := Answer{Sent: time.Now()}
	var err error
	switch r.Protocol {
	case GRPC:
		err = c.doGRPC(ctx, r, &a)
	case TCP, WebSocket:
		err = c.doLine(ctx, r, &a)
	case TLS:
		err = doTLS(ctx, r, &a)
	default:
		err = c.doHTTP(ctx, r, &a)
	}
	a.Ended = time.Now()
	if err != nil {
		a.Error = err.Error()
	}
	return a
}

func dialer(source string) *net.Dialer {
	d := &net.Dialer{}
	if source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	return d
}

func (c *Client) transport(key transportKey) *http.Transport {
	t := c.transports[key]
	if t == nil {
		t = &http.Transport{
			DialContext: dialer(key.source).DialContext, DisableCompression: true, Protocols: new(http.Protocols),
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // what answers is asked about traffic, and by tests
		}
		t.Protocols.SetHTTP1(key.protocol != H2C)
		t.Protocols.SetUnencryptedHTTP2(key.protocol == H2C)
		c.transports[key] = t
	}
	return t
}

func (c *Client) doHTTP(ctx context.Context, r *Request, a *Answer) error {
	var body io.Reader
	if r.Body != "" {
		// Its type is hidden, so that net/http cannot repeat the request by itself.
		body = io.MultiReader(strings.NewReader(r.Body))
	}
	at := &stage{}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, at.trace()), r.Method, r.URL, body)
	if err != nil {
		return err
	}
	for name, value := range r.Header {
		req.Header.Set(name, value)
	}
	req.Host = r.Host
	if r.Body != "" {
		req.ContentLength = int64(len(r.Body))
	}
	res, err := c.transport(transportKey{r.Protocol, r.Source}).RoundTrip(req)
	if err != nil {
		return at.wrap(err)
	}
	defer func() { _ = res.Body.Close() }()
	a.Status, a.Header = res.StatusCode, res.Header
	first := make([]byte, 512)
	n, err := io.ReadAtLeast(res.Body, first, 1)
	a.First = time.Now()
	var rest []byte
	if err == nil {
		rest, err = io.ReadAll(io.LimitReader(res.Body, maxBody))
	}
	data := slices.Concat(first[:n], rest)
	if err != nil && !errors.Is(err, io.EOF) {
		return at.wrap(fmt.Errorf("body: %w", err))
	}
	a.read(data)
	return nil
}

// read takes the body of an answer, which is an Echo if a backend of the tests wrote it.
func (a *Answer) read(data []byte) {
	echo := &Echo{}
	if json.Unmarshal(data, echo) == nil && echo.Pod != "" {
		a.Echo = echo
		return
	}
	a.Body = string(data)
}

func (c *Client) doGRPC(ctx context.Context, r *Request, a *Answer) error {
	conn := c.grpc[r.URL]
	if conn == nil {
		var err error
		conn, err = grpc.NewClient("dns:///"+r.URL, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry(),
			grpc.WithDisableServiceConfig())
		if err != nil {
			return err
		}
		c.grpc[r.URL] = conn
	}
	outgoing := metadata.MD{}
	for name, value := range r.Header {
		outgoing.Append(name, value)
	}
	ctx = metadata.NewOutgoingContext(ctx, outgoing)
	method := r.Method
	if method == "" {
		method = CallMethod
	}
	out := &wrapperspb.StringValue{}
	var header, trailer metadata.MD
	err := conn.Invoke(ctx, method, wrapperspb.String(r.Body), out, grpc.Header(&header), grpc.Trailer(&trailer))
	// What comes without a message comes in the trailer (Trailers-Only).
	a.Header = canonical(metadata.Join(header, trailer))
	a.Status = int(status.Code(err))
	if err != nil {
		a.Body = status.Convert(err).Message()
		if code := status.Code(err); code == codes.DeadlineExceeded && ctx.Err() != nil {
			return err
		}
		return nil
	}
	a.read([]byte(out.Value))
	return nil
}

// canonical gives gRPC's metadata the header names of HTTP/1.1.
func canonical(md metadata.MD) map[string][]string {
	out := make(map[string][]string, len(md))
	for name, values := range md {
		out[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	return out
}

func (c *Client) doLine(ctx context.Context, r *Request, a *Answer) (err error) {
	key := string(r.Protocol) + " " + r.URL
	conn := c.lines[key]
	fresh := conn == nil
	if fresh {
		if conn, err = openLine(ctx, r); err != nil {
			return err
		}
		c.lines[key] = conn
	}
	defer func() {
		if err != nil {
			c.dropLine(key)
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	line, err := conn.exchange(r, fresh)
	if err != nil {
		return err
	}
	if r.Protocol == WebSocket {
		a.Status = http.StatusSwitchingProtocols
	}
	a.read([]byte(line))
	return nil
}

func openLine(ctx context.Context, r *Request) (*lineConn, error) {
	if r.Protocol == TCP {
		conn, err := dialer(r.Source).DialContext(ctx, "tcp", r.URL)
		if err != nil {
			return nil, err
		}
		return &lineConn{Conn: conn, reader: bufio.NewReader(conn)}, nil
	}
	config, err := websocket.NewConfig(strings.Replace(r.URL, "http://", "ws://", 1), "http://client/")
	if err != nil {
		return nil, err
	}
	for name, value := range r.Header {
		config.Header.Set(name, value)
	}
	config.Dialer = dialer(r.Source)
	socket, err := config.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	return &lineConn{Conn: socket, socket: socket}, nil
}

// exchange sends a line and reads one, or only reads where the server speaks first.
func (l *lineConn) exchange(r *Request, fresh bool) (string, error) {
	if l.socket != nil {
		if err := websocket.Message.Send(l.socket, r.Body); err != nil {
			return "", err
		}
		var message string
		err := websocket.Message.Receive(l.socket, &message)
		return message, err
	}
	if !r.ServerFirst || !fresh {
		if _, err := io.WriteString(l, r.Body+"\n"); err != nil {
			return "", err
		}
	}
	return l.reader.ReadString('\n')
}

func (c *Client) dropLine(key string) {
	if conn := c.lines[key]; conn != nil {
		// It may be broken already.
		_ = conn.Close()
		delete(c.lines, key)
	}
}

// doTLS shakes hands with anybody and waits for what comes. With TLS 1.3 a server that refuses the
// client's certificate says so only after the handshake, so an alert then is an error too; a server that
// has nothing to say and waits is none.
func doTLS(ctx context.Context, r *Request, a *Answer) error {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: r.ALPN, MinVersion: tls.VersionTLS13} //nolint:gosec // the tests ask what the server refuses
	if r.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(r.Certificate), []byte(r.Key))
		if err != nil {
			return err
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	conn, err := (&tls.Dialer{NetDialer: dialer(r.Source), Config: config}).DialContext(ctx, "tcp", r.URL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	for _, uri := range conn.(*tls.Conn).ConnectionState().PeerCertificates[0].URIs {
		a.Body = uri.String()
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	var timeout net.Error
	if _, err = conn.Read(make([]byte, 1)); errors.As(err, &timeout) && timeout.Timeout() {
		return nil
	}
	return err
}
