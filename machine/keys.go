package machine

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// ErrKeysElsewhere says that the keys are outside of the store ([Config].Keys), so the
// store's keys cannot be rotated.
var ErrKeysElsewhere = errors.New("the keys are kept outside of the store")

var (
	// errSealed means that no key of the ring opens a value.
	errSealed = errors.New("unseal")
	// errUnknownKey is an errSealed: the value was sealed with a key that is not in the
	// ring.
	errUnknownKey = fmt.Errorf("%w: no such key", errSealed)
)

// spread is for how many sweeps a new key of the store is only read. After them
// every instance has it.
const spread = 3

// ring holds the keys of an engine. The first one marks and seals; the others only
// read.
type ring struct{ keys []ringKey }

type ringKey struct {
	id    store.KeyID
	marks []byte // key of the HMACs
	aead  cipher.AEAD
}

// newRing makes a ring of keys, in the order given.
func newRing(keys []store.SecretKey) (*ring, error) {
	r := &ring{keys: make([]ringKey, len(keys))}
	for i, k := range keys {
		block, err := aes.NewCipher(derive(k.Secret, "seals"))
		if err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
		r.keys[i] = ringKey{k.ID(), derive(k.Secret, "marks"), aead}
	}
	return r, nil
}

// derive derives a key for one purpose from a secret.
func derive(secret []byte, purpose string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("signin-engine " + purpose))
	return h.Sum(nil)
}

// markSize is the size of a mark's HMAC, in bytes.
const markSize = 16

// mark returns marks, by which a repeated secret is recognised without being stored:
// for each key, in the ring's order, its id and an HMAC. A plain hash of six digits
// could be guessed. The user is part of the HMAC, so marks of different users cannot
// be compared.
func (r *ring) mark(kind string, user store.UserKey, secret tokensvc.Secret) [][]byte {
	marks := make([][]byte, len(r.keys))
	for i := range r.keys {
		k := &r.keys[i]
		h := hmac.New(sha256.New, k.marks)
		for _, part := range [...]string{kind, user.App, user.Channel, user.User, secret.Reveal()} {
			h.Write([]byte(part))
			h.Write([]byte{0})
		}
		marks[i] = append(k.id[:len(k.id):len(k.id)], h.Sum(nil)[:markSize]...)
	}
	return marks
}

// seal encrypts a stored value that only the bot may read: the activity with which
// the user asked. A sealed value is
//
//	key id 4 | nonce 12 | ciphertext and tag
func (r *ring) seal(plain []byte) []byte {
	k := &r.keys[0]
	out := make([]byte, len(k.id)+k.aead.NonceSize())
	copy(out, k.id[:])
	nonce := out[len(k.id):]
	_, _ = rand.Read(nonce) // never fails since Go 1.24
	return k.aead.Seal(out, nonce, plain, nil)
}

func (r *ring) open(sealed []byte) ([]byte, error) {
	for i := range r.keys {
		k := &r.keys[i]
		n := len(k.id) + k.aead.NonceSize()
		if len(sealed) < n || [len(k.id)]byte(sealed) != k.id {
			continue
		}
		plain, err := k.aead.Open(nil, sealed[len(k.id):n], sealed[n:], nil)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSealed, err)
		}
		return plain, nil
	}
	return nil, errUnknownKey
}

// loadKeys reloads the keys.
func (e *Engine) loadKeys(ctx context.Context) error {
	stored, err := e.store.Keys(ctx)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	made := e.inUse(&stored)
	order := []store.SecretKey{stored.Keys[made]}
	for i, k := range slices.Backward(stored.Keys) {
		if i != made {
			order = append(order, k)
		}
	}
	if e.outside != nil {
		own, err := e.outside()
		if err != nil {
			return fmt.Errorf("keys outside of the store: %w", err)
		}
		if len(own) == 0 {
			return errors.New("no key outside of the store")
		}
		order = append(slices.Clone(own), order...)
	}
	r, err := newRing(order)
	if err != nil {
		return err
	}
	e.ring.Store(r)
	return nil
}

// inUse returns the index of the store's newest key that every instance has read.
func (e *Engine) inUse(stored *store.KeyRing) int {
	for i := len(stored.Keys) - 1; i > 0; i-- {
		if !stored.Now.Before(e.usedFrom(stored.Keys[i])) {
			return i
		}
	}
	return 0
}

func (e *Engine) usedFrom(k store.SecretKey) time.Time { return k.Made.Add(spread * e.timeouts.Sweep) }

// sealed returns the activities that are kept already and one more with its purpose,
// sealed for the store; nil if that one is not kept, or is among them.
func (e *Engine) sealed(kept []request, act *Activity, purpose string) []byte {
	if !e.policy.KeepRequest || act == nil || len(act.Raw) == 0 || slices.ContainsFunc(kept, request{activity: act.Raw}.same) {
		return nil
	}
	var plain []byte
	for _, r := range kept {
		plain = slices.Concat(plain, r.plain(), requestEnd)
	}
	plain = append(plain, request{act.Raw, purpose}.plain()...)
	if len(plain) > maxRequest {
		e.log.Warn().Str("user", act.Conversation.UserID).Int("bytes", len(act.Raw)).
			Msgf("the activity with which the user asked is not kept: it has more than %d bytes, together with earlier ones", maxRequest)
		return nil
	}
	return e.ring.Load().seal(plain)
}

// request is an activity that is kept, with its purpose.
type request struct {
	activity json.RawMessage // nil if it was not kept
	purpose  string
}

// The ends of a purpose and of an activity that others follow. They occur in neither,
// since JSON has no NUL.
var (
	purposeEnd = []byte{0}
	requestEnd = []byte{0, 0}
)

func (r request) same(o request) bool { return bytes.Equal(r.activity, o.activity) }

func (r request) plain() []byte {
	if r.purpose == "" {
		return r.activity
	}
	return slices.Concat([]byte(r.purpose), purposeEnd, r.activity)
}

func parseRequests(plain []byte) []request {
	var all []request
	for one := range bytes.SplitSeq(plain, requestEnd) {
		r := request{activity: one}
		if purpose, activity, ok := bytes.Cut(one, purposeEnd); ok {
			r = request{activity, string(purpose)}
		}
		if len(r.activity) == 0 {
			r.activity = nil
		}
		all = append(all, r)
	}
	return all
}

// maxRequest bounds the activities that one attempt keeps, in bytes. A long message of
// Teams (100 kB) is in its activity twice, as text and as HTML.
const maxRequest = 256 << 10

// open reads a sealed value. If its key is unknown, the keys are reloaded first:
// another instance may have added it.
func (e *Engine) open(ctx context.Context, sealed []byte) ([]byte, error) {
	plain, err := e.ring.Load().open(sealed)
	if !errors.Is(err, errUnknownKey) {
		return plain, err
	}
	if err := e.loadKeys(ctx); err != nil {
		return nil, err
	}
	return e.ring.Load().open(sealed)
}

// marker makes the marks of something secret.
type marker func(kind string, user store.UserKey, secret tokensvc.Secret) [][]byte

func (e *Engine) marks(kind string, user store.UserKey, secret tokensvc.Secret) [][]byte {
	return e.ring.Load().mark(kind, user, secret)
}

// Rotation is the result of [Engine.RotateKey].
type Rotation struct {
	ID    store.KeyID // of the new key
	From  time.Time   // when it is used first, by the store's clock
	Older int         // keys that are still read
}

// RotateKey adds a key for HMACs and sealed data to the store. Every instance reads it
// with its next sweep, and uses it after three of them. Older keys stay readable until
// the retention of all that they made is over; then they are deleted. The error is
// [ErrKeysElsewhere] with [Config].Keys.
func (e *Engine) RotateKey(ctx context.Context, op Operator) (Rotation, error) {
	fail := func(err error) (Rotation, error) { return Rotation{}, fmt.Errorf("rotate key: %w", err) }
	if e.outside != nil {
		return fail(ErrKeysElsewhere)
	}
	stored, err := e.store.Keys(ctx)
	if err != nil {
		return fail(err)
	}
	fresh := store.NewSecretKey(stored.Now)
	line := store.Event{
		Time: stored.Now, Instance: e.instance, Kind: store.EventOperator, Invoke: "rotate-key", Actor: op.Actor,
		Detail: fmt.Sprintf("key %s: %s", fresh.ID(), op.Reason),
	}
	// The request is on record even if the rotation fails.
	if err := e.store.Commit(ctx, store.Commit{Events: []store.Event{line}}); err != nil {
		return fail(err)
	}
	if err := e.store.SwapKeys(ctx, stored.Keys, append(slices.Clone(stored.Keys), fresh)); err != nil {
		return fail(err)
	}
	e.emit(ctx, store.Key{}, []store.Event{line})
	e.log.Warn().Stringer("key", fresh.ID()).Str("actor", op.Actor).Msg("the store has a new key for marks and seals")
	return Rotation{ID: fresh.ID(), From: e.usedFrom(fresh), Older: len(stored.Keys)}, e.loadKeys(ctx)
}

// forgetKeys deletes keys that have been out of use for so long that everything made
// with them is past its retention.
func (e *Engine) forgetKeys(ctx context.Context) error {
	stored, err := e.store.Keys(ctx)
	if err != nil {
		return fmt.Errorf("keys: %w", err)
	}
	keys := stored.Keys
	const reserve = 24 * time.Hour // instances whose clocks or sweeps are late
	kept := 0
	for kept < len(keys)-1 && stored.Now.After(e.usedFrom(keys[kept+1]).Add(e.timeouts.Retention+e.timeouts.Attempt+reserve)) {
		kept++
	}
	if kept == 0 {
		return nil
	}
	err = e.store.SwapKeys(ctx, keys, keys[kept:])
	if errors.Is(err, store.ErrConflict) {
		return nil // another instance was faster
	}
	return err
}
