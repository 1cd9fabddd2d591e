// Package nri connects the node agent to a container runtime by the Node Resource Interface: the
// runtime calls it when a sandbox has its network and no container has started, and lists all running
// sandboxes when it connects. It translates and nothing else; it never fails or changes a pod.
package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"weft.dev/weft/proxy/capture"
)

// The plugin's name and its place among the plugins of a node. Plugins that change the network come
// before it.
const (
	pluginName  = "weft"
	pluginIndex = "90"
)

// Agent is told of sandboxes; capture.Agent implements it.
type Agent interface {
	Start(ctx context.Context, sandbox capture.Sandbox)
	Stop(id string)
	Synchronize(sandboxes []capture.Sandbox)
}

// Run registers with the runtime at the socket and relays its events until ctx ends or the connection
// is lost. The error says why; connected tells whether the runtime had accepted the plugin.
func Run(ctx context.Context, socket string, agent Agent, log *slog.Logger) (connected bool, err error) {
	lost := make(chan struct{})
	client, err := stub.New(&plugin{agent: agent},
		stub.WithPluginName(pluginName), stub.WithPluginIdx(pluginIndex), stub.WithSocketPath(socket),
		stub.WithLogger(logger{log}), stub.WithOnClose(sync.OnceFunc(func() { close(lost) })))
	if err != nil {
		return false, fmt.Errorf("NRI plugin: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return false, fmt.Errorf("NRI plugin: %w", err)
	}
	select {
	case <-lost:
		return true, errors.New("NRI plugin: the runtime closed the connection")
	case <-ctx.Done():
		client.Stop()
		return true, fmt.Errorf("NRI plugin: %w", context.Cause(ctx))
	}
}

// plugin implements the handlers that it subscribes to by having them.
type plugin struct{ agent Agent }

// RunPodSandbox is called before the first container of the pod; the pod waits for it.
func (p *plugin) RunPodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	p.agent.Start(ctx, sandbox(pod, time.Time{}))
	return nil
}

// StopPodSandbox is called when all containers have ended and before the network is taken down.
func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.agent.Stop(pod.GetId())
	return nil
}

// RemovePodSandbox is called also for sandboxes that failed to start and were never stopped.
func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.agent.Stop(pod.GetId())
	return nil
}

// Synchronize is called once after every registration.
func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	started := map[string]time.Time{}
	for _, c := range containers {
		at := time.Unix(0, c.GetStartedAt())
		if c.GetStartedAt() <= 0 {
			// A runtime that does not tell when it started tells when it was made.
			at = time.Unix(0, c.GetCreatedAt())
		}
		if first, ok := started[c.GetPodSandboxId()]; !ok || at.Before(first) {
			started[c.GetPodSandboxId()] = at
		}
	}
	sandboxes := make([]capture.Sandbox, 0, len(pods))
	for _, pod := range pods {
		s := sandbox(pod, started[pod.GetId()])
		if s.Netns == "" && (pod.GetPid() == 0 || len(s.Addresses) > 0) {
			// It has ended: of a pod with addresses of its own, only the network is gone.
			continue
		}
		sandboxes = append(sandboxes, s)
	}
	p.agent.Synchronize(sandboxes)
	return nil, nil
}

func sandbox(pod *api.PodSandbox, started time.Time) capture.Sandbox {
	s := capture.Sandbox{
		ID: pod.GetId(), UID: pod.GetUid(), Namespace: pod.GetNamespace(), Name: pod.GetName(),
		Labels: pod.GetLabels(), Started: started,
	}
	for _, text := range pod.GetIps() {
		if address, err := netip.ParseAddr(text); err == nil {
			s.Addresses = append(s.Addresses, address)
		}
	}
	for _, namespace := range pod.GetLinux().GetNamespaces() {
		if namespace.GetType() != "network" {
			continue
		}
		s.Netns = namespace.GetPath()
		if s.Netns == "" && pod.GetPid() != 0 {
			s.Netns = fmt.Sprintf("/proc/%d/ns/net", pod.GetPid())
		}
	}
	return s
}

// logger writes what the library says at debug level: what matters is in the errors it returns.
type logger struct{ log *slog.Logger }

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, args...))
}
func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, args...))
}
func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.log.WarnContext(ctx, fmt.Sprintf(format, args...))
}
func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.log.ErrorContext(ctx, fmt.Sprintf(format, args...))
}
