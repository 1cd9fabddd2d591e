package ports

import (
	"errors"
	"net"
	"syscall"
	"testing"
)

func TestRefusing(t *testing.T) {
	address := Refusing(t).String()
	var d net.Dialer
	if c, err := d.DialContext(t.Context(), "tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection to it: %v, %v; want refused", c, err)
	}
	var l net.ListenConfig
	if held, err := l.Listen(t.Context(), "tcp", address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("its port given to another: %v, %v; want in use", held, err)
	}
}
