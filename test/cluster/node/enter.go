package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"weft.dev/weft/test/cluster/cgroup"
)

// Enter makes the calling process the first process of the node that spec describes. The process must
// have been started with mount, process, host name and IPC namespaces of its own. On success it does
// not return: the process becomes argv inside the node.
func Enter(spec Spec, argv []string) error {
	// Network and control group namespaces belong to a thread until exec makes it the whole process.
	runtime.LockOSThread()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("detach from the machine's mounts: %w", err)
	}
	if err := joinNamespaces(spec); err != nil {
		return err
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	if err := cgroup.Join(hierarchies, spec.ControlGroup); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a control group namespace: %w", err)
	}
	if err := mountAll(spec, hierarchies); err != nil {
		return err
	}
	if err := changeRoot(spec.Root); err != nil {
		return err
	}
	if err := settle(spec, hierarchies); err != nil {
		return err
	}
	env := []string{"PATH=" + Path, "HOME=/root"}
	return fmt.Errorf("start inside the node: %w", unix.Exec("/proc/self/exe", argv, env))
}

func joinNamespaces(spec Spec) error {
	fd, err := unix.Open(spec.NetworkNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the network namespace: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	return nil
}

// kernelTunables are machine-wide settings that a kubelet insists on. A node gets files of its own in
// their place, which already hold the value: the machine's settings stay as they are.
var kernelTunables = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

func mountAll(spec Spec, hierarchies []cgroup.Hierarchy) error {
	in := func(path string) string { return filepath.Join(spec.Root, path) }
	type mount struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}
	mounts := []mount{
		{spec.Root, spec.Root, "", unix.MS_BIND, ""},
		{"proc", in("proc"), "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		// Mounted after the network namespace was entered, so that it shows the node's interfaces.
		{"sysfs", in("sys"), "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"/dev", in("dev"), "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", in("run"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", in("tmp"), "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	if len(hierarchies) == 1 && hierarchies[0].Unified() {
		mounts = append(mounts, mount{"cgroup2", in("sys/fs/cgroup"), "cgroup2", 0, ""})
	} else {
		mounts = append(mounts, mount{"tmpfs", in("sys/fs/cgroup"), "tmpfs", 0, "mode=0755"})
		for _, h := range hierarchies {
			mounts = append(mounts, mount{"cgroup", in("sys/fs/cgroup/" + filepath.Base(h.Mount)), "cgroup", 0, h.Options})
		}
	}
	for _, b := range spec.Binds {
		mounts = append(mounts, mount{b.Source, in(b.Target), "", unix.MS_BIND | unix.MS_REC, ""})
		if b.ReadOnly {
			mounts = append(mounts, mount{"", in(b.Target), "", unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY, ""})
		}
	}
	for _, m := range mounts {
		if m.kind == "cgroup" {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return fmt.Errorf("create a mount point: %w", err)
			}
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return hideKernelTunables(spec.Root)
}

func hideKernelTunables(root string) error {
	for name, value := range kernelTunables {
		file := filepath.Join(root, "run/sysctl", strings.ReplaceAll(name, "/", "."))
		setting := filepath.Join(root, "proc/sys", name)
		if _, err := os.Stat(setting); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("hide kernel settings: %w", err)
		}
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return fmt.Errorf("hide kernel settings: %w", err)
		}
		if err := unix.Mount(file, setting, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide kernel setting %s: %w", name, err)
		}
	}
	return nil
}

func changeRoot(root string) error {
	if err := os.Chdir(root); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	// With both arguments ".", the old root ends up mounted over the new one and is detached from
	// there: no directory for it is needed (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	// Volumes that propagate mounts need the node's tree to be shared, as it is on a real node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the node's mounts: %w", err)
	}
	return nil
}

// settle does what a booting machine does: kernel settings, and a place for its programs that leaves
// the root of a version 2 tree empty, as that version wants of a group with controllers below it.
func settle(spec Spec, hierarchies []cgroup.Hierarchy) error {
	for name, value := range spec.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if !hierarchies[0].Unified() {
		return nil
	}
	const services = "/sys/fs/cgroup/services"
	if err := os.Mkdir(services, 0o755); err != nil {
		return fmt.Errorf("create the services' control group: %w", err)
	}
	if err := os.WriteFile(services+"/cgroup.procs", []byte("0"), 0o644); err != nil {
		return fmt.Errorf("join the services' control group: %w", err)
	}
	return cgroup.EnableControllers("/sys/fs/cgroup")
}
