package kernel

import (
	"fmt"
	"time"

	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Path returns a path under which this process can open the namespace once more.
func (n *Netns) Path() string { return fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()) }

// SetLifetime shortens how long capture outlives a refresh.
func (n *Netns) SetLifetime(lifetime time.Duration) { n.lifetime = lifetime }

// CannotDestroy makes it as on a kernel without CONFIG_INET_DIAG_DESTROY.
func (n *Netns) CannotDestroy() {
	n.destroy = func(*mdlayher.Conn, *netlink.Socket) error { return unix.EOPNOTSUPP }
}
