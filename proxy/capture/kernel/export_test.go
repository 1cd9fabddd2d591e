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

// Tables names all tables of the namespace, whoever made them.
func (n *Netns) Tables() ([]string, error) {
	conn, err := n.nftables()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	tables, err := conn.ListTables()
	var names []string
	for _, table := range tables {
		names = append(names, fmt.Sprint(table.Family, " ", table.Name))
	}
	return names, err
}
