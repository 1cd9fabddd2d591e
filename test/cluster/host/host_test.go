package host

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.dev/weft/test/cluster/config"
)

func TestNodeNetwork(t *testing.T) {
	c := config.Local()
	want := `ip netns add weft-node1
ip -n weft-node1 link set lo up
ip link add eth0 netns weft-node1 type veth peer name node1 netns weft-switch
ip -n weft-switch link set node1 master br0 up
ip -n weft-node1 addr add 10.250.0.11/24 dev eth0
ip -n weft-node1 addr add fd77:6566:7400::11/64 dev eth0 nodad
ip -n weft-node1 link set eth0 up
ip -n weft-node1 route add default via 10.250.0.1
ip -n weft-node1 route add default via fd77:6566:7400::1
ip -n weft-node1 link add cni0 address 02:77:65:66:74:01 type bridge mcast_snooping 0
ip -n weft-node1 addr add 10.244.16.1/20 dev cni0
ip -n weft-node1 addr add fd77:6566:7401:1::1/64 dev cni0 nodad
ip -n weft-node1 link set cni0 up
ip -n weft-node1 route add 10.244.32.0/20 via 10.250.0.12
ip -n weft-node1 route add fd77:6566:7401:2::/64 via fd77:6566:7400::12`
	if diff := cmp.Diff(want, join(createNodeNetwork(c, c.Nodes[0]))); diff != "" {
		t.Errorf("createNodeNetwork() (-want +got):\n%s", diff)
	}
}

func TestSwitchIsTheOnlyThingInTheMachinesOwnNetwork(t *testing.T) {
	for _, command := range createSwitch(config.Local()) {
		line := strings.Join(command, " ")
		if !strings.Contains(line, switchNS) && !strings.Contains(line, " "+hostLink) {
			t.Errorf("%q changes the machine's network beyond %s", line, hostLink)
		}
	}
}

func join(commands [][]string) string {
	lines := make([]string, 0, len(commands))
	for _, command := range commands {
		lines = append(lines, strings.Join(command, " "))
	}
	return strings.Join(lines, "\n")
}

func TestMountBelow(t *testing.T) {
	const mounts = `22 1 253:0 / / rw - ext4 /dev/vda rw
30 22 253:0 /a /var/lib/weft-cluster-other rw - ext4 /dev/vda rw
31 22 253:0 /b /data/node1/root/usr rw - ext4 /dev/vda rw
32 22 253:0 /b /run/exact rw - tmpfs none rw
`
	for name, tc := range map[string]struct {
		dir    string
		want   string
		wantOK bool
	}{
		"nothing":               {dir: "/var/lib/weft-cluster"},
		"deep below":            {dir: "/data", want: "/data/node1/root/usr", wantOK: true},
		"the directory itself":  {dir: "/run/exact", want: "/run/exact", wantOK: true},
		"a name that begins so": {dir: "/run/exac"},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := mountBelow(mounts, tc.dir)
			if got != tc.want || ok != tc.wantOK {
				t.Errorf("mountBelow(%q) = %q, %t, want %q, %t", tc.dir, got, ok, tc.want, tc.wantOK)
			}
		})
	}
}

func TestMachineIDsDiffer(t *testing.T) {
	first, second := machineID("boot", "node1"), machineID("boot", "node2")
	if first == second {
		t.Error("two nodes have one machine id")
	}
	if len(first) != 32 || strings.Trim(first, "0123456789abcdef") != "" {
		t.Errorf("machine id = %q, want 32 hexadecimal digits", first)
	}
}
