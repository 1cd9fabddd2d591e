package kernel

import (
	"fmt"
	"time"
)

// Path returns a path under which this process can open the namespace once more.
func (n *Netns) Path() string { return fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()) }

// SetLifetime shortens how long capture outlives a refresh.
func (n *Netns) SetLifetime(lifetime time.Duration) { n.lifetime = lifetime }
