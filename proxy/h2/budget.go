package h2

import "time"

// budget is a bucket of tokens. What a peer sends takes some, what is useful gives some back, and time does.
type budget struct {
	most, perSecond float64
	left            float64
	filled          time.Time
}

func newBudget(most, perSecond float64) budget {
	return budget{most: most, perSecond: perSecond, left: most, filled: time.Now()}
}

// take tells whether n tokens were left. The clock is looked at only when there are none.
func (b *budget) take(n float64) bool {
	if b.left >= n {
		b.left -= n
		return true
	}
	now := time.Now()
	b.left = min(b.most, b.left+b.perSecond*now.Sub(b.filled).Seconds())
	b.filled = now
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

// give gives n tokens back.
func (b *budget) give(n float64) { b.left = min(b.most, b.left+n) }
