package emulator

import (
	crand "crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// ids makes identifiers, tokens and codes. They are random, or with a seed the same
// in every run.
type ids struct {
	mu     sync.Mutex
	source io.Reader
	millis int64 // last id of timestamp
	fixed  bool  // timestamp counts up and ignores the clock
}

// seededStart is the time of the recorded trace (docs/protocol.md), in milliseconds
// since 1970. Activity ids of a seeded run begin there.
const seededStart = 1776827520098

func newIDs(seed uint64) *ids {
	if seed == 0 {
		return &ids{source: crand.Reader}
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &ids{source: rand.NewChaCha8(key), millis: seededStart, fixed: true}
}

func (g *ids) bytes(n int) []byte {
	b := make([]byte, n)
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := io.ReadFull(g.source, b); err != nil {
		panic("emulator: no randomness: " + err.Error())
	}
	return b
}

// hex returns 2n hexadecimal digits.
func (g *ids) hex(n int) string { return hex.EncodeToString(g.bytes(n)) }

// uuid returns a version 4 UUID.
func (g *ids) uuid() string {
	b := g.bytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// code returns six decimal digits.
func (g *ids) code() string {
	return fmt.Sprintf("%06d", binary.LittleEndian.Uint64(g.bytes(8))%1_000_000)
}

// timestamp returns an activity id of the kind that Teams gives to messages: the
// milliseconds since 1970, but never the same id twice.
func (g *ids) timestamp(now time.Time) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.millis++
	if !g.fixed {
		g.millis = max(g.millis, now.UnixMilli())
	}
	return fmt.Sprint(g.millis)
}
