package ratelimit

import (
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/proxy/wire"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func limit(requests, burst int, interval time.Duration, keys ...wire.RateLimitKeyType) wire.RateLimit {
	l := wire.RateLimit{Requests: requests, Burst: burst, Interval: wire.Duration(interval)}
	for _, key := range keys {
		l.Keys = append(l.Keys, wire.RateLimitKey{Type: key, Name: "x-user"})
	}
	return l
}

// as answers for a request all of whose keys have one value.
func as(value string) func(wire.RateLimitKey) string {
	return func(wire.RateLimitKey) string { return value }
}

// passed counts how many of n requests at one time pass.
func passed(l *Limiter, at time.Duration, replicas, n int, value string) (count int) {
	for range n {
		if v := l.Take(epoch.Add(at), replicas, as(value)); len(v.Exceeded) == 0 {
			count++
		}
	}
	return count
}

func TestBurstAndRate(t *testing.T) {
	tests := map[string]struct {
		limit    wire.RateLimit
		replicas int
		// burst passes at once, later passes one interval after that.
		burst, later int
	}{
		"all of it at once":                 {limit(10, 10, time.Second), 1, 10, 10},
		"a smaller burst":                   {limit(10, 3, time.Second), 1, 3, 3},
		"a larger burst":                    {limit(10, 25, time.Second), 1, 25, 10},
		"one of two proxies":                {limit(10, 10, time.Second), 2, 5, 5},
		"one of three proxies, in parts":    {limit(10, 10, time.Second), 3, 3, 3},
		"more proxies than requests":        {limit(2, 2, time.Second), 5, 1, 1},
		"one a day":                         {limit(1, 1, 24*time.Hour), 1, 1, 1},
		"more than a proxy could serve":     {limit(10_000_000, 1000, 100*time.Millisecond), 1, 1000, 1000},
		"a burst that takes ages to return": {limit(1, 10_000_000, 24*time.Hour), 1, 2000, 2000},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l := New([]wire.RateLimit{tc.limit}, nil, epoch)
			if got := passed(l, 0, tc.replicas, 2000, ""); got != tc.burst {
				t.Errorf("%d passed at once, want %d", got, tc.burst)
			}
			if got := passed(l, time.Duration(tc.limit.Interval), tc.replicas, 2000, ""); got != tc.later {
				t.Errorf("%d passed an interval later, want %d", got, tc.later)
			}
		})
	}
}

// TestNoWindowExceedsTheLimit sends requests at random times and looks at every window between two.
func TestNoWindowExceedsTheLimit(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 0))
		interval := time.Duration(1+random.IntN(1000)) * time.Millisecond
		requests, burst, replicas := 1+random.IntN(50), 1+random.IntN(50), 1+random.IntN(4)
		l := New([]wire.RateLimit{limit(requests, burst, interval)}, nil, epoch)
		var at []time.Duration
		now := time.Duration(0)
		for range 1500 {
			now += time.Duration(random.ExpFloat64() * float64(interval) / float64(requests) / 2)
			v := l.Take(epoch.Add(now), replicas, as(""))
			if len(v.Exceeded) == 0 {
				at = append(at, now)
				continue
			}
			// What is promised is true, and no earlier time would do.
			again := New(l.limits, l, epoch)
			if passed(again, now+v.Exceeded[0].Wait-1, replicas, 1, "") != 0 || passed(again, now+v.Exceeded[0].Wait, replicas, 1, "") != 1 {
				t.Fatalf("seed %d: a wait of %s is not the shortest that helps", seed, v.Exceeded[0].Wait)
			}
		}
		rate := max(float64(requests)/float64(replicas), 1) / float64(interval)
		for i := range at {
			for j := i; j < len(at); j++ {
				most := float64(max(1, burst/replicas)) + rate*float64(at[j]-at[i])*1.001 + 1e-6
				if got := float64(j - i + 1); got > most {
					t.Fatalf("seed %d: %v passed within %s, want at most %v", seed, got, at[j]-at[i], most)
				}
			}
		}
		if least := 0.6 * rate * float64(now); float64(len(at)) < min(least, 1000) {
			t.Errorf("seed %d: %d passed in %s, want at least %v: the load was twice the limit or more", seed, len(at), now, least)
		}
	}
}

func TestEachKeyHasItsOwn(t *testing.T) {
	l := New([]wire.RateLimit{limit(2, 2, time.Second, wire.RateLimitHeader)}, nil, epoch)
	for _, user := range []string{"ann", "bob", ""} {
		if got := passed(l, 0, 1, 5, user); got != 2 {
			t.Errorf("%d of user %q passed, want 2", got, user)
		}
	}
	split := New([]wire.RateLimit{limit(1, 1, time.Second, wire.RateLimitHeader, wire.RateLimitPath)}, nil, epoch)
	values := func(header, path string) func(wire.RateLimitKey) string {
		return func(k wire.RateLimitKey) string {
			if k.Type == wire.RateLimitHeader {
				return header
			}
			return path
		}
	}
	for _, pair := range [][2]string{{"a", "/b"}, {"a", "/c"}, {"a/", "b"}, {"", "a/b"}, {"a/b", ""}} {
		if v := split.Take(epoch, 1, values(pair[0], pair[1])); len(v.Exceeded) > 0 {
			t.Errorf("the first request of %q was refused", pair)
		}
	}
}

func TestRefusalsTakeNothing(t *testing.T) {
	l := New([]wire.RateLimit{limit(100, 100, time.Hour), limit(1, 1, time.Second)}, nil, epoch)
	total := 0
	for second := range 300 {
		total += passed(l, time.Duration(second)*time.Second, 1, 50, "")
	}
	// 100 at once and one each 36 s after that.
	if want := 100 + 300/36; total < want-1 || total > want {
		t.Errorf("%d passed in 300 s, want %d: refused requests must not use up the hour's", total, want)
	}
	v := l.Take(epoch.Add(299*time.Second), 1, as(""))
	if len(v.Exceeded) == 0 || v.Exceeded[0].Limit != 0 {
		t.Errorf("exceeded %v, want the first limit", v.Exceeded)
	}
}

// TestManyKeysAreBounded lets a client invent key values.
func TestManyKeysAreBounded(t *testing.T) {
	l := New([]wire.RateLimit{limit(10, 10, time.Hour, wire.RateLimitHeader)}, nil, epoch)
	if got := passed(l, 0, 1, 5, "early"); got != 5 {
		t.Fatalf("%d of the first client passed, want 5", got)
	}
	through, crowded := 0, 0
	for i := range 3 * MaxBuckets {
		v := l.Take(epoch, 1, as(strconv.Itoa(i)))
		if len(v.Exceeded) == 0 {
			through++
		}
		if v.Crowded {
			crowded++
		}
	}
	if got := len(l.meters[0].full); got != MaxBuckets {
		t.Errorf("%d buckets, want %d", got, MaxBuckets)
	}
	if want := MaxBuckets - 1 + 10; through != want || crowded != 2*MaxBuckets+1 {
		t.Errorf("%d passed and %d shared a bucket, want %d and %d", through, crowded, want, 2*MaxBuckets+1)
	}
	if got := passed(l, 0, 1, 10, "early"); got != 5 {
		t.Errorf("%d more of the first client passed, want the 5 that it had left", got)
	}
	// A token is back after six minutes; then the buckets of those who came once are of no use.
	later := 6*time.Minute + time.Second
	if v := l.Take(epoch.Add(later), 1, as("late")); v.Crowded || len(v.Exceeded) > 0 {
		t.Errorf("verdict %+v on a new client once there is room again", v)
	}
	if got := len(l.meters[0].full); got != 2 {
		t.Errorf("%d buckets are kept, want those of the first and the last client", got)
	}
}

func TestFullBucketsAreForgotten(t *testing.T) {
	l := New([]wire.RateLimit{limit(10, 10, time.Second, wire.RateLimitHeader)}, nil, epoch)
	for i := range 100_000 {
		_ = l.Take(epoch.Add(time.Duration(i)*time.Millisecond), 1, as(strconv.Itoa(i)))
		if got := len(l.meters[0].full); got > 512 {
			t.Fatalf("%d buckets are kept of 100 that are not full", got)
		}
	}
}

// TestRequestsAtOnce lets many requests take tokens of two limits while a successor is made.
func TestRequestsAtOnce(t *testing.T) {
	l := New([]wire.RateLimit{limit(1000, 1000, time.Hour, wire.RateLimitHeader), limit(300, 300, time.Hour)}, nil, epoch)
	var through atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 100 {
				through.Add(int64(passed(l, 0, 1, 1, strconv.Itoa(i))))
				_ = New(l.Limits(), l, epoch)
			}
		})
	}
	all.Wait()
	if got := through.Load(); got != 300 {
		t.Errorf("%d passed, want 300", got)
	}
}

func TestChangesKeepWhatStays(t *testing.T) {
	minute, hour := limit(10, 10, time.Minute, wire.RateLimitIdentity), limit(100, 100, time.Hour)
	before := New([]wire.RateLimit{minute, hour}, nil, epoch)
	passed(before, 0, 1, 10, "ann")
	tests := map[string]struct {
		limits []wire.RateLimit
		want   int
	}{
		"the same":             {[]wire.RateLimit{minute, hour}, 0},
		"in another order":     {[]wire.RateLimit{hour, minute}, 0},
		"without the other":    {[]wire.RateLimit{minute}, 0},
		"another burst":        {[]wire.RateLimit{limit(10, 5, time.Minute, wire.RateLimitIdentity)}, 5},
		"other keys":           {[]wire.RateLimit{limit(10, 10, time.Minute)}, 10},
		"the other alone":      {[]wire.RateLimit{hour}, 90},
		"the same limit twice": {[]wire.RateLimit{hour, hour}, 90},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			after := New(tc.limits, before, epoch.Add(time.Second))
			if got := passed(after, time.Second, 1, 200, "ann"); got != tc.want {
				t.Errorf("%d passed after the change, want %d", got, tc.want)
			}
		})
	}
	if got := passed(before, time.Second, 1, 200, "bob"); got != 10 {
		t.Errorf("%d passed what was before, want 10: a successor has its own state", got)
	}
}

func TestMoreReplicasTakeALargerShare(t *testing.T) {
	l := New([]wire.RateLimit{limit(100, 100, time.Second)}, nil, epoch)
	if got := passed(l, 0, 1, 50, ""); got != 50 {
		t.Fatalf("%d passed, want 50", got)
	}
	if got := passed(l, 0, 10, 50, ""); got != 5 {
		t.Errorf("%d passed as one of ten, want half of its part", got)
	}
	if got := passed(l, 10*time.Second, 10, 50, ""); got != 10 {
		t.Errorf("%d passed later, want 10", got)
	}
}

func TestFields(t *testing.T) {
	one := New([]wire.RateLimit{limit(100, 100, time.Minute)}, nil, epoch)
	several := New([]wire.RateLimit{limit(5, 5, time.Second), limit(50, 50, 1500*time.Millisecond), limit(1000, 1000, time.Hour)}, nil, epoch)
	tests := map[string]struct {
		limiter  *Limiter
		exceeded []Exceeded
		want     Fields
	}{
		"one limit": {one, []Exceeded{{0, 4200 * time.Millisecond}}, Fields{
			`"service";q=100;w=60`, `"service";r=0;t=5`, "5",
		}},
		"several": {several, []Exceeded{{0, time.Millisecond}, {2, 2 * time.Second}}, Fields{
			`"service-1";q=5;w=1, "service-2";q=50, "service-3";q=1000;w=3600`, `"service-1";r=0;t=1, "service-3";r=0;t=2`, "2",
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.limiter.Fields("service", tc.exceeded)); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	good := limit(1, 1, time.Second, wire.RateLimitIdentity, wire.RateLimitHeader, wire.RateLimitPath)
	if err := Check([]wire.RateLimit{good}); err != nil {
		t.Errorf("a good limit: %v", err)
	}
	for name, bad := range map[string]wire.RateLimit{
		"no requests":   limit(0, 1, time.Second),
		"no burst":      limit(1, 0, time.Second),
		"no interval":   limit(1, 1, 0),
		"unknown key":   limit(1, 1, time.Second, "Colour"),
		"header's name": {Requests: 1, Burst: 1, Interval: 1, Keys: []wire.RateLimitKey{{Type: wire.RateLimitHeader}}},
	} {
		if err := Check([]wire.RateLimit{good, bad}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkTake(b *testing.B) {
	l := New([]wire.RateLimit{limit(10_000_000, 10_000_000, time.Second, wire.RateLimitHeader)}, nil, epoch)
	b.ReportAllocs()
	for i := range b.N {
		_ = l.Take(epoch.Add(time.Duration(i)), 1, as("ann"))
	}
}
