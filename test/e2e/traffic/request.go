// Package traffic sends requests and says what became of each: one at a time, or as a load that goes on
// until it is told to stop. It runs inside the pods of the end-to-end tests and is commanded from
// outside; the types here are what the two sides exchange. It knows nothing of meshes and judges nothing.
package traffic

import "time"

// Protocol is how a request is sent.
type Protocol string

// The protocols. The zero value means HTTP1.
const (
	HTTP1     Protocol = "http/1.1"
	H2C       Protocol = "h2c"
	GRPC      Protocol = "grpc"
	TCP       Protocol = "tcp"
	WebSocket Protocol = "websocket"
	// TLS shakes hands and waits for the server's first byte or the end of the connection.
	TLS Protocol = "tls"
)

// MarkHeader is the request header that samples of a load record as the backend saw it: a route that sets
// it shows which of its generations a request was treated by.
const MarkHeader = "X-Mark"

// DefaultTimeout bounds a request that does not say.
const DefaultTimeout = 10 * time.Second

// Request describes one request.
type Request struct {
	Protocol Protocol `json:"protocol,omitempty"`
	// URL is absolute for HTTP and WebSocket, and "host:port" for the others.
	URL string `json:"url"`
	// Method is that of HTTP, GET if empty, or the full method of gRPC, CallMethod if empty.
	Method string            `json:"method,omitempty"`
	Header map[string]string `json:"header,omitempty"`
	// Host, if set, is sent in place of the URL's.
	Host string `json:"host,omitempty"`
	// Body is what is sent; with TCP and WebSocket it is one line or message.
	Body    string        `json:"body,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	// ServerFirst: over TCP the server is the first to speak, and nothing is sent before.
	ServerFirst bool `json:"serverFirst,omitempty"`
	// Source, if set, is the local address to send from.
	Source string `json:"source,omitempty"`
	// TLS are the credentials for Protocol TLS, in PEM; none are presented if they are empty.
	Certificate string   `json:"certificate,omitempty"`
	Key         string   `json:"key,omitempty"`
	ALPN        []string `json:"alpn,omitempty"`
}

func (r *Request) timeout() time.Duration {
	if r.Timeout > 0 {
		return r.Timeout
	}
	return DefaultTimeout
}

// Answer is what became of a request.
type Answer struct {
	// Sent is when the client began, First when the first bytes of an HTTP body were there, Ended when all
	// of the answer was.
	Sent  time.Time `json:"sent"`
	First time.Time `json:"first"`
	Ended time.Time `json:"ended"`
	// Error says why there is no answer; it is empty if there is one, whatever its status.
	Error string `json:"error,omitempty"`
	// Status is that of HTTP, or the code of gRPC.
	Status int                 `json:"status"`
	Header map[string][]string `json:"header,omitempty"`
	Body   string              `json:"body,omitempty"`
	// Echo is what the backend saw, nil if the answer is not one of the test's own backends.
	Echo *Echo `json:"echo,omitempty"`
}

// Get returns the first value of a response header, spelt canonically.
func (a *Answer) Get(name string) string {
	if values := a.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Forgery is what became of a request sent with the address of another pod, and of one with the pod's own.
type Forgery struct {
	Forged Answer `json:"forged"`
	Own    Answer `json:"own"`
}

// Echo is how a backend sees a request.
type Echo struct {
	Pod       string `json:"pod"`
	Namespace string `json:"namespace"`
	Node      string `json:"node"`
	Version   string `json:"version"`
	// Peer is the address that the connection comes from, without the port.
	Peer string `json:"peer"`
	// Local is the address and port that the connection came to.
	Local string `json:"local"`
	// Caller is the identity that the other side has proven, where the backend itself ends the hop.
	Caller string `json:"caller,omitempty"`
	Proto  string `json:"proto,omitempty"`
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	Host   string `json:"host,omitempty"`
	// Header holds what came; gRPC's metadata has canonical names here too.
	Header map[string][]string `json:"header,omitempty"`
	Body   string              `json:"body,omitempty"`
}

// Get returns the first value of a request header, spelt canonically.
func (e *Echo) Get(name string) string {
	if values := e.Header[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// Load is a stream of requests.
type Load struct {
	// Requests are sent in turn by each worker.
	Requests []Request `json:"requests"`
	// Workers send at the same time, each one request after the other.
	Workers int `json:"workers"`
	// Rate is how many requests all workers together start in a second; zero means as many as they can.
	Rate float64 `json:"rate,omitempty"`
	// NewConnections opens a connection for each request; otherwise each worker keeps its own.
	NewConnections bool `json:"newConnections,omitempty"`
	// ChangesOnly keeps only the samples that differ from the worker's one before in who answered, in
	// the mark or in the outcome.
	ChangesOnly bool `json:"changesOnly,omitempty"`
}

// Sample is one request of a load.
type Sample struct {
	Sent  time.Time `json:"s"`
	Ended time.Time `json:"e"`
	// Failure says what is wrong with the answer: that there is none, or a status that is no success.
	Failure string `json:"f,omitempty"`
	Pod     string `json:"p,omitempty"`
	Version string `json:"v,omitempty"`
	Mark    string `json:"m,omitempty"`
}

// Progress is what is known of a load.
type Progress struct {
	// Samples are those after the ones that the caller has already.
	Samples []Sample `json:"samples"`
	// Sent counts the requests that have ended, Failed those among them with a Failure.
	Sent   int `json:"sent"`
	Failed int `json:"failed"`
}
