package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"weft.dev/weft/test/e2e/traffic"
)

// dead is the status that a process leaves which was killed.
const dead = 137

// httpPort is the HTTP port of a backend, which can be closed and opened again.
type httpPort struct {
	handler http.Handler
	// failed receives why the port could not be served.
	failed chan<- error

	mu     sync.Mutex
	server *http.Server
}

// open accepts connections; an open port stays so.
func (p *httpPort) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return nil
	}
	l, err := listen(portHTTP)
	if err != nil {
		return err
	}
	server := newServer(p.handler)
	p.server = server
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			p.failed <- err
		}
	}()
	return nil
}

// close refuses connections and ends those that are open.
func (p *httpPort) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server == nil {
		return nil
	}
	err := p.server.Close()
	p.server = nil
	return err
}

func newServer(handler http.Handler) *http.Server {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server
}

// behave takes the command to behave otherwise, and answers how many requests there have been.
func (b *backend) behave(port *httpPort) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var behaviour traffic.Behaviour
		if !traffic.Decode(w, r, &behaviour) {
			return
		}
		if behaviour.Die {
			os.Exit(dead)
		}
		change := port.open
		if behaviour.Refuse {
			change = port.close
		}
		if err := change(); err != nil {
			http.Error(w, fmt.Sprintf("port %d: %v", portHTTP, err), http.StatusInternalServerError)
			return
		}
		b.mu.Lock()
		b.behaviour = behaviour
		requests := b.requests
		b.mu.Unlock()
		traffic.Reply(w, requests)
	}
}
