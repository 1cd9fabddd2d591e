package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"weft.dev/weft/test/cluster/cgroup"
	"weft.dev/weft/test/cluster/config"
	"weft.dev/weft/test/cluster/node"
	"weft.dev/weft/test/cluster/process"
)

// prepareNode makes the file system of node n, with its configuration and the mount points for what
// its first process will mount.
func prepareNode(n config.Node, files map[string]config.File, spec node.Spec) error {
	root := nodeRoot(n.Name)
	dirs := []string{
		"dev", "proc", "root", "run", "sys", "tmp", "usr",
		"etc/cni/net.d", "etc/nri/conf.d", "opt/nri/plugins",
		"var/lib/kubelet", "var/lib/containerd", "var/tmp",
	}
	for _, b := range spec.Binds {
		dirs = append(dirs, b.Target)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("make the file system of %s: %w", n.Name, err)
		}
	}
	for link, target := range map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			return fmt.Errorf("make the file system of %s: %w", n.Name, err)
		}
	}
	// Users, services and the dynamic linker's cache are the machine's, as its programs expect.
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "services", "protocols", "ld.so.cache", "os-release"} {
		content, err := os.ReadFile(filepath.Join("/etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the machine's configuration: %w", err)
		}
		files["/etc/"+name] = config.File{Content: content}
	}
	id, err := bootID()
	if err != nil {
		return err
	}
	files["/etc/machine-id"] = config.File{Content: []byte(machineID(id, n.Name) + "\n")}
	encoded, err := config.EncodeSpec(spec)
	if err != nil {
		return err
	}
	files[node.SpecFile] = config.File{Content: encoded}
	for path, file := range files {
		mode := fs.FileMode(0o644)
		if file.Secret {
			mode = 0o600
		}
		if err := writeFile(filepath.Join(root, path), file.Content, mode); err != nil {
			return err
		}
	}
	return writeFile(nodeSpec(n.Name), encoded, 0o644)
}

// startNode starts the first process of a prepared node in its control group and returns it. The
// process outlives this one.
func startNode(ctx context.Context, name, logs string) (process.Identity, error) {
	spec, err := os.Open(nodeSpec(name))
	if err != nil {
		return process.Identity{}, fmt.Errorf("open the description of %s: %w", name, err)
	}
	defer spec.Close() //nolint:errcheck // nothing was written
	log, err := os.OpenFile(filepath.Join(logs, "init.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return process.Identity{}, fmt.Errorf("open the log of %s: %w", name, err)
	}
	defer log.Close() //nolint:errcheck // the node has a descriptor of its own
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return process.Identity{}, err
	}
	if err := cgroup.Create(hierarchies, nodeControlGroup(name)); err != nil {
		return process.Identity{}, err
	}
	if err := ctx.Err(); err != nil {
		return process.Identity{}, err
	}
	// Not CommandContext: the end of this command is not the end of the node.
	cmd := exec.Command(initBinary())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = spec, log, log
	cmd.Env = []string{"PATH=" + node.Path}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Setsid:     true,
	}
	if err := cmd.Start(); err != nil {
		return process.Identity{}, fmt.Errorf("start %s: %w", name, err)
	}
	stat, err := process.Read(cmd.Process.Pid)
	if err != nil {
		return process.Identity{}, fmt.Errorf("start %s: %w", name, err)
	}
	// Collect it if it ends while this command still runs.
	go cmd.Wait() //nolint:errcheck // Alive is how the end of a node is seen
	return stat.Identity, nil
}

// killNode ends everything of a node at once: its first process, with which the kernel ends the whole
// process namespace, and whatever is left in its control group. Mounts and the pods' network
// namespaces go with the last process.
func killNode(ctx context.Context, name string, first process.Identity) error {
	if err := first.Kill(ctx); err != nil {
		return err
	}
	hierarchies, err := cgroup.Hierarchies()
	if err != nil {
		return err
	}
	return killGroup(ctx, hierarchies, nodeControlGroup(name))
}

// killGroup ends every process in a control group of ours: whoever is in there was started by a node,
// even when no record of the node is left.
func killGroup(ctx context.Context, hierarchies []cgroup.Hierarchy, name string) error {
	return poll(ctx, 20*time.Millisecond, func(ctx context.Context) error {
		pids, err := cgroup.Processes(hierarchies, name)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			stat, err := process.Read(pid)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := stat.Kill(ctx); err != nil {
				return err
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("control group %s still has processes %v", name, pids)
		}
		return nil
	})
}

// machineID derives an id of 32 hexadecimal digits, as machine-id(5) wants, that differs between nodes.
func machineID(boot, name string) string {
	sum := sha256.Sum256([]byte(boot + "/" + name))
	return hex.EncodeToString(sum[:16])
}
