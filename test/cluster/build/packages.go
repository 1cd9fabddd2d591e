package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// DebianPackages are what the cluster, the race detector and tests against servers of others need and Go modules
// cannot give, and what the pages of the documentation call. The iptables package is there for the portmap plugin.
var DebianPackages = []string{
	"runc", "containernetworking-plugins", "nftables", "iptables", "iproute2", "conntrack",
	"gcc", "libc6-dev", "ca-certificates", "nginx", "apache2-bin", "haproxy", "prometheus",
	"curl", "busybox-static",
}

// InstallPackages installs those of DebianPackages that are missing; it does not touch the network
// when there are none.
func InstallPackages(ctx context.Context, progress io.Writer) error {
	status, err := packageStatus(ctx, DebianPackages)
	if err != nil {
		return err
	}
	missing := missingPackages(DebianPackages, status)
	if len(missing) == 0 {
		return nil
	}
	fmt.Fprintf(progress, "installing %s ... ", strings.Join(missing, " "))
	for _, args := range [][]string{
		{"update", "-q"},
		append([]string{"install", "-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"}, missing...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if output, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintln(progress, "failed")
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, tail(output, 4000))
		}
	}
	fmt.Fprintln(progress, "done")
	return nil
}

// packageStatus returns dpkg-query's lines "name status". Its exit code is 1 when a name is unknown,
// which is an answer, not a failure.
func packageStatus(ctx context.Context, names []string) (string, error) {
	args := append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, names...)
	cmd := exec.CommandContext(ctx, "dpkg-query", args...)
	output, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		return "", fmt.Errorf("ask dpkg for installed packages: %w", err)
	}
	return string(output), nil
}

func missingPackages(names []string, status string) []string {
	installed := map[string]bool{}
	for line := range strings.Lines(status) {
		if name, state, ok := strings.Cut(strings.TrimSpace(line), " "); ok && state == "installed" {
			installed[name] = true
		}
	}
	var missing []string
	for _, name := range names {
		if !installed[name] {
			missing = append(missing, name)
		}
	}
	return missing
}
