package machine_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// canary is in every secret of a simulated world, and must be nowhere else.
const canary = "canary"

// twin is a simple token service: a token per user and connection, codes that
// work once, exchanges that can be repeated.
type twin struct {
	w       *world
	tokens  map[string]time.Time // owner -> when granted
	codes   map[string]string    // code -> owner
	deletes map[string]int       // owner -> how often its token was deleted
	made    int
}

func newTwin(w *world) *twin {
	return &twin{w: w, tokens: map[string]time.Time{}, codes: map[string]string{}, deletes: map[string]int{}}
}

func owner(user, connection string) string { return user + "/" + strings.ToLower(connection) }

// tokenOf is the token of a user and connection, a secret.
func tokenOf(owner string) string { return canary + "-token-" + owner }

func (s *twin) token(uc tokensvc.UserConnection) tokensvc.Token {
	return tokensvc.Token{ChannelID: uc.ChannelID, Connection: uc.Connection, Token: tokensvc.NewSecret(tokenOf(owner(uc.UserID, uc.Connection)))}
}

func (s *twin) getToken(t *task, uc tokensvc.UserConnection, code string) (tokensvc.Token, error) {
	key := owner(uc.UserID, uc.Connection)
	if code != "" {
		if s.codes[code] != key {
			return tokensvc.Token{}, fmt.Errorf("GetToken: %w", tokensvc.ErrNoToken)
		}
		delete(s.codes, code)
		s.grant(t, key)
	}
	if _, ok := s.tokens[key]; !ok {
		return tokensvc.Token{}, fmt.Errorf("GetToken: %w", tokensvc.ErrNoToken)
	}
	return s.token(uc), nil
}

// exchange takes every SSO token but those that say how they are refused:
// canary-jwt-412-….
func (s *twin) exchange(t *task, uc tokensvc.UserConnection, sso string) (tokensvc.Token, error) {
	var status int
	if n, err := fmt.Sscanf(sso, canary+"-jwt-%d-", &status); err == nil && n == 1 && status != 0 {
		return tokensvc.Token{}, &tokensvc.Error{Op: "Exchange", Status: status, Code: "refused"}
	}
	s.grant(t, owner(uc.UserID, uc.Connection))
	return s.token(uc), nil
}

// grant notes that the user has a token now, and through whom.
func (s *twin) grant(t *task, key string) {
	s.tokens[key] = time.Now()
	t.granted = key
	s.w.model.granted(t, key)
}

func (s *twin) signOut(uc tokensvc.UserConnection) {
	for key := range s.tokens {
		if key == owner(uc.UserID, uc.Connection) || uc.Connection == "" && strings.HasPrefix(key, uc.UserID+"/") {
			delete(s.tokens, key)
		}
	}
	for _, c := range s.w.connections {
		if key := owner(uc.UserID, c); uc.Connection == "" || key == owner(uc.UserID, uc.Connection) {
			s.deletes[key]++
			s.w.model.deleted(key)
		}
	}
}

func (s *twin) resource(connection string) tokensvc.SignInResource {
	s.made++
	res := tokensvc.SignInResource{SignInLink: tokensvc.NewSecret(fmt.Sprintf("https://%s.example/signin?n=%d", canary, s.made))}
	if !s.w.noSSO[connection] {
		res.TokenExchangeResource = &tokensvc.TokenExchangeResource{ID: fmt.Sprintf("x-%d", s.made), URI: "api://bot"}
	}
	return res
}
