package emulator

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"sync"
	"time"
)

const (
	// issuer is the issuer of the tokens that the connector sends to bots
	// (docs/protocol.md §1).
	issuer = "https://api.botframework.com"
	// connectorTokenLifetime is the lifetime of such a token.
	connectorTokenLifetime = time.Hour
	keyBits                = 2048
)

type metadataAnswer struct {
	Issuer     string   `json:"issuer"`
	JWKSURI    string   `json:"jwks_uri"`
	Algorithms []string `json:"id_token_signing_alg_values_supported"`
}

type keysAnswer struct {
	Keys []publicKey `json:"keys"`
}

type publicKey struct {
	Type         string   `json:"kty"`
	Use          string   `json:"use"`
	Algorithm    string   `json:"alg"`
	ID           string   `json:"kid"`
	Modulus      string   `json:"n"`
	Exponent     string   `json:"e"`
	Endorsements []string `json:"endorsements"`
}

type jwtHeader struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid"`
}

type jwtClaims struct {
	Issuer     string `json:"iss"`
	Audience   string `json:"aud"`
	ServiceURL string `json:"serviceurl"`
	NotBefore  int64  `json:"nbf"`
	Expires    int64  `json:"exp"`
}

// signingKey is a key that signs tokens. The server makes its key when it first
// needs it, because that is slow and most tests need none.
type signingKey struct {
	private *rsa.PrivateKey
	id      string
}

func newSigningKey() (*signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("emulator: signing key: %w", err)
	}
	sum := sha256.Sum256(private.N.Bytes())
	return &signingKey{private, b64(sum[:15])}, nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Authorize returns a function for [Teams.Authorize] to call bots that check who
// calls them. The function adds a token for the bot appID like those of the Bot
// Connector, signed with the key of this server. The bot needs
// /v1/.well-known/openidconfiguration below the base URL as the address of its
// OpenID metadata.
func (s *Server) Authorize(appID string) func(context.Context, *http.Request) error {
	var mu sync.Mutex
	var token string
	var renew time.Time
	return func(_ context.Context, r *http.Request) error {
		mu.Lock()
		defer mu.Unlock()
		if now := s.cfg.Now(); token == "" || !now.Before(renew) {
			signed, err := s.ConnectorToken(appID, s.ServiceURL())
			if err != nil {
				return err
			}
			token, renew = signed, now.Add(connectorTokenLifetime/2)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		return nil
	}
}

// ConnectorToken returns a token like those that the Bot Connector sends to the bot
// appID. It is valid for an hour.
func (s *Server) ConnectorToken(appID, serviceURL string) (string, error) {
	key, err := s.key()
	if err != nil {
		return "", err
	}
	now := s.cfg.Now()
	return key.sign(jwtClaims{
		Issuer: issuer, Audience: appID, ServiceURL: serviceURL,
		NotBefore: now.Unix(), Expires: now.Add(connectorTokenLifetime).Unix(),
	})
}

// RotateSigningKey makes the connector sign with a new key from now on. The older
// keys stay published.
func (s *Server) RotateSigningKey() error {
	old, err := s.key()
	if err != nil {
		return err
	}
	next, err := newSigningKey()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signing, s.retired = next, append(s.retired, old)
	return nil
}

// key returns the key that the connector signs with. It makes the first one.
func (s *Server) key() (*signingKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signing == nil {
		made, err := newSigningKey()
		if err != nil {
			return nil, err
		}
		s.signing = made
	}
	return s.signing, nil
}

// public is the public key as JWKS, with the channels that it is endorsed for.
func (k *signingKey) public(endorsements ...string) publicKey {
	public := k.private.PublicKey
	return publicKey{
		Type: "RSA", Use: "sig", Algorithm: "RS256", ID: k.id,
		Modulus: b64(public.N.Bytes()), Exponent: b64(big.NewInt(int64(public.E)).Bytes()), Endorsements: endorsements,
	}
}

// sign makes a signed JSON Web Token with these claims.
func (k *signingKey) sign(claims any) (string, error) {
	header, err := json.Marshal(jwtHeader{"RS256", "JWT", k.id})
	if err != nil {
		return "", fmt.Errorf("emulator: token: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("emulator: token: %w", err)
	}
	signed := b64(header) + "." + b64(body)
	sum := sha256.Sum256([]byte(signed))
	signature, err := rsa.SignPKCS1v15(nil, k.private, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("emulator: token: %w", err)
	}
	return signed + "." + b64(signature), nil
}

func (s *Server) metadata(w http.ResponseWriter, in *incoming) {
	answerJSON(w, statusOK, metadataAnswer{issuer, in.base + "/v1/.well-known/keys", []string{"RS256"}})
}

func (s *Server) keys(w http.ResponseWriter) {
	key, err := s.key()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalServerError", "no key")
		return
	}
	all := []publicKey{key.public("msteams")}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.retired {
		all = append(all, old.public("msteams"))
	}
	answerJSON(w, statusOK, keysAnswer{all})
}
