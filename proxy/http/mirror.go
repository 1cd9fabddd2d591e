package http

import (
	"fmt"

	"weft.dev/weft/proxy/wire"
)

// mirror is a RequestMirror filter.
type mirror struct {
	backend                string
	numerator, denominator uint64
}

func newMirror(m *wire.Mirror) (*mirror, error) {
	if m.Denominator <= 0 || m.Numerator < 0 || m.Numerator > m.Denominator {
		return nil, fmt.Errorf("mirror: %d/%d is no fraction", m.Numerator, m.Denominator)
	}
	return &mirror{backend: m.Backend, numerator: uint64(m.Numerator), denominator: uint64(m.Denominator)}, nil
}

// request adds a copy of the request to the exchange if chance has it. A backend that does not exist is
// passed over (HTTPRequestMirrorFilter.backendRef).
func (m *mirror) request(x *Exchange, req *Request) {
	if m.backend == "" || x.tried || scale(x.nextRandom(), m.denominator) >= m.numerator {
		return
	}
	x.mirrors = append(x.mirrors, Mirror{Backend: m.backend, Request: req.Clone()})
}

// nextRandom turns the one random number of the exchange into one per mirror, so that the decisions of
// several mirrors do not depend on each other: the step and finalizer of SplitMix64 (Steele et al. 2014).
func (x *Exchange) nextRandom() uint64 {
	x.Random += 0x9e3779b97f4a7c15
	z := x.Random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
