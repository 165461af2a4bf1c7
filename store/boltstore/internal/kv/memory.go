package kv

import (
	"runtime"
	"sync"
)

// memory keeps the pieces of tables that nobody reads any more: taking fresh
// memory means clearing it and having the kernel map it, again and again.
type memory struct {
	mu   sync.Mutex
	free [][]byte
	max  int // pieces to keep
}

// piece returns memory for at least n bytes; what is in it is of no use.
func (m *memory) piece(n int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := len(m.free) - 1
	if n > pieceSize || last < 0 {
		return make([]byte, max(pieceSize, n))
	}
	p := m.free[last]
	m.free = m.free[:last]
	return p
}

// retire has the pieces of a table used again once the table is garbage. Only
// who holds on to the table may read them: a transaction, and apply.
func (m *memory) retire(t *table) {
	runtime.AddCleanup(t, m.take, *t.data.Load())
}

func (m *memory) take(pieces [][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range pieces {
		if len(p) == pieceSize && len(m.free) < m.max {
			m.free = append(m.free, p)
		}
	}
}
