package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimev1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"weft.dev/weft/proxy/capture"
)

// cri lists the sandboxes of a container runtime.
type cri struct {
	conn   *grpc.ClientConn
	client runtimev1.RuntimeServiceClient
	// known holds what has been asked once for each sandbox.
	known map[string]capture.Sandbox
}

// newCRI prepares a client; it connects when it is used.
func newCRI(socket string) (*cri, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("CRI: %w", err)
	}
	return &cri{conn: conn, client: runtimev1.NewRuntimeServiceClient(conn), known: map[string]capture.Sandbox{}}, nil
}

func (c *cri) close() error { return c.conn.Close() }

// sandboxes returns the sandboxes that are ready.
func (c *cri) sandboxes(ctx context.Context) ([]capture.Sandbox, error) {
	list, err := c.client.ListPodSandbox(ctx, &runtimev1.ListPodSandboxRequest{Filter: &runtimev1.PodSandboxFilter{
		State: &runtimev1.PodSandboxStateValue{State: runtimev1.PodSandboxState_SANDBOX_READY},
	}})
	if err != nil {
		return nil, fmt.Errorf("CRI: list sandboxes: %w", err)
	}
	known := map[string]capture.Sandbox{}
	var out []capture.Sandbox
	for _, item := range list.GetItems() {
		sandbox, ok := c.known[item.GetId()]
		if !ok {
			if sandbox, ok = c.sandbox(ctx, item); !ok {
				continue
			}
		}
		known[item.GetId()] = sandbox
		out = append(out, sandbox)
	}
	c.known = known
	return out, nil
}

// sandbox asks for what a list does not hold; not ok means that the sandbox has gone meanwhile.
func (c *cri) sandbox(ctx context.Context, item *runtimev1.PodSandbox) (sandbox capture.Sandbox, ok bool) {
	answer, err := c.client.PodSandboxStatus(ctx, &runtimev1.PodSandboxStatusRequest{PodSandboxId: item.GetId(), Verbose: true})
	if err != nil {
		return capture.Sandbox{}, false
	}
	status := answer.GetStatus()
	sandbox = capture.Sandbox{
		ID: item.GetId(), UID: item.GetMetadata().GetUid(),
		Namespace: item.GetMetadata().GetNamespace(), Name: item.GetMetadata().GetName(),
		Labels: item.GetLabels(),
		// Its containers may have started at any time since.
		Started: time.Unix(0, item.GetCreatedAt()),
	}
	if status.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimev1.NamespaceMode_NODE {
		return sandbox, true
	}
	texts := []string{status.GetNetwork().GetIp()}
	for _, more := range status.GetNetwork().GetAdditionalIps() {
		texts = append(texts, more.GetIp())
	}
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil {
			sandbox.Addresses = append(sandbox.Addresses, address)
		}
	}
	sandbox.Netns = netnsPath(answer.GetInfo()["info"])
	return sandbox, sandbox.Netns != ""
}

// netnsPath finds the network namespace in the details that containerd and CRI-O give as JSON.
func netnsPath(details string) string {
	var info struct {
		Pid         int `json:"pid"`
		RuntimeSpec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string } `json:"namespaces"`
			} `json:"linux"`
		} `json:"runtimeSpec"`
	}
	if json.Unmarshal([]byte(details), &info) != nil {
		return ""
	}
	for _, namespace := range info.RuntimeSpec.Linux.Namespaces {
		if namespace.Type == "network" && namespace.Path != "" {
			return namespace.Path
		}
	}
	if info.Pid == 0 {
		return ""
	}
	return fmt.Sprintf("/proc/%d/ns/net", info.Pid)
}
