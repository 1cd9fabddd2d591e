package h2

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// Client is a connection on which requests are sent. Its methods are those of net/http's ClientConn, and any goroutine may
// call them.
type Client struct {
	*link
	// onChange may be nil.
	onChange atomic.Pointer[func()]
	// settings is closed when the peer's SETTINGS have come, or will not.
	settings chan struct{}

	// The lock of the connection guards these. most is how many streams the peer allows, reserved how many are meant to
	// be opened; away tells that the peer takes no more.
	most     int
	reserved int
	away     bool
}

// streamsAtFirst is how many streams are opened before the peer has said how many there may be, mostStream the last one.
const (
	streamsAtFirst = 100
	mostStream     = 1<<31 - 1
)

// NewClient begins HTTP/2 on a connection, whose peer expects it. The limits for resets are not looked at.
func NewClient(conn net.Conn, limits Limits) *Client {
	c := &Client{link: newLink(conn, limits), settings: make(chan struct{}), most: streamsAtFirst}
	c.client = c
	c.mu.Lock()
	c.pending = append(c.pending, http2.ClientPreface...)
	c.mu.Unlock()
	c.settle(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(limits.StreamWindow)}, //nolint:gosec // it is at most 2^31-1
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: uint32(limits.MaxFrame)},          //nolint:gosec // it is at most 2^24-1
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(limits.MaxHead)},      //nolint:gosec // it is small
	)
	c.begin()
	go func() {
		c.serve()
		c.mu.Lock()
		if !c.settled {
			close(c.settings)
		}
		c.mu.Unlock()
		c.changed()
	}()
	return c
}

// OnChange has f called when there are fewer streams than before, or the connection has ended, in any goroutine.
func (c *Client) OnChange(f func()) {
	c.onChange.Store(&f)
	f()
}

// ready is called when the peer's first SETTINGS have come. The lock is held.
func (c *Client) ready() { close(c.settings) }

// Greeted waits for the peer's SETTINGS, the first frame of a server (RFC 9113 section 3.4). Over TLS 1.3 they come only
// after it has verified our certificate, and they say how many streams there may be. It closes the connection if they do
// not come, and fails with ErrNotHTTP2 if something else does.
func (c *Client) Greeted(ctx context.Context) error {
	select {
	case <-c.settings:
	case <-ctx.Done():
		_ = c.Close()
		return errors.New("no answer to the HTTP/2 preface")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err == nil:
		return nil
	case c.settled:
		return c.err
	case !c.err.Remote:
		return fmt.Errorf("%w: %w", ErrNotHTTP2, c.err)
	}
	return c.err.Cause
}

// Reserve claims a stream for a RoundTrip that follows.
func (c *Client) Reserve() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.away || c.last > mostStream-2:
		return errGoneAway
	case c.available() <= 0:
		return errFull
	}
	c.reserved++
	return nil
}

func (c *Client) available() int { return c.most - len(c.streams) - c.reserved }

// Available is how many streams could be opened.
func (c *Client) Available() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.away || c.last > mostStream-2 {
		return 0
	}
	return max(0, c.available())
}

// InFlight is how many streams there are, those that are reserved included.
func (c *Client) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams) + c.reserved
}

// Err returns why the connection takes no more requests; nil if it does.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.away || c.last > mostStream-2:
		return errGoneAway
	}
	return nil
}

// Close ends the connection, and what is under way on it.
func (c *Client) Close() error {
	c.mu.Lock()
	idle := c.unused()
	c.fail(&Error{Code: http2.ErrCodeNo, Cause: errClosedHere}, idle)
	c.mu.Unlock()
	if !idle {
		return c.conn.Close()
	}
	return nil
}

// Done is closed when the connection is.
func (c *Client) Done() <-chan struct{} { return c.ended }

// farewell takes the peer's GOAWAY in: what it does not process may be sent elsewhere (RFC 9113 section 6.8).
func (c *Client) farewell(last uint32, code http2.ErrCode) {
	c.mu.Lock()
	c.away = true
	err := &Error{Code: code, Stream: true, Remote: true, Unprocessed: true, Cause: errGoneAway}
	for id, s := range c.streams {
		if id > last {
			s.end(err)
			s.leave()
		}
	}
	c.mu.Unlock()
	c.changed()
}

// head acts on a head that the peer has sent.
func (c *Client) head(id uint32, h head, ends bool, wrong *fault) *fault {
	c.mu.Lock()
	s := c.streams[id]
	if s == nil {
		defer c.mu.Unlock()
		if ends {
			delete(c.forgotten, id)
		}
		return nil // what follows a reset
	}
	if wrong == nil {
		wrong = s.answer(h, ends)
	}
	gone := s.gone
	c.mu.Unlock()
	if gone {
		c.changed()
	}
	return wrong
}

// mostInformational bounds the 1xx responses that wait to be looked at.
const mostInformational = 100

// answer takes a head of the response, or its trailer. The lock is held.
func (s *stream) answer(h head, ends bool) *fault {
	switch {
	case s.answered:
		if !ends {
			return errTrailerOpen
		}
		if !s.bodiless && s.declared >= 0 && s.got != s.declared {
			return errLengthBody
		}
		s.trailer = h
		s.complete()
	case h.status < 200:
		if ends || len(s.heads) >= mostInformational {
			return errInformed
		}
		s.heads = append(s.heads, h)
	default:
		s.answered = true
		s.declared = h.length
		s.bodiless = s.bodiless || h.status == 204 || h.status == 304
		s.heads = append(s.heads, h)
		if ends {
			if !s.bodiless && h.length > 0 {
				return errLengthBody
			}
			s.complete()
		}
	}
	s.wake.Broadcast()
	return nil
}

// next waits for the next head of the response.
func (s *stream) next() (head, error) {
	s.link.mu.Lock()
	defer s.link.mu.Unlock()
	for {
		if len(s.heads) > 0 {
			h := s.heads[0]
			n := copy(s.heads, s.heads[1:])
			s.heads[n] = head{}
			s.heads = s.heads[:n]
			return h, nil
		}
		if s.err != nil {
			return head{}, s.err
		}
		if len(s.link.pending) > 0 && !s.link.sending {
			s.link.flush()
			continue
		}
		s.wake.Wait()
	}
}

// awaitProceed waits until the peer has asked for the body, or said something else, but no longer than d.
func (s *stream) awaitProceed(d time.Duration, asked func() bool) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	over := false
	timer := time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		over = true
		s.wake.Broadcast()
	})
	defer timer.Stop()
	for !over && !asked() && !s.answered && s.err == nil {
		s.wake.Wait()
	}
}
