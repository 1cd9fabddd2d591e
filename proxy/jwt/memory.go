package jwt

import (
	"crypto/sha256"
	"sync"
)

// maxRemembered bounds the tokens that are remembered, by the sum of their lengths: what is kept of a token is a
// few times as long.
const maxRemembered = 256 << 10

// memory holds tokens whose signature has been verified, the oldest of which are forgotten first. What is not valid
// is not remembered: it would drive out what is.
type memory struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]*Token
	order  []remembered
	length int
}

type remembered struct {
	hash   [sha256.Size]byte
	length int
}

func (m *memory) get(hash [sha256.Size]byte) *Token {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokens[hash]
}

func (m *memory) add(hash [sha256.Size]byte, token *Token, length int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens[hash] != nil {
		return
	}
	if m.tokens == nil {
		m.tokens = map[[sha256.Size]byte]*Token{}
	}
	m.tokens[hash] = token
	m.order = append(m.order, remembered{hash, length})
	m.length += length
	for m.length > maxRemembered {
		oldest := m.order[0]
		m.order = m.order[1:]
		m.length -= oldest.length
		delete(m.tokens, oldest.hash)
	}
}
