package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	for name, tc := range map[string]struct {
		mountinfo string
		want      []Hierarchy
	}{
		"version 1": {
			mountinfo: `32 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup none rw,cpu,cpuacct
33 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup none rw,memory
34 30 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup none rw,xattr,release_agent=/lib/agent,name=systemd
35 30 0:1 / / rw - ext4 /dev/vda rw
`,
			want: []Hierarchy{
				{Mount: "/sys/fs/cgroup/cpu,cpuacct", Options: "cpu,cpuacct"},
				{Mount: "/sys/fs/cgroup/memory", Options: "memory"},
				{Mount: "/sys/fs/cgroup/systemd", Options: "name=systemd"},
			},
		},
		"version 1 with an empty version 2 tree beside it": {
			mountinfo: `33 30 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup none rw,memory
34 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw
`,
			want: []Hierarchy{{Mount: "/sys/fs/cgroup/memory", Options: "memory"}},
		},
		"version 2": {
			mountinfo: `34 30 0:31 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 none rw,nsdelegate
`,
			want: []Hierarchy{{Mount: "/sys/fs/cgroup"}},
		},
		"version 2 with a named tree of version 1": {
			mountinfo: `34 30 0:31 / /sys/fs/cgroup rw,nosuid - cgroup2 none rw,nsdelegate
35 30 0:32 / /sys/fs/cgroup/systemd rw,relatime - cgroup none rw,name=systemd
`,
			want: []Hierarchy{{Mount: "/sys/fs/cgroup"}},
		},
		"none": {mountinfo: "35 30 0:1 / / rw - ext4 /dev/vda rw\nnonsense\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, parseMounts(tc.mountinfo)); diff != "" {
				t.Errorf("parseMounts() (-want +got):\n%s", diff)
			}
		})
	}
}

// The kernel's files are absent from these trees, but directories and lists of processes behave alike.
func TestProcessesAndRemoveReachEveryGroupBelow(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	hierarchies := []Hierarchy{{Mount: first, Options: "cpu"}, {Mount: second, Options: "memory"}}
	if err := Create(hierarchies, "weft/node1"); err != nil {
		t.Fatal(err)
	}
	if err := Create(hierarchies, "weft/node1"); err != nil {
		t.Errorf("Create() of a group that exists: %v", err)
	}
	lists := map[string]string{
		"weft":                  "",
		"weft/node1":            "30\n10\n",
		"weft/node1/kubepods":   "0\n",
		"weft/node1/kubepods/a": "20\n",
	}
	for group, processes := range lists {
		for _, mount := range []string{first, second} {
			dir := filepath.Join(mount, group)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(processes), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := Processes(hierarchies, "weft")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{10, 20, 30}, got); diff != "" {
		t.Errorf("Processes() (-want +got):\n%s", diff)
	}
	for group := range lists {
		for _, mount := range []string{first, second} {
			if err := os.Remove(filepath.Join(mount, group, "cgroup.procs")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := Remove(t.Context(), hierarchies, "weft"); err != nil {
		t.Fatal(err)
	}
	for _, mount := range []string{first, second} {
		if entries, err := os.ReadDir(mount); err != nil || len(entries) > 0 {
			t.Errorf("after Remove() %s has %v, %v", mount, entries, err)
		}
	}
	if err := Remove(t.Context(), hierarchies, "weft"); err != nil {
		t.Errorf("Remove() of a group that does not exist: %v", err)
	}
}
