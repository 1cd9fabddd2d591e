package main

import (
	"context"
	"log/slog"
	"time"

	"weft.dev/weft/proxy/capture/nri"
)

const (
	// reconnectInterval is how long a runtime without NRI, or one that restarts, is left alone.
	reconnectInterval = time.Second
	// pollInterval bounds, without NRI, how long a pod can run before it is seen.
	pollInterval = 250 * time.Millisecond
)

// runtime follows the container runtime of the node.
type runtime struct {
	nriSocket string
	cri       *cri // nil when disabled
	agent     nri.Agent
	log       *slog.Logger
}

// run stays registered by NRI until ctx ends. While that is not possible, it looks through CRI.
func (r *runtime) run(ctx context.Context) {
	// What repeats in every interval is said once.
	var said string
	say := func(message string, err error) {
		if text := message + err.Error(); text != said && ctx.Err() == nil {
			said = text
			r.log.Warn(message, "error", err)
		}
	}
	for ctx.Err() == nil {
		connected, err := nri.Run(ctx, r.nriSocket, r.agent, r.log)
		if connected {
			said = ""
			say("the container runtime is lost", err)
			select {
			case <-ctx.Done():
			case <-time.After(pollInterval):
			}
			continue
		}
		say("pods cannot be captured before they start", err)
		if err := r.poll(ctx); err != nil {
			say("pods cannot be listed", err)
		}
	}
}

// poll looks for pods through CRI for a reconnectInterval.
func (r *runtime) poll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reconnectInterval)
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var failed error
	for {
		if r.cri != nil {
			sandboxes, err := r.cri.sandboxes(ctx)
			if err == nil {
				r.agent.Synchronize(sandboxes)
			} else if ctx.Err() == nil {
				failed = err
			}
		}
		select {
		case <-ctx.Done():
			return failed
		case <-ticker.C:
		}
	}
}
