package compile

import (
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Exposed finds those exposures of a namespace that publish a pod, however many others there are.
type Exposed struct {
	all []Exposure
	// byLabel has the positions of the exposures whose selector asks for a label, each under one label alone.
	byLabel map[label][]int
}

type label struct{ key, value string }

// NewExposed returns an index of the exposures of a namespace, which must not change afterwards.
func NewExposed(exposures []Exposure) *Exposed {
	x := &Exposed{all: exposures, byLabel: make(map[label][]int)}
	uses := make(map[label]int)
	for i := range exposures {
		for key, value := range exposures[i].Selector {
			uses[label{key, value}]++
		}
	}
	for i := range exposures {
		// A label that many ask for, such as the name of a whole application, tells little.
		var rarest label
		for key, value := range exposures[i].Selector {
			at := label{key, value}
			if rarest == (label{}) || uses[at] < uses[rarest] || uses[at] == uses[rarest] && at.key < rarest.key {
				rarest = at
			}
		}
		if len(exposures[i].Selector) > 0 {
			x.byLabel[rarest] = append(x.byLabel[rarest], i)
		}
	}
	return x
}

// All are the exposures, in the order that they were given in.
func (x *Exposed) All() []Exposure {
	if x == nil {
		return nil
	}
	return x.all
}

// Of returns the exposures that publish a pod, in their order, and its port.
func (x *Exposed) Of(pod *corev1.Pod) iter.Seq2[*Exposure, uint16] {
	return func(yield func(*Exposure, uint16) bool) {
		for _, i := range x.near(pod) {
			if port, ok := x.all[i].PortOf(pod); ok && !yield(&x.all[i], port) {
				return
			}
		}
	}
}

// near are the positions of the exposures that may publish a pod.
func (x *Exposed) near(pod *corev1.Pod) []int {
	if x == nil {
		return nil
	}
	var near []int
	for key, value := range pod.Labels {
		near = append(near, x.byLabel[label{key, value}]...)
	}
	slices.Sort(near)
	return near
}
