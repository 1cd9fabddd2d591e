package main

import (
	"math"
	"slices"
	"time"
)

// outcome is what became of one request of an open loop.
type outcome struct {
	// at is when it was due, from the start of the load; took is from then to the end of its answer, or to
	// when it was given up.
	at, took time.Duration
	// status is that of the answer, or gaveUp or broke.
	status int
}

// dueBetween returns the outcomes of requests that were due from one time up to and without another.
func dueBetween(outcomes []outcome, from, to time.Duration) []outcome {
	var out []outcome
	for _, o := range outcomes {
		if o.at >= from && o.at < to {
			out = append(out, o)
		}
	}
	return out
}

// endedBetween returns the outcomes of requests that ended from one time up to and without another.
func endedBetween(outcomes []outcome, from, to time.Duration) []outcome {
	var out []outcome
	for _, o := range outcomes {
		if end := o.at + o.took; end >= from && end < to {
			out = append(out, o)
		}
	}
	return out
}

// withStatus returns those with this status.
func withStatus(outcomes []outcome, status int) []outcome {
	var out []outcome
	for _, o := range outcomes {
		if o.status == status {
			out = append(out, o)
		}
	}
	return out
}

// rate is a number over a time as something per second.
func rate(n int, over time.Duration) float64 { return float64(n) / over.Seconds() }

// percentage is the share that a part has of a whole, in percent; 0 of nothing.
func percentage(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return 100 * part / whole
}

// times returns how long each request took.
func times(outcomes []outcome) []time.Duration {
	out := make([]time.Duration, len(outcomes))
	for i, o := range outcomes {
		out[i] = o.took
	}
	return out
}

// quantile returns the smallest value that at least the share p of all does not exceed (nearest rank), and 0
// if there are none. values need no order.
func quantile(values []time.Duration, p float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// place returns the place of a value among all from the smallest, which has place 1. Equal ones share the
// worse place: none of them wins.
func place(values []float64, i int) int {
	n := 0
	for _, v := range values {
		if v <= values[i] {
			n++
		}
	}
	return n
}

// arrival is a request that has reached an instance.
type arrival struct {
	// at counts from the start of the load.
	at       time.Duration
	instance int
}

// share returns how much of the requests that arrived from one time up to another an instance had, in
// percent, and how many all instances had.
func share(arrivals []arrival, instance int, from, to time.Duration) (percent float64, all int) {
	own := 0
	for _, a := range arrivals {
		if a.at < from || a.at >= to {
			continue
		}
		all++
		if a.instance == instance {
			own++
		}
	}
	return percentage(float64(own), float64(all)), all
}

// regained returns how long after a time an instance has had at least some percent of the requests of a
// window that lies wholly after it, to a tenth of the window. It is false if that does not happen up to
// the end.
func regained(arrivals []arrival, instance int, least float64, after, end, window time.Duration) (time.Duration, bool) {
	for to := after + window; to <= end; to += window / 10 {
		if percent, all := share(arrivals, instance, to-window, to); all > 0 && percent >= least {
			return to - after, true
		}
	}
	return 0, false
}

// z999 bounds the middle 99.9% of a normal distribution.
const z999 = 3.2905267314919255

// interval is a range of shares between 0 and 1, its ends included.
type interval struct{ low, high float64 }

// holds tells whether a share is in the interval.
func (i interval) holds(share float64) bool { return i.low <= share && share <= i.high }

// wilson returns the score interval of a binomial proportion (E. B. Wilson 1927, "Probable inference, the
// law of succession, and statistical inference"): the true shares with which hits of n are within z
// standard deviations of what is expected. Without observations every share is possible.
func wilson(hits, n int, z float64) interval {
	if n == 0 {
		return interval{0, 1}
	}
	total, p := float64(n), float64(hits)/float64(n)
	scale := 1 + z*z/total
	centre := (p + z*z/(2*total)) / scale
	half := z / scale * math.Sqrt(p*(1-p)/total+z*z/(4*total*total))
	return interval{max(0, centre-half), min(1, centre+half)}
}
