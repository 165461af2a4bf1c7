package machine_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// canary is in every secret of a simulated world, and must be nowhere else.
const canary = "canary"

// staleToken begins every token that has expired: nobody must ever get one.
const staleToken = canary + "-stale-"

// What an SSO token says about how its exchange goes, beside the statuses of a
// refusal.
const (
	ssoTaken   = 0   // it is taken
	ssoEmpty   = 298 // it is answered 200 without a token
	ssoExpired = 299 // … or with one that has expired
)

// ssoToken is a client's SSO token. oid is its object id, "" for a token that
// nobody can read.
func ssoToken(outcome, number int, user, oid string) string {
	said := fmt.Sprintf("%s-jwt-%d-%d-%s", canary, outcome, number, user)
	if oid == "" {
		return said
	}
	return "header." + base64.RawURLEncoding.EncodeToString([]byte(`{"oid":"`+oid+`"}`)) + "." + said
}

// twin is a simple token service: a token per user and connection, codes that
// work once, exchanges that can be repeated.
type twin struct {
	w       *world
	tokens  map[string]time.Time // owner -> when the token expires
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

// token is what the service hands out for a user: it does not look whether it
// has expired.
func (s *twin) token(uc tokensvc.UserConnection, expires time.Time) tokensvc.Token {
	t := tokensvc.Token{ChannelID: uc.ChannelID, Connection: uc.Connection, Expiration: expires}
	key := owner(uc.UserID, uc.Connection)
	t.Token = tokensvc.NewSecret(tokenOf(key))
	if !time.Now().Before(expires) {
		t.Token = tokensvc.NewSecret(staleToken + key)
	}
	return t
}

func (s *twin) getToken(t *task, uc tokensvc.UserConnection, code string) (tokensvc.Token, error) {
	key := owner(uc.UserID, uc.Connection)
	if code != "" {
		if s.codes[code] != key {
			return tokensvc.Token{}, fmt.Errorf("GetToken: %w", tokensvc.ErrNoToken)
		}
		delete(s.codes, code)
		s.grant(t, key, s.life(code))
	}
	expires, ok := s.tokens[key]
	if !ok {
		return tokensvc.Token{}, fmt.Errorf("GetToken: %w", tokensvc.ErrNoToken)
	}
	return s.token(uc, expires), nil
}

// life is how long a token lasts: mostly an hour, now and then a minute or not
// at all.
func (s *twin) life(of string) time.Duration {
	switch of[len(of)-1] {
	case '7':
		return time.Minute
	case '8':
		return -time.Second
	default:
		return time.Hour
	}
}

// exchange does what the SSO token says.
func (s *twin) exchange(t *task, uc tokensvc.UserConnection, sso string) (tokensvc.Token, error) {
	var outcome int
	if _, err := fmt.Sscanf(sso[strings.LastIndex(sso, ".")+1:], canary+"-jwt-%d-", &outcome); err != nil {
		panic(err)
	}
	life := time.Hour
	switch outcome {
	case ssoTaken:
	case ssoExpired:
		life = -time.Second
	case ssoEmpty:
		return tokensvc.Token{}, &tokensvc.Error{Op: "Exchange", Status: 200}
	default:
		return tokensvc.Token{}, &tokensvc.Error{Op: "Exchange", Status: outcome, Code: "refused"}
	}
	key := owner(uc.UserID, uc.Connection)
	if !s.grant(t, key, life) {
		t.answered("Exchange", 200)
	}
	return s.token(uc, s.tokens[key]), nil
}

// grant notes that the user has a token now, and through whom, and reports
// whether it can be used: one that has expired already is none.
func (s *twin) grant(t *task, key string, life time.Duration) bool {
	s.keep(key, life)
	if !time.Now().Before(s.tokens[key]) {
		return false
	}
	t.granted = key
	s.w.model.granted(t, key, s.tokens[key])
	return true
}

// keep notes a token, unless there is one that lasts longer.
func (s *twin) keep(key string, life time.Duration) {
	if expires := time.Now().Add(life); expires.After(s.tokens[key]) {
		s.tokens[key] = expires
	}
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

// resource is that of the next card.
func (s *twin) resource(connection string) tokensvc.SignInResource {
	s.made++
	res := tokensvc.SignInResource{SignInLink: tokensvc.NewSecret(fmt.Sprintf("https://%s.example/signin?n=%d", canary, s.made))}
	if !s.w.noSSO[connection] {
		res.TokenExchangeResource = &tokensvc.TokenExchangeResource{ID: fmt.Sprintf("x-%d", s.made), URI: "api://bot"}
	}
	return res
}
