package upstream

import "time"

// slowStartGrain is the resolution of shares, and leastShare the share that a member begins with: with none
// at all, a group whose other members are few would leave them all the load for most of the window.
const (
	slowStartGrain = 1024
	leastShare     = slowStartGrain / 10
)

// admits tells whether slow start lets a member be considered now: always once its window is over, before
// with a probability that grows linearly with its age from a tenth. A strategy that meets a member which is
// not admitted considers another one, and takes it after all when there is no other. So the member's share
// of the requests grows with its age whatever the algorithm is. Of two choices the idle one wins, which a
// member in slow start often is, so that there it may get twice its part, and no more. (Raising its cost
// instead would keep it from all requests of a Service with little to do, until the window is nearly over.)
//
// Members that were there from the start of the group are all equally new and at full share at once.
func (c *choice) admits(m *member) bool {
	window := c.group.slowStart
	if window == 0 {
		return true
	}
	since := m.since
	if restarted := m.restarted.Load(); restarted > 0 {
		since = max(since, time.Duration(restarted))
	}
	age := c.now - since
	if age >= window {
		return true
	}
	share := max(int(slowStartGrain*float64(age)/float64(window)), leastShare)
	return c.set.options.Random(slowStartGrain) < share
}

// restart makes the endpoint come to its full share slowly once more, where slow start is on. It is called
// when an ejection ends.
func (e *endpoint) restart(now time.Duration) { e.restarted.Store(max(1, int64(now))) }
