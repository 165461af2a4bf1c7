// Package vault seals stored values that the store's readers must not see: users'
// credentials and what leads to them.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Ring seals values with its first key, and opens them with any of its keys. A
// sealed value is
//
//	form 1 | key id 4 | nonce 12 | ciphertext and tag
//
// with lengths in bytes. It is bound to the name under which it is stored: under
// another name it does not open.
type Ring struct{ keys []sealKey }

type sealKey struct {
	id   []byte
	aead cipher.AEAD
}

const (
	sealForm   = 1
	keyIDSize  = 4
	sealHeader = 1 + keyIDSize
)

// ErrSeal means that a value is damaged, or sealed with another key.
var ErrSeal = errors.New("sealed value does not open")

// New makes a ring of at least one key. Each key has 32 bytes.
func New(keys [][]byte) (*Ring, error) {
	var ring Ring
	for _, k := range keys {
		block, err := aes.NewCipher(k)
		if err != nil {
			return nil, fmt.Errorf("encryption key: %w", err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("encryption key: %w", err)
		}
		sum := sha256.Sum256(append([]byte("signin-engine key id\x00"), k...))
		ring.keys = append(ring.keys, sealKey{sum[:keyIDSize], aead})
	}
	return &ring, nil
}

// Seal seals the JSON of v under a name.
func (r *Ring) Seal(name string, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	k := r.keys[0]
	out := append([]byte{sealForm}, k.id...)
	out = append(out, Random(k.aead.NonceSize())...)
	return k.aead.Seal(out, out[sealHeader:], plain, []byte(name)), nil
}

// Open opens a value that was sealed under a name, and decodes it into v.
func (r *Ring) Open(name string, sealed []byte, v any) error {
	if len(sealed) < sealHeader || sealed[0] != sealForm {
		return ErrSeal
	}
	for _, k := range r.keys {
		n := sealHeader + k.aead.NonceSize()
		if !slices.Equal(k.id, sealed[1:sealHeader]) || len(sealed) < n {
			continue
		}
		plain, err := k.aead.Open(nil, sealed[sealHeader:n], sealed[n:], []byte(name))
		if err != nil {
			return ErrSeal
		}
		if err := json.Unmarshal(plain, v); err != nil {
			return ErrSeal // the error of Unmarshal would quote what was sealed
		}
		return nil
	}
	return fmt.Errorf("%w: sealed with a key that is not configured", ErrSeal)
}

// Random returns n random bytes.
func Random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return b
}

// RandomText returns n random bytes as text for a URL.
func RandomText(n int) string { return base64.RawURLEncoding.EncodeToString(Random(n)) }

// MAC returns an HMAC-SHA256 over the parts and their lengths, so that parts
// cannot be split differently with the same result.
func MAC(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		var size [8]byte
		for i, n := 0, len(p); i < len(size); i, n = i+1, n>>8 {
			size[i] = byte(n)
		}
		h.Write(size[:])
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}
