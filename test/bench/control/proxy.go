package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"weft.dev/weft/proxy/wire"
)

// measured is how many routes change while it is measured.
const measured = 16

func serviceName(i int) string { return "svc-" + strconv.Itoa(i) }

// report is what the proxy's process says of one thing that is in force: which resource, what it says, and since
// when.
type report struct {
	kind, key, value string
	at               int64
}

// proxy is the process of the proxy as the command sees it.
type proxy struct {
	process *process

	mu        sync.Mutex
	connected int
	resources int
	reports   chan report
}

func newProxy(binary, files, operator string) (*proxy, error) {
	var keys []string
	for i := range measured {
		keys = append(keys, wire.ServicePortKey(namespace, serviceName(i), 80))
	}
	cmd := exec.Command(binary, "-files", files, "-operator", operator, "-namespace", namespace, "-keys", strings.Join(keys, ","))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("output of the proxy: %w", err)
	}
	p := &proxy{reports: make(chan report, 1<<16)}
	if p.process, err = start(cmd, filepath.Join(files, "proxy.log")); err != nil {
		return nil, err
	}
	go p.read(out)
	return p, nil
}

func (p *proxy) read(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 4 {
			continue
		}
		at, err := strconv.ParseInt(fields[3], 10, 64)
		if err != nil {
			continue
		}
		p.mu.Lock()
		switch fields[0] {
		case "connection":
			p.connected++
		case "delta":
			upserted, _ := strconv.Atoi(fields[1]) // it is a number
			removed, _ := strconv.Atoi(fields[2])
			p.resources += upserted + removed
		default:
			select {
			case p.reports <- report{fields[0], fields[1], fields[2], at}:
			default: // nobody waits for it
			}
		}
		p.mu.Unlock()
	}
}

func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected
}

// received returns how many resources have come or been removed.
func (p *proxy) received() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.resources
}

// drain forgets the reports that have come.
func (p *proxy) drain() {
	for {
		select {
		case <-p.reports:
		default:
			return
		}
	}
}

var errNoEffect = errors.New("no effect in time")

// await returns when a change was in force.
func (p *proxy) await(ctx context.Context, kind, key, value string) (int64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errNoEffect)
	defer cancel()
	for {
		select {
		case r := <-p.reports:
			if r.kind == kind && r.key == key && r.value == value {
				return r.at, nil
			}
		case <-ctx.Done():
			return 0, fmt.Errorf("%s %s %s: %w", kind, key, value, context.Cause(ctx))
		}
	}
}

func (p *proxy) stop() error { return p.process.stop() }
