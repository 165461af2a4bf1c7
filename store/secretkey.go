package store

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// KeySize is the size of a [SecretKey], in bytes.
const KeySize = 32

// SecretKey is a key for HMACs and sealed data.
type SecretKey struct {
	Secret []byte    `json:"secret"` // KeySize random bytes
	Made   time.Time `json:"made"`   // by the store's clock; zero: together with the store
}

// NewSecretKey makes a random key.
func NewSecretKey(made time.Time) SecretKey {
	secret := make([]byte, KeySize)
	_, _ = rand.Read(secret) // never fails since Go 1.24
	return SecretKey{Secret: secret, Made: Time(made)}
}

// KeyID identifies a key and reveals nothing about it.
type KeyID [4]byte

// String is the id in hexadecimal digits.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ID is the key's id.
func (k SecretKey) ID() KeyID {
	sum := sha256.Sum256(append([]byte("signin-engine key id\x00"), k.Secret...))
	return KeyID(sum[:])
}

// KeyRing are the keys of a store, oldest first; at least one. The last one is the
// newest.
type KeyRing struct {
	Now  time.Time // the store's clock at the read
	Keys []SecretKey
}

// EncodeKeys encodes keys for a backend.
func EncodeKeys(keys []SecretKey) []byte {
	b, err := json.Marshal(keys) //nolint:gosec // it is what keeps them
	if err != nil {
		panic(err) // bytes and times can be written, but for a year that no clock shows
	}
	return b
}

// DecodeKeys is the inverse of [EncodeKeys]. Without a record the store has only its
// first key.
func DecodeKeys(record, first []byte) ([]SecretKey, error) {
	if record == nil {
		return []SecretKey{{Secret: first}}, nil
	}
	var keys []SecretKey
	if err := json.Unmarshal(record, &keys); err != nil || len(keys) == 0 {
		return nil, fmt.Errorf("record of the keys: %w", ErrCorrupt)
	}
	for _, k := range keys {
		if len(k.Secret) != KeySize {
			return nil, fmt.Errorf("a key of %d bytes: %w", len(k.Secret), ErrCorrupt)
		}
	}
	return keys, nil
}
