package h2

import "sync"

// mostResting bounds the goroutines that wait for an exchange.
const mostResting = 128

// crew are the goroutines that answer requests. Some of them wait for the next one, with a stack that has grown as far as
// an exchange needs.
type crew struct {
	mu      sync.Mutex
	resting []chan *Stream
	// conns is how many connections there are. Without one there is nothing to wait for.
	conns int
}

// give has an exchange run: by the goroutine that has rested the shortest, or by another one.
func (c *crew) give(s *Stream) {
	c.mu.Lock()
	n := len(c.resting)
	if n == 0 {
		c.mu.Unlock()
		go c.work(s)
		return
	}
	next := c.resting[n-1]
	c.resting = c.resting[:n-1]
	c.mu.Unlock()
	next <- s
}

// work runs one exchange after the other.
func (c *crew) work(s *Stream) {
	next := make(chan *Stream, 1)
	for ; s != nil; s = <-next {
		s.run()
		c.mu.Lock()
		if c.conns == 0 || len(c.resting) == mostResting {
			c.mu.Unlock()
			return
		}
		c.resting = append(c.resting, next)
		c.mu.Unlock()
	}
}

// expect tells that there are more connections, or fewer.
func (c *crew) expect(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns += more; c.conns > 0 {
		return
	}
	for i, next := range c.resting {
		next <- nil
		c.resting[i] = nil
	}
	c.resting = c.resting[:0]
}
