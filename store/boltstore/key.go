package boltstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/signin-engine/signin-engine/store"
)

// Kinds of an attempt's rows.
const (
	kindRecord   = 'a'
	kindDelivery = 'd'
	kindRequest  = 'r'
	kindExchange = 'x'
)

// Prefixes in bucket live.
const (
	liveOpen          = 'o'
	liveDue           = 'd'
	livePending       = 'p'
	liveWaiting       = 'w'
	liveDead          = 'z'
	liveUndeliverable = 'u'
	liveTally         = 't'
)

// Prefixes in bucket index.
const (
	idxUser        = 'u'
	idxAAD         = 'a'
	idxExchange    = 'x'
	idxMark        = 'm'
	idxMarkCreated = 'c'
	idxMarkExpires = 'n'
)

// Keys of bucket facts.
func factLines() []byte { return []byte("lines") } // number of the last audit line
func factProbe() []byte { return []byte("probe") } // see [Store.Probe]
func factKeys() []byte  { return []byte("keys") }  // for marks and seals

const (
	hashSize  = 16 // for names that users can choose
	scopeSize = 8  // for configured names: app with channel, and connection
	timeSize  = 8
	lineSize  = 8 // of an audit line's number
)

func rowKey(dst []byte, id string, kind byte) []byte {
	return append(append(dst, id...), 0, kind)
}

// lineKey is the key of a row of audit lines: "id 00 number of the first line".
// Lines without an attempt have an empty id, so they sort before the others.
func lineKey(dst []byte, id string, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append(dst, id...), 0), number)
}

var noAttempt = []byte{0}

// cutID splits "id 00 rest".
func cutID(key []byte) (id string, rest []byte) {
	i := bytes.IndexByte(key, 0)
	if i < 0 {
		return string(key), nil
	}
	return string(key[:i]), key[i+1:]
}

// appendTime appends t so that the bytes sort like times.
func appendTime(dst []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(t.UnixMicro())^1<<63)
}

func readTime(b []byte) time.Time {
	return time.UnixMicro(int64(binary.BigEndian.Uint64(b) ^ 1<<63)).UTC()
}

// appendDelivery appends the part of a delivery's key that follows the attempt's id.
// The first letter of a kind is unique and sorts like the kind.
func appendDelivery(dst []byte, k store.DeliveryKey) []byte {
	return binary.BigEndian.AppendUint32(append(dst, k.Kind[0]), uint32(k.Round))
}

func deliveryRow(dst []byte, k store.DeliveryKey) []byte {
	return appendDelivery(rowKey(dst, k.Attempt, kindDelivery), k)
}

func pendingKey(dst []byte, d *store.Delivery) []byte {
	dst = appendTime(append(dst, livePending), d.NextAt)
	return appendDelivery(append(append(dst, d.Attempt...), 0), d.DeliveryKey)
}

// restingKey is the key of a delivery under a prefix without a time.
func restingKey(dst []byte, prefix byte, k store.DeliveryKey) []byte {
	return appendDelivery(append(append(append(dst, prefix), k.Attempt...), 0), k)
}

// userKey is a hashed key: user, then scope, then connection, so that a user, or a
// user in a scope, is a prefix to search by.
type userKey [hashSize + 2*scopeSize]byte

const userScope = hashSize + scopeSize

// hash hashes names that users can choose.
func (t *txn) hash(parts ...string) (h [hashSize]byte) {
	t.text = t.text[:0]
	for i, part := range parts {
		if i > 0 {
			t.text = append(t.text, '\x1f')
		}
		t.text = append(t.text, part...)
	}
	sum := sha256.Sum256(t.text)
	copy(h[:], sum[:])
	return h
}

// names caches the hashes of configured names: they are few, and every key has them.
type names struct {
	mu   sync.RWMutex
	seen map[store.Key][2 * scopeSize]byte
}

// maxNames bounds [names].
const maxNames = 1024

func (n *names) hash(k store.Key) (h [2 * scopeSize]byte) {
	k.User = ""
	n.mu.RLock()
	h, ok := n.seen[k]
	n.mu.RUnlock()
	if ok {
		return h
	}
	scope := sha256.Sum256([]byte(k.App + "\x1f" + k.Channel))
	conn := sha256.Sum256([]byte(strings.ToLower(k.Connection)))
	copy(h[:scopeSize], scope[:])
	copy(h[scopeSize:], conn[:])
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen == nil || len(n.seen) >= maxNames {
		n.seen = map[store.Key][2 * scopeSize]byte{}
	}
	// A string may share memory with a whole record; a clone lets that go.
	k.App, k.Channel, k.Connection = strings.Clone(k.App), strings.Clone(k.Channel), strings.Clone(k.Connection)
	n.seen[k] = h
	return h
}

func (t *txn) hashKey(k store.Key) (h userKey) {
	user, scope := t.hash(k.User), t.names.hash(k)
	copy(h[:], user[:])
	copy(h[hashSize:], scope[:])
	return h
}

func openKey(dst []byte, h userKey) []byte { return append(append(dst, liveOpen), h[:]...) }

func userRow(dst []byte, h userKey, id string) []byte {
	return append(append(append(dst, idxUser), h[:hashSize]...), id...)
}

func (t *txn) aadPrefix(dst []byte, aad string) []byte {
	h := t.hash(strings.ToLower(aad))
	return append(append(dst, idxAAD), h[:]...)
}

func (t *txn) aadRow(dst []byte, aad, id string) []byte { return append(t.aadPrefix(dst, aad), id...) }

func (t *txn) exchangeRow(dst []byte, app, id string) []byte {
	h := t.hash(app, id)
	return append(append(dst, idxExchange), h[:]...)
}

// dueKey is the key of an attempt in the due index.
func dueKey(dst []byte, at time.Time, id string) []byte {
	return append(appendTime(append(dst, liveDue), at), id...)
}

func tallyKey(dst []byte, entered time.Time, outcome string) []byte {
	return append(appendTime(append(dst, liveTally), entered.Truncate(time.Minute)), outcome...)
}

// openRow is a row of the open index. It has what an overview needs, so that the
// record need not be read.
type openRow struct {
	state   store.State
	entered time.Time
	due     time.Time // its time in the due index: when it is due or earlier, or the end of a hold
	id      string
}

func (r *openRow) append(dst []byte) []byte {
	dst = appendTime(appendTime(dst, r.entered), r.due)
	dst = append(append(dst, r.state...), 0)
	return append(dst, r.id...)
}

func readOpenRow(b []byte) (openRow, bool) {
	if len(b) < 2*timeSize {
		return openRow{}, false
	}
	r := openRow{entered: readTime(b), due: readTime(b[timeSize:])}
	state, id, ok := bytes.Cut(b[2*timeSize:], []byte{0})
	r.state, r.id = stateOf(state), string(id)
	return r, ok
}

// stateOf returns the state of a name, without an allocation for the known ones.
func stateOf(name []byte) store.State {
	for _, s := range [...]store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying} {
		if string(s) == string(name) {
			return s
		}
	}
	return store.State(name)
}

// slack is by how much the time in an id may differ from the attempt's own times. The
// engine makes both of one clock.
const slack = time.Minute

// firstID returns the smallest ULID of t's millisecond.
func firstID(t time.Time) string {
	ms := t.UnixMilli()
	if ms <= 0 {
		return ""
	}
	var u ulid.ULID
	if err := u.SetTime(uint64(ms)); err != nil {
		return "\xff" // sorts after every ULID
	}
	return u.String()
}
