package h2

import "sync"

// inbox holds what has come of a body and was not taken. Its memory is of classes, and only there while there is
// something.
type inbox struct {
	memory     *[]byte
	start, end int
}

var (
	inboxSizes = [...]int{1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}
	inboxPools [len(inboxSizes)]sync.Pool
)

func (i *inbox) len() int { return i.end - i.start }

// bytes are what there is.
func (i *inbox) bytes() []byte {
	if i.memory == nil {
		return nil
	}
	return (*i.memory)[i.start:i.end]
}

// put adds p.
func (i *inbox) put(p []byte) {
	if len(p) == 0 {
		return
	}
	need := i.len() + len(p)
	switch {
	case i.memory == nil || need > len(*i.memory):
		bigger := inboxMemory(need)
		if i.memory != nil {
			copy(*bigger, (*i.memory)[i.start:i.end])
			releaseInbox(i.memory)
		}
		i.memory, i.start, i.end = bigger, 0, i.len()
	case i.end+len(p) > len(*i.memory):
		i.end = copy(*i.memory, (*i.memory)[i.start:i.end])
		i.start = 0
	}
	i.end += copy((*i.memory)[i.end:], p)
}

// take moves what fits to p.
func (i *inbox) take(p []byte) int {
	if i.memory == nil {
		return 0
	}
	n := copy(p, (*i.memory)[i.start:i.end])
	if i.start += n; i.start == i.end {
		i.drop()
	}
	return n
}

// drop forgets what there is.
func (i *inbox) drop() {
	if i.memory != nil {
		releaseInbox(i.memory)
	}
	*i = inbox{}
}

func inboxMemory(size int) *[]byte {
	class := 0
	for class < len(inboxSizes)-1 && inboxSizes[class] < size {
		class++
	}
	if m, ok := inboxPools[class].Get().(*[]byte); ok && len(*m) >= size {
		return m
	}
	m := make([]byte, max(size, inboxSizes[class]))
	return &m
}

func releaseInbox(m *[]byte) {
	for class, size := range inboxSizes {
		if len(*m) == size {
			inboxPools[class].Put(m)
			return
		}
	}
}
