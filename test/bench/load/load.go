// Package load is the load of benches of proxies and what answers it: as plain as can be, since both share a core.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Backend answers what proxies forward.
type Backend struct {
	Port int
	net.Listener
}

// NewBackend returns one that serves connections by Answer.
func NewBackend(ctx context.Context) (*Backend, error) { return Listen(ctx, Answer) }

// Listen serves connections on loopback, each in a goroutine of its own.
func Listen(ctx context.Context, serve func(net.Conn) error) (*Backend, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &Backend{Listener: l}
	if tcp, ok := l.Addr().(*net.TCPAddr); ok {
		b.Port = tcp.Port
	}
	go Accept(l, serve)
	return b, nil
}

// Accept serves the connections of a listener until that is closed.
func Accept(l net.Listener, serve func(net.Conn) error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_ = serve(c) // it ends with the connection
		}()
	}
}

// answers are whole responses by the size of their body.
var answers sync.Map

func answerOf(size int) []byte {
	if a, ok := answers.Load(size); ok {
		text, _ := a.([]byte)
		return text
	}
	text := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nDate: Mon, 30 Nov 2026 09:00:00 GMT\r\nContent-Length: %d\r\n\r\n", size)
	text = append(text, bytes.Repeat([]byte("x"), size)...)
	answers.Store(size, text)
	return text
}

// Answer answers every request on a connection with as many bytes as its path asks for ("/1024"), having read its body.
func Answer(c net.Conn) error {
	m := message{conn: c, buf: make([]byte, 64<<10)}
	for {
		head, err := m.read()
		if err != nil {
			return err
		}
		size := 0
		if end := bytes.IndexByte(head, ' '); end >= 0 {
			// The size is the last part of the path.
			target := head[end+1:]
			target = target[:bytes.IndexByte(target, ' ')]
			size, _ = strconv.Atoi(string(target[bytes.LastIndexByte(target, '/')+1:]))
		}
		if _, err := c.Write(answerOf(size)); err != nil {
			return err
		}
	}
}

// message reads messages of known length from a connection.
type message struct {
	conn net.Conn
	buf  []byte
	n    int
}

var (
	headEnd      = []byte("\r\n\r\n")
	lengthNames  = [][]byte{[]byte("\r\nContent-Length: "), []byte("\r\ncontent-length: ")}
	errNotWhole  = errors.New("the head does not fit")
	errNotLength = errors.New("no number")
)

// read reads the next message to its end and returns its head, which is valid until the next call.
func (m *message) read() ([]byte, error) {
	for {
		if end := bytes.Index(m.buf[:m.n], headEnd); end >= 0 {
			end += len(headEnd)
			left, err := lengthOf(m.buf[:end])
			if err != nil {
				return nil, err
			}
			head := m.buf[:end]
			got := m.n - end
			m.n = 0
			for left -= got; left > 0; {
				n, err := m.conn.Read(m.buf[end:])
				if err != nil {
					return nil, err
				}
				left -= n
			}
			return head, nil
		}
		if m.n == len(m.buf) {
			return nil, errNotWhole
		}
		n, err := m.conn.Read(m.buf[m.n:])
		if err != nil {
			return nil, err
		}
		m.n += n
	}
}

func lengthOf(head []byte) (int, error) {
	for _, name := range lengthNames {
		if i := bytes.Index(head, name); i >= 0 {
			n := 0
			for _, c := range head[i+len(name):] {
				if c == '\r' {
					return n, nil
				}
				if c < '0' || c > '9' {
					return 0, errNotLength
				}
				n = 10*n + int(c-'0')
			}
		}
	}
	return 0, nil
}

// Request is a whole request.
func Request(method, path string, body int) []byte {
	text := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: web.shop\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nX-Request-Id: 0f5a3c1e-7d52-4d3b-9f0e\r\n", method, path)
	if body > 0 {
		text = fmt.Appendf(text, "Content-Length: %d\r\n", body)
	}
	text = append(text, "\r\n"...)
	return append(text, bytes.Repeat([]byte("x"), body)...)
}

// Tally is what load has come to.
type Tally struct {
	Requests int64
	Took     time.Duration
	// Latencies are in no order; only a fixed rate has them.
	Latencies []time.Duration
}

// Dial opens a connection.
type Dial func(context.Context) (net.Conn, error)

// To dials an address.
func To(address string) Dial {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", address) }
}

// Quantile returns the latency below which a share of them is. It sorts them.
func (t *Tally) Quantile(share float64) time.Duration {
	slices.Sort(t.Latencies)
	return t.Latencies[int(share*float64(len(t.Latencies)-1))]
}

// Saturate sends one request after the other on each connection until the time is over.
func Saturate(ctx context.Context, dial Dial, connections int, text []byte, d time.Duration) (Tally, error) {
	var count atomic.Int64
	begin := time.Now()
	end := begin.Add(d)
	err := OnConnections(ctx, dial, connections, func(c net.Conn) error {
		m := message{conn: c, buf: make([]byte, 64<<10)}
		for n := int64(0); ; n++ {
			if n&15 == 0 && time.Now().After(end) {
				count.Add(n)
				return nil
			}
			if err := ask(&m, text); err != nil {
				return err
			}
		}
	})
	return Tally{Requests: count.Load(), Took: time.Since(begin)}, err
}

func ask(m *message, text []byte) error {
	if _, err := m.conn.Write(text); err != nil {
		return err
	}
	head, err := m.read()
	if err == nil && !bytes.HasPrefix(head[len("HTTP/1.1"):], []byte(" 200")) {
		err = fmt.Errorf("answer %.40q", head)
	}
	return err
}

// Steady sends requests at a fixed rate, whatever the answers do, and takes their latencies.
func Steady(ctx context.Context, dial Dial, connections, rate int, text []byte, d time.Duration) (Tally, error) {
	// Timers of the runtime are a millisecond apart, so one thread sleeps in the kernel. Tokens wait for a free
	// connection, and what they wait is part of the latency.
	tokens := make(chan time.Time, 4*rate)
	begin := time.Now()
	go func() {
		defer close(tokens)
		for next := begin; next.Before(begin.Add(d)); next = next.Add(time.Second / time.Duration(rate)) {
			for wait := time.Until(next); wait > 0; wait = time.Until(next) {
				left := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&left, nil)
			}
			tokens <- next
		}
	}()
	var mu sync.Mutex
	var t Tally
	err := OnConnections(ctx, dial, connections, func(c net.Conn) error {
		m := message{conn: c, buf: make([]byte, 64<<10)}
		var own []time.Duration
		for due := range tokens {
			if err := ask(&m, text); err != nil {
				return err
			}
			own = append(own, time.Since(due))
		}
		mu.Lock()
		defer mu.Unlock()
		t.Latencies = append(t.Latencies, own...)
		return nil
	})
	t.Requests, t.Took = int64(len(t.Latencies)), time.Since(begin)
	return t, err
}

// Churn makes a connection for each request.
func Churn(ctx context.Context, address string, workers int, text []byte, d time.Duration) (Tally, error) {
	var count atomic.Int64
	begin := time.Now()
	errs := make(chan error, workers)
	for range workers {
		go func() {
			errs <- func() error {
				buf := make([]byte, 64<<10)
				for time.Since(begin) < d {
					c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
					if err != nil {
						return err
					}
					if tcp, ok := c.(*net.TCPConn); ok {
						_ = tcp.SetLinger(0) // nothing is left in TIME_WAIT
					}
					m := message{conn: c, buf: buf}
					err = ask(&m, text)
					_ = c.Close()
					if err != nil {
						return err
					}
					count.Add(1)
				}
				return nil
			}()
		}()
	}
	var err error
	for range workers {
		err = errors.Join(err, <-errs)
	}
	return Tally{Requests: count.Load(), Took: time.Since(begin)}, err
}

// Hold opens connections, has each answer one request, and keeps them until release.
func Hold(ctx context.Context, address string, connections int, text []byte) (release func(), err error) {
	var held []net.Conn
	release = func() {
		for _, c := range held {
			_ = c.Close()
		}
	}
	buf := make([]byte, 64<<10)
	for range connections {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, c)
		m := message{conn: c, buf: buf}
		if err := ask(&m, text); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// OnConnections runs use on as many connections at once and returns the first failure.
func OnConnections(ctx context.Context, dial Dial, connections int, use func(net.Conn) error) error {
	errs := make(chan error, connections)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for range connections {
		c, err := dial(ctx)
		if err != nil {
			return err
		}
		open = append(open, c)
	}
	for _, c := range open {
		go func() { errs <- use(c) }()
	}
	var err error
	for range open {
		if failed := <-errs; err == nil && failed != nil {
			err = failed
			for _, c := range open {
				_ = c.Close() // the others end as well
			}
		}
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("a connection ended: %w", err)
	}
	return err
}
