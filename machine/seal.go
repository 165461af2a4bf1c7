package machine

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
)

// sealer hides what is kept but not ours to show: the activity with which the
// user asked (its text is nobody's business but the bot's).
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (*sealer, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return &sealer{aead: aead}, nil
}

// maxRequest bounds what is kept of an activity, in bytes.
const maxRequest = 64 << 10

// sealed is the activity as it is kept; nil if it is not.
func (e *Engine) sealed(act *Activity) []byte {
	if !e.policy.KeepRequest || act == nil || len(act.Raw) == 0 || len(act.Raw) > maxRequest {
		return nil
	}
	return e.sealer.seal(act.Raw)
}

func (s *sealer) seal(plain []byte) []byte {
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails since Go 1.24
	return s.aead.Seal(nonce, nonce, plain, nil)
}

func (s *sealer) open(sealed []byte) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return nil, errors.New("unseal: too short")
	}
	plain, err := s.aead.Open(nil, sealed[:n], sealed[n:], nil)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	return plain, nil
}
