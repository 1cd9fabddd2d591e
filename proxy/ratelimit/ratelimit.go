// Package ratelimit decides whether a request is within its limits. It counts and tells what to answer; it
// knows neither requests nor connections, and time is what its callers say.
//
// Each limit is a token bucket in the form of the generic cell rate algorithm (ITU-T I.371): all that is
// kept of a bucket is when it will be full again. A bucket that is full is therefore one that need not be
// kept, and forgetting it loses nothing.
//
// A limit with keys has a bucket for each combination of their values, and those are the client's to
// choose. So there are at most MaxBuckets at once. While they are all in use, requests whose values have
// none share one more bucket of the same size: the limit then lets through less than it might, never more
// than MaxBuckets+1 clients could have, and clients that had a bucket before keep it.
package ratelimit

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"weft.dev/weft/proxy/wire"
)

// MaxBuckets is how many buckets a limit has at most, which take about half a megabyte.
const MaxBuckets = 1 << 14

// sweepPause is the least time between two looks for buckets to forget while all are in use.
const sweepPause = 100 * time.Millisecond

// Limiter holds a request to several limits at once. It is safe for concurrent use.
type Limiter struct {
	limits []wire.RateLimit
	epoch  time.Time

	mu     sync.Mutex
	meters []meter
}

// meter counts for one limit. Times are since the Limiter's epoch.
type meter struct {
	// full is when each bucket will be full again, by the hash of its key values.
	full map[uint64]time.Duration
	// common is the same for the bucket of a limit without keys, and for the one that is shared.
	common time.Duration
	// sweepSize and sweepTime are from when on buckets are forgotten.
	sweepSize int
	sweepTime time.Duration
}

// New returns a Limiter for limits, which must be valid (Check) and nobody may change afterwards. It goes
// on counting where before stopped, for each limit that it has as well; before may be nil.
func New(limits []wire.RateLimit, before *Limiter, now time.Time) *Limiter {
	l := &Limiter{limits: limits, epoch: now, meters: make([]meter, len(limits))}
	if before == nil {
		return l
	}
	l.epoch = before.epoch
	before.mu.Lock()
	defer before.mu.Unlock()
	taken := make([]bool, len(before.limits))
	for i := range limits {
		for j := range before.limits {
			if !taken[j] && Equal(limits[i:i+1], before.limits[j:j+1]) {
				taken[j] = true
				l.meters[i] = before.meters[j].clone()
				break
			}
		}
	}
	return l
}

// Limits returns what the Limiter was made for.
func (l *Limiter) Limits() []wire.RateLimit { return l.limits }

// Equal tells whether two lists of limits are the same.
func Equal(a, b []wire.RateLimit) bool {
	return slices.EqualFunc(a, b, func(a, b wire.RateLimit) bool {
		return a.Requests == b.Requests && a.Interval == b.Interval && a.Burst == b.Burst && slices.Equal(a.Keys, b.Keys)
	})
}

func (m *meter) clone() meter {
	copied := *m
	if m.full != nil {
		copied.full = make(map[uint64]time.Duration, len(m.full))
		for key, full := range m.full {
			copied.full[key] = full
		}
	}
	return copied
}

// Verdict is what a Limiter says about a request.
type Verdict struct {
	// Exceeded are the limits that refuse the request; it may pass if there are none.
	Exceeded []Exceeded
	// Crowded tells that a limit had no bucket left for the request's own key values.
	Crowded bool
}

// Exceeded is a limit that refuses a request.
type Exceeded struct {
	// Limit is its index.
	Limit int
	// Wait is how long until it would let the next request of this kind through, if there were no others.
	Wait time.Duration
}

// Take takes one token of each limit, or none at all if one of them has none left. The proxy has one part
// in replicas of each limit, but at least one request per interval. value returns the value of a key, ""
// if the request has none; it is called for the keys of every limit.
func (l *Limiter) Take(now time.Time, replicas int, value func(wire.RateLimitKey) string) Verdict {
	var room [4]claim
	claims := room[:0]
	for i := range l.limits {
		claims = append(claims, claim{key: hashKeys(l.limits[i].Keys, value)})
	}
	var v Verdict
	l.mu.Lock()
	defer l.mu.Unlock()
	since := now.Sub(l.epoch)
	for i := range claims {
		c := &claims[i]
		c.own = len(l.limits[i].Keys) > 0
		if c.own && !l.meters[i].admit(c.key, since) {
			c.own, v.Crowded = false, true
		}
		var wait time.Duration
		if c.full, wait = take(&l.limits[i], replicas, l.meters[i].at(c), since); wait > 0 {
			v.Exceeded = append(v.Exceeded, Exceeded{Limit: i, Wait: wait})
		}
	}
	if len(v.Exceeded) > 0 {
		return v
	}
	for i := range claims {
		l.meters[i].set(&claims[i])
	}
	return v
}

// claim is a token of one limit that a request is about to take.
type claim struct {
	key uint64
	// own tells that the key has a bucket of its own.
	own bool
	// full is when the bucket will be full again without that token.
	full time.Duration
}

// take returns when a bucket that is full at full will be so after one more token has been taken at now, or
// how long it is until there is one.
func take(limit *wire.RateLimit, replicas int, full, now time.Duration) (after, wait time.Duration) {
	// The rate is divided exactly, the burst in whole tokens.
	interval, share := int64(limit.Interval), int64(max(1, replicas))
	token := max(1, min(interval, divide(interval, share, int64(limit.Requests))))
	burst := min(max(1, int64(limit.Burst)/share), farAway/token)
	after = max(full, now) + time.Duration(token)
	return after, after - now - time.Duration(token*burst)
}

// farAway is more nanoseconds than any sensible time has, and leaves room for sums.
const farAway = 1 << 61

// divide returns interval*share/requests to the nearest nanosecond.
func divide(interval, share, requests int64) int64 {
	// The product of all of it could overflow.
	return interval/requests*share + (interval%requests*share+requests/2)/requests
}

// at returns when the bucket of a claim is full again.
func (m *meter) at(c *claim) time.Duration {
	if c.own {
		return m.full[c.key]
	}
	return m.common
}

func (m *meter) set(c *claim) {
	if !c.own {
		m.common = c.full
		return
	}
	if m.full == nil {
		m.full = map[uint64]time.Duration{}
	}
	m.full[c.key] = c.full
}

// admit tells whether a key has a bucket or may have one, which is full. Buckets that have become full are
// forgotten each time that their number has doubled, and when it has reached its bound.
func (m *meter) admit(key uint64, now time.Duration) bool {
	if _, ok := m.full[key]; ok {
		return true
	}
	crowded := len(m.full) >= MaxBuckets
	if len(m.full) < max(m.sweepSize, 64) || crowded && now < m.sweepTime {
		return !crowded
	}
	for other, full := range m.full {
		if full <= now {
			delete(m.full, other)
		}
	}
	m.sweepSize = min(2*len(m.full), MaxBuckets)
	m.sweepTime = now + sweepPause
	return len(m.full) < MaxBuckets
}

// seed is the process's own, so that no client can choose values that share a bucket.
var seed = maphash.MakeSeed()

// hashKeys returns one number for the values of keys. Two clients whose numbers are equal by chance share a
// bucket; among MaxBuckets that is less likely than one in a hundred thousand million.
func hashKeys(keys []wire.RateLimitKey, value func(wire.RateLimitKey) string) uint64 {
	if len(keys) == 0 {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(seed)
	for _, key := range keys {
		v := value(key)
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(v)))
		_, _ = h.Write(length[:])
		_, _ = h.WriteString(v)
	}
	return h.Sum64()
}
