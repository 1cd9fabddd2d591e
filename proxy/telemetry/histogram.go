package telemetry

import (
	"math"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"weft.dev/weft/proxy/trace"
)

// durationBuckets are those that OpenTelemetry advises for http.server.request.duration, with two
// finer ones in front, since calls inside a cluster often end within 5 ms.
var durationBuckets = [...]float64{
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
}

// histogramSeries counts the buckets, the one without bound, the sum and the count.
const histogramSeries = len(durationBuckets) + 3

// Native histograms have the buckets of schema 3, eight to a power of two, so that a quantile is off by 4.5 % at
// most. They are kept for durations from about a microsecond to a day and a half; what is outside counts at the edge.
const (
	nativeSchema  = 3
	perOctave     = 1 << nativeSchema
	lowestOctave  = -20
	highestOctave = 17
)

// octaveBounds are the bounds of the buckets between a half and one; frexp leaves numbers from there.
var octaveBounds = func() (bounds [perOctave]float64) {
	for i := range bounds {
		bounds[i] = math.Exp2(float64(i)/perOctave - 1)
	}
	return bounds
}()

// exemplarAge is how old an exemplar becomes before another one takes its place, so that there is little to store.
const exemplarAge = 10 * time.Second

// histogram counts durations in fixed buckets and in those of a native histogram. Nothing is allocated for what has
// been counted before. The zero value is ready for use; it is safe for concurrent use.
type histogram struct {
	// fixed counts by durationBuckets, not cumulatively; the last is what is above.
	fixed [len(durationBuckets) + 1]atomic.Uint64
	// octaves count by powers of two and come into being with their first use.
	octaves [highestOctave - lowestOctave + 1]atomic.Pointer[[perOctave]atomic.Uint64]
	nanos   atomic.Int64
	// exemplars are by fixed bucket, nil until there is one.
	exemplars atomic.Pointer[[len(durationBuckets) + 1]atomic.Pointer[exemplar]]
}

// exemplar is one request of a bucket.
type exemplar struct {
	took  time.Duration
	trace trace.ID
	at    time.Time
}

// observe counts a duration. The trace that it happened in, if there is one, may become the example of its bucket.
func (h *histogram) observe(took time.Duration, in trace.ID) {
	took = max(took, 1)
	seconds := took.Seconds()
	octave, bucket := nativeBucket(seconds)
	counts := h.octaves[octave].Load()
	if counts == nil {
		h.octaves[octave].CompareAndSwap(nil, new([perOctave]atomic.Uint64))
		counts = h.octaves[octave].Load()
	}
	fixed := 0
	for fixed < len(durationBuckets) && seconds > durationBuckets[fixed] {
		fixed++
	}
	// The order matters to write.
	counts[bucket].Add(1)
	h.fixed[fixed].Add(1)
	h.nanos.Add(int64(took))
	if in != (trace.ID{}) {
		h.exemplify(fixed, took, in)
	}
}

func (h *histogram) exemplify(fixed int, took time.Duration, in trace.ID) {
	all := h.exemplars.Load()
	if all == nil {
		h.exemplars.CompareAndSwap(nil, new([len(durationBuckets) + 1]atomic.Pointer[exemplar]))
		all = h.exemplars.Load()
	}
	now := time.Now()
	if was := all[fixed].Load(); was == nil || now.Sub(was.at) >= exemplarAge {
		all[fixed].Store(&exemplar{took, in, now})
	}
}

// nativeBucket returns where a duration counts: the power of two, from the lowest, and the bucket within.
func nativeBucket(seconds float64) (octave, bucket int) {
	fraction, exponent := math.Frexp(seconds)
	// A bucket includes its upper bound, and a power of two ends the octave before.
	bucket = -1
	for _, bound := range octaveBounds {
		if fraction <= bound {
			break
		}
		bucket++
	}
	octave = exponent - 1 - lowestOctave
	if bucket < 0 {
		octave, bucket = octave-1, perOctave-1
	}
	switch {
	case octave < 0:
		return 0, 0
	case octave > highestOctave-lowestOctave:
		return highestOctave - lowestOctave, perOctave - 1
	}
	return octave, bucket
}

// count is how many durations there are.
func (h *histogram) count() (n uint64) {
	for i := range h.fixed {
		n += h.fixed[i].Load()
	}
	return n
}

// write returns the histogram in both forms. What is counted meanwhile is in its native bucket before it is in the
// fixed one, so that the total, which must be that of the native buckets, is never less than that of the fixed ones:
// the difference is for a moment above the highest bound.
func (h *histogram) write() *dto.Histogram {
	out := &dto.Histogram{
		SampleSum: proto.Float64(time.Duration(h.nanos.Load()).Seconds()),
		Bucket:    make([]*dto.Bucket, 0, len(durationBuckets)+1),
		Schema:    proto.Int32(nativeSchema), ZeroThreshold: proto.Float64(0), ZeroCount: proto.Uint64(0),
	}
	exemplars := h.exemplars.Load()
	cumulative := uint64(0)
	for i, bound := range durationBuckets {
		cumulative += h.fixed[i].Load()
		b := &dto.Bucket{UpperBound: proto.Float64(bound), CumulativeCount: proto.Uint64(cumulative)}
		if exemplars != nil {
			b.Exemplar = exemplars[i].Load().write()
		}
		out.Bucket = append(out.Bucket, b)
	}
	out.SampleCount = proto.Uint64(h.writeNative(out))
	if exemplars != nil {
		// The bucket without bound is written only for the sake of its example.
		if e := exemplars[len(durationBuckets)].Load(); e != nil {
			out.Bucket = append(out.Bucket, &dto.Bucket{
				UpperBound: proto.Float64(math.Inf(1)), CumulativeCount: out.SampleCount, Exemplar: e.write(),
			})
		}
	}
	return out
}

// writeNative adds the native buckets as spans and differences, and returns their total.
func (h *histogram) writeNative(out *dto.Histogram) (total uint64) {
	const none = math.MinInt32
	last, before := int32(none), int64(0)
	for octave := range h.octaves {
		counts := h.octaves[octave].Load()
		if counts == nil {
			continue
		}
		for bucket := range counts {
			n := counts[bucket].Load()
			if n == 0 {
				continue
			}
			total += n
			// Bucket k of schema 3 ends at 2^(k/8).
			index := int32((octave+lowestOctave)*perOctave + bucket + 1)
			switch {
			case last == none:
				out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: proto.Int32(index), Length: proto.Uint32(1)})
			case index == last+1:
				span := out.PositiveSpan[len(out.PositiveSpan)-1]
				span.Length = proto.Uint32(span.GetLength() + 1)
			default:
				out.PositiveSpan = append(out.PositiveSpan, &dto.BucketSpan{Offset: proto.Int32(index - last - 1), Length: proto.Uint32(1)})
			}
			out.PositiveDelta = append(out.PositiveDelta, int64(n)-before)
			last, before = index, int64(n)
		}
	}
	if last == none {
		// This is how a native histogram without observations is told from one that is none.
		out.PositiveSpan = []*dto.BucketSpan{{Offset: proto.Int32(0), Length: proto.Uint32(0)}}
	}
	return total
}

func (e *exemplar) write() *dto.Exemplar {
	if e == nil {
		return nil
	}
	return &dto.Exemplar{
		Label:     []*dto.LabelPair{{Name: proto.String("trace_id"), Value: proto.String(e.trace.String())}},
		Value:     proto.Float64(e.took.Seconds()),
		Timestamp: timestamppb.New(e.at),
	}
}
