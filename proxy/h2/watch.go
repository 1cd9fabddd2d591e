package h2

import (
	"time"

	"golang.org/x/net/http2"
)

// The data of our pings.
var (
	pingData    = [8]byte{'w', 'e', 'f', 't', 'p', 'i', 'n', 'g'}
	goodbyeData = [8]byte{'w', 'e', 'f', 't', 'b', 'y', 'e', 0}
)

// goodbye is how far the end of a server's connection has come.
type goodbye uint8

const (
	// announced: the client knows that the connection will end, and what it has begun meanwhile is served.
	announced goodbye = iota + 1
	// departed: nothing new is served.
	departed
)

// depart ends a client's connection without failing a request: it is told first that it should begin nothing new
// (RFC 9113 section 6.8). The lock is held.
func (l *link) depart() {
	if l.goodbye != 0 || l.err != nil {
		return
	}
	l.goodbye = announced
	l.goAway(mostWindow, nil)
	l.frame(http2.FramePing, 0, 0, len(goodbyeData))
	l.pending = append(l.pending, goodbyeData[:]...)
	l.flush()
}

// departLocked ends the connection when the streams that have begun are over. The lock is held.
func (l *link) departLocked() {
	if l.goodbye == departed || l.err != nil {
		return
	}
	l.goodbye = departed
	l.goAway(l.served, nil)
	l.flush()
	l.server.endIfDone()
}

// begin starts to look after the connection.
func (l *link) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.watch = time.AfterFunc(l.interval(), l.check)
	}
}

// interval is when to look after the connection again.
func (l *link) interval() time.Duration {
	if !l.pinged.IsZero() || l.goodbye == announced {
		return min(l.limits.PingTimeout, l.limits.HeadTimeout)
	}
	return min(l.limits.PingAfter, l.limits.HeadTimeout, l.limits.IdleTimeout)
}

// check looks after the connection.
func (l *link) check() {
	if silent := l.checked(); silent {
		// Nobody is there to be told.
		_ = l.conn.Close()
	}
}

// checked is check, and tells whether the peer has given no sign of life.
func (l *link) checked() (silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	now := time.Now()
	slow := l.blockSince.Load()
	switch {
	case slow != 0 && now.Sub(time.Unix(0, slow)) >= l.limits.HeadTimeout:
		l.fail(&Error{Code: http2.ErrCodeEnhanceYourCalm, Cause: errHeadSlow}, true)
		return false
	case !l.pinged.IsZero() && now.Sub(l.pinged) >= l.limits.PingTimeout:
		l.fail(&Error{Code: http2.ErrCodeNo, Cause: errPingSilent}, true)
		return true
	case l.goodbye == announced:
		l.departLocked()
	case l.unused() && now.Sub(l.idle) >= l.limits.IdleTimeout:
		if l.client != nil {
			l.fail(&Error{Code: http2.ErrCodeNo, Cause: errIdleLong}, true)
			return false
		}
		l.depart()
	case l.pinged.IsZero() && now.Sub(time.Unix(0, l.heard.Load())) >= l.limits.PingAfter:
		l.pinged = now
		l.frame(http2.FramePing, 0, 0, len(pingData))
		l.pending = append(l.pending, pingData[:]...)
		l.flush()
	}
	if l.err == nil {
		l.watch.Reset(l.interval())
	}
	return false
}

// unused tells whether there is no exchange.
func (l *link) unused() bool {
	return len(l.streams) == 0 && (l.client == nil || l.client.reserved == 0) && (l.server == nil || l.server.running == 0)
}
