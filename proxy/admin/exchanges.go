package admin

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Exchange is one finished request as this proxy saw it. Queries are left out, since they may hold secrets.
type Exchange struct {
	// ID is the request's x-request-id, or its trace id (W3C); empty if it has neither.
	ID       string        `json:"id,omitempty"`
	Time     time.Time     `json:"time"`
	Duration time.Duration `json:"durationNanoseconds"`
	// Listener is "captured" where a client's own proxy tells, "hop" where that of the callee's namespace does.
	Listener string `json:"listener"`
	// Source is the identity of the caller, Client its address.
	Source string         `json:"source,omitempty"`
	Client netip.AddrPort `json:"client,omitzero"`

	Method    string `json:"method"`
	Authority string `json:"authority,omitempty"`
	Path      string `json:"path"`
	// Destination is the Service port that was called, Route and Rule what took the request, Backend the Service
	// port that it was sent to, and Endpoint the last pod or proxy that it was tried on.
	Destination string         `json:"destination,omitempty"`
	Route       string         `json:"route,omitempty"`
	Rule        string         `json:"rule,omitempty"`
	Backend     string         `json:"backend,omitempty"`
	Endpoint    netip.AddrPort `json:"endpoint,omitzero"`
	Tries       int            `json:"tries,omitempty"`

	// Status is 0 if nobody was left to answer. Reason is why the proxy has answered itself or cut the answer.
	Status int    `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Header is the request's, redacted; it is there while somebody listens alone.
	Header []string `json:"header,omitempty"`
}

// Failed tells whether it is kept among the failures.
func (e *Exchange) Failed() bool { return e.Reason != "" || e.Status == 0 || e.Status >= 500 }

const (
	// kept is how many exchanges are remembered, and as many failures besides, so that the many that go well do
	// not drive out the few that do not.
	kept = 512
	// maxText bounds each text that comes from a request.
	maxText = 256
	// maxListeners bounds who may listen at a time, maxRate what each of them gets in a second.
	maxListeners = 4
	maxRate      = 1000
	// backlog is how far a listener may be behind.
	backlog = 256
)

// Exchanges remembers the last exchanges of a proxy and passes them on to listeners. It never waits for a
// listener: what one cannot take is dropped, and counted. Its methods may be called at any time.
type Exchanges struct {
	listening atomic.Int32

	mu        sync.Mutex
	all       ring
	failed    ring
	listeners map[*listener]struct{}
}

// NewExchanges returns one that has seen nothing.
func NewExchanges() *Exchanges {
	return &Exchanges{listeners: map[*listener]struct{}{}}
}

// Listening tells whether somebody wants headers.
func (x *Exchanges) Listening() bool { return x.listening.Load() > 0 }

// Add remembers an exchange.
func (x *Exchanges) Add(e Exchange) {
	for _, text := range []*string{&e.ID, &e.Authority, &e.Path, &e.Method} {
		*text = bound(*text)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all.add(e)
	if e.Failed() {
		// A text may be a part of much more, which failures would keep for long.
		for _, text := range []*string{&e.ID, &e.Authority, &e.Path, &e.Method} {
			*text = strings.Clone(*text)
		}
		x.failed.add(e)
	}
	for l := range x.listeners {
		l.offer(e)
	}
}

// bound shortens a text without keeping the whole in memory.
func bound(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(strings.Clone(text[:maxText]), "")
}

// Recent returns what is remembered, the oldest first and each once.
func (x *Exchanges) Recent() []Exchange {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := x.all.list()
	if len(all) == 0 {
		return nil
	}
	var old []Exchange
	for _, e := range x.failed.list() {
		if x.all.dropped > 0 && e.Time.Before(all[0].Time) {
			old = append(old, e)
		}
	}
	return append(old, all...)
}

// ring holds the last exchanges.
type ring struct {
	entries []Exchange
	next    int
	dropped int
}

func (r *ring) add(e Exchange) {
	if len(r.entries) < kept {
		r.entries = append(r.entries, e)
		return
	}
	r.entries[r.next] = e
	r.next = (r.next + 1) % kept
	r.dropped++
}

func (r *ring) list() []Exchange {
	out := make([]Exchange, 0, len(r.entries))
	for i := range r.entries {
		out = append(out, r.entries[(r.next+i)%len(r.entries)])
	}
	return out
}

// listener gets what happens from now on.
type listener struct {
	wants   func(*Exchange) bool
	rate    int
	got     chan Exchange
	second  time.Time
	count   int
	dropped atomic.Int64
}

// offer passes an exchange on unless the listener is behind or has had its share of this second.
func (l *listener) offer(e Exchange) {
	if !l.wants(&e) {
		return
	}
	if now := e.Time.Truncate(time.Second); !now.Equal(l.second) {
		l.second, l.count = now, 0
	}
	if l.count++; l.count > l.rate {
		l.dropped.Add(1)
		return
	}
	select {
	case l.got <- e:
	default:
		l.dropped.Add(1)
	}
}

// listen adds a listener, nil if there are enough. The function it returns ends it.
func (x *Exchanges) listen(rate int, wants func(*Exchange) bool) (*listener, func()) {
	l := &listener{wants: wants, rate: min(max(rate, 1), maxRate), got: make(chan Exchange, backlog)}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.listeners) >= maxListeners {
		return nil, nil
	}
	x.listeners[l] = struct{}{}
	x.listening.Add(1)
	return l, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.listeners, l)
		x.listening.Add(-1)
	}
}

// secretWords are parts of the names of headers whose values are never shown.
var secretWords = []string{"auth", "cookie", "token", "secret", "key", "password", "session", "credential", "signature", "cert"}

// Secret tells whether the value of a header, or of anything else that has a name, may be one.
func Secret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// Redact writes a header for people, sorted: the values of those that may be secrets are left out, long ones
// shortened.
func Redact(h map[string][]string) []string {
	out := make([]string, 0, len(h))
	for name, values := range h {
		name = strings.ToLower(name)
		for _, value := range values {
			if Secret(name) {
				value = "(redacted)"
			}
			out = append(out, bound(name)+": "+bound(value))
		}
	}
	slices.Sort(out)
	return out
}

// IDOf returns what a request is called: its x-request-id, or the trace id of its traceparent.
func IDOf(header func(name string) string) string {
	if id := header("X-Request-Id"); id != "" {
		return id
	}
	// version "-" trace-id "-" parent-id "-" flags (W3C Trace Context, section 3.2).
	if parent := header("Traceparent"); parent == "" {
		return ""
	} else if parts := strings.Split(parent, "-"); len(parts) >= 4 {
		return parts[1]
	}
	return ""
}
