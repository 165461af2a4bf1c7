package machine

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// marker makes marks, which recognise a repeat of something secret without
// keeping it.
type marker func(kind string, user store.UserKey, secret tokensvc.Secret) []byte

// newMarker makes marks that are HMACs under the store's own key, so that six
// digits cannot be tried out. The user is part of a mark, so that nobody's says
// anything about another's.
func newMarker(key []byte) marker {
	return func(kind string, user store.UserKey, secret tokensvc.Secret) []byte {
		h := hmac.New(sha256.New, key)
		for _, part := range [...]string{kind, user.App, user.Channel, user.User, secret.Reveal()} {
			h.Write([]byte(part))
			h.Write([]byte{0})
		}
		return h.Sum(nil)[:16]
	}
}

// derive makes a key for one purpose of the store's own.
func derive(secret []byte, purpose string) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("signin-engine " + purpose))
	return h.Sum(nil)
}

func instanceName() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "bot"
	}
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return host + "-" + hex.EncodeToString(b[:])
}
