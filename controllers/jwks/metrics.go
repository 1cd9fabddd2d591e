package jwks

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxMeasured bounds the key sets with series of their own: who writes policies names them. What is beyond is counted
// together, as others.
const (
	maxMeasured = 100
	others      = "_other"
)

var (
	readsDesc = prometheus.NewDesc("weft_jwks_reads_total",
		"Attempts to read the key set of an issuer of tokens, by where it is and outcome: success or failure. Known to the leader alone.",
		[]string{"source", "outcome"}, nil)
	readOKDesc = prometheus.NewDesc("weft_jwks_last_read_successful",
		"Whether the last attempt to read a key set succeeded (1) or not (0); then the keys that were read before stay in force. Known to the leader alone.",
		[]string{"source"}, nil)
	readAtDesc = prometheus.NewDesc("weft_jwks_last_success_timestamp_seconds",
		"When a key set was read last, as seconds since 1970; absent if this operator has not read it yet. Known to the leader alone.",
		[]string{"source"}, nil)
)

// reads counts the attempts to read a key set.
type reads struct {
	succeeded, failed float64
	// at is when it last succeeded, ok whether the last attempt did.
	at time.Time
	ok bool
}

// count counts an attempt to read a set, for itself or, if there are too many, for all others. k.mu is held.
func (k *Keeper) count(s *source, err error) {
	r := &k.rest
	if s.measured {
		r = &s.reads
	}
	if r.ok = err == nil; r.ok {
		r.succeeded, r.at = r.succeeded+1, time.Now()
	} else {
		r.failed++
	}
}

// measure gives a new set series of its own, if there is room. k.mu is held.
func (k *Keeper) measure(s *source) {
	measured := 0
	for _, other := range k.sources {
		if other.measured {
			measured++
		}
	}
	s.measured = measured < maxMeasured
}

// Describe implements prometheus.Collector.
func (k *Keeper) Describe(c chan<- *prometheus.Desc) { Describe(c) }

// Describe sends the descriptions of all metrics of a Keeper.
func Describe(c chan<- *prometheus.Desc) {
	c <- readsDesc
	c <- readOKDesc
	c <- readAtDesc
}

// Collect implements prometheus.Collector.
func (k *Keeper) Collect(c chan<- prometheus.Metric) {
	for name, r := range k.counted() {
		c <- prometheus.MustNewConstMetric(readsDesc, prometheus.CounterValue, r.succeeded, name, "success")
		c <- prometheus.MustNewConstMetric(readsDesc, prometheus.CounterValue, r.failed, name, "failure")
		ok := 0.0
		if r.ok {
			ok = 1
		}
		c <- prometheus.MustNewConstMetric(readOKDesc, prometheus.GaugeValue, ok, name)
		if !r.at.IsZero() {
			c <- prometheus.MustNewConstMetric(readAtDesc, prometheus.GaugeValue, float64(r.at.UnixNano())/1e9, name)
		}
	}
}

// counted returns what has been counted, of all sets that have been tried.
func (k *Keeper) counted() map[string]reads {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make(map[string]reads, len(k.sources))
	put := func(name string, r reads) {
		if r.succeeded+r.failed > 0 {
			out[name] = r
		}
	}
	for key, s := range k.sources {
		put(key.String(), s.reads)
	}
	put(others, k.rest)
	return out
}

var _ prometheus.Collector = (*Keeper)(nil)
