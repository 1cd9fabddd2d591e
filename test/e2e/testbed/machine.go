package testbed

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"k8s.io/apimachinery/pkg/types"
)

// Kill ends all processes of a pod's containers at once, as a kernel that is out of memory would. The
// cluster runs on this machine, so they are found among its processes.
func Kill(pod types.UID) error {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return fmt.Errorf("processes: %w", err)
	}
	killed := 0
	for _, file := range files {
		dir := filepath.Dir(file)
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte("pod"+string(pod))) {
			continue // it has ended, or is another's
		}
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || bytes.Contains(command, []byte("pause")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			killed++
		}
	}
	if killed == 0 {
		return errors.New("the pod has no processes on this machine")
	}
	return nil
}

// ReuseAddresses has the address plugin of a node of the local cluster give the next pod these
// addresses, if they are free by then: it continues after the last that it remembers.
func ReuseAddresses(node string, addresses []netip.Addr) error {
	for _, a := range addresses {
		family := "0"
		if a.Is6() {
			family = "1"
		}
		file := filepath.Join("/var/lib/weft-cluster", node, "root/var/lib/cni/networks", "weft-"+node, "last_reserved_ip."+family)
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("addresses of %s: %w", node, err)
		}
		if err := os.WriteFile(file, []byte(a.Prev().String()), 0o600); err != nil {
			return fmt.Errorf("addresses of %s: %w", node, err)
		}
	}
	return nil
}

// Tables names the nftables tables of Weft in the network namespace of a pod that runs on this machine.
func Tables(pod types.UID) ([]string, error) {
	pid, err := process(pod)
	if err != nil {
		return nil, err
	}
	return tables(fmt.Sprintf("/proc/%d/ns/net", pid))
}

// EveryTable names the nftables tables of Weft in the network namespaces of all nodes of the local cluster and of all
// pods on them, and how many of those there are.
func EveryTable() (names []string, namespaces int, err error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return nil, 0, fmt.Errorf("processes: %w", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte("/weft-cluster/")) {
			continue // it has ended, or is another's
		}
		path := filepath.Join(filepath.Dir(file), "ns", "net")
		namespace, err := os.Readlink(path)
		if err != nil || seen[namespace] {
			continue
		}
		found, err := tables(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, 0, err
		}
		seen[namespace] = true
		names = append(names, found...)
	}
	return names, len(seen), nil
}

// tables names those of Weft in a network namespace.
func tables(namespace string) ([]string, error) {
	file, err := os.Open(namespace)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer func() { _ = file.Close() }()
	conn, err := nftables.New(nftables.WithNetNSFd(int(file.Fd())))
	if err != nil {
		return nil, fmt.Errorf("netfilter socket: %w", err)
	}
	all, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	var names []string
	for _, table := range all {
		if strings.HasPrefix(table.Name, "weft") {
			names = append(names, table.Name)
		}
	}
	return names, nil
}

// process finds a process of a pod.
func process(pod types.UID) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, fmt.Errorf("processes: %w", err)
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte("pod"+string(pod))) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			return pid, nil
		}
	}
	return 0, errors.New("the pod has no processes on this machine")
}
