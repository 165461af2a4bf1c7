package machinetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// TokenService is a fake token service that keeps tokens and codes. Its answers can
// be scripted. It implements
// machine.TokenService.
type TokenService struct {
	mu      sync.Mutex
	log     func(format string, args ...any)
	noSSO   map[string]bool
	tokens  map[string]bool   // user/connection
	codes   map[string]string // code -> user/connection
	cards   int
	scripts map[string][]script // operation -> what to answer next
	gates   map[string]chan struct{}
	down    bool
}

// script is one scripted answer.
type script struct {
	status     int
	retryAfter time.Duration
	silent     bool // no answer until the caller's deadline
	noToken    bool // a 200 without a token
	stale      bool // a 200 with a token that has expired
	code       string
	consent    bool // refuses because consent is missing
	bearer     bool // the bot's own token cannot be had, so nothing is sent
}

// operation returns the client's name of an operation that scenarios abbreviate.
func operation(op string) string {
	op, _, _ = strings.Cut(op, "+")
	if op == "exchange" {
		return tokensvc.OpExchange
	}
	return op
}

// fail is the error of a scripted answer.
func (s script) fail(op string) error {
	op = operation(op)
	e := &tokensvc.Error{Op: op, Status: s.status, Code: s.code, RetryAfter: s.retryAfter, Consent: s.consent}
	if s.bearer {
		own := *e
		own.Op = tokensvc.OpAccessToken
		return &tokensvc.Error{Op: op, Err: fmt.Errorf("bearer token: %w", &own)}
	}
	return e
}

// NewTokenService returns a service without tokens. Its log gets a line per
// call.
func NewTokenService(log func(format string, args ...any)) *TokenService {
	return &TokenService{
		log: log, noSSO: map[string]bool{}, tokens: map[string]bool{}, codes: map[string]string{},
		scripts: map[string][]script{}, gates: map[string]chan struct{}{},
	}
}

// IssueCode makes a verification code, as the popup shows it to the user.
func (s *TokenService) IssueCode(code, user, connection string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code] = owner(user, connection)
}

func owner(user, connection string) string { return user + "/" + strings.ToLower(connection) }

// enter waits at the operation's gate and takes the next scripted answer.
func (s *TokenService) enter(ctx context.Context, op, about string) (script, error) {
	time.Sleep(moment)
	s.mu.Lock()
	gate := s.gates[op]
	delete(s.gates, op)
	s.mu.Unlock()
	if gate != nil {
		s.log("%s %s: held", op, about)
		select {
		case <-gate:
		case <-ctx.Done():
			s.log("%s %s: %s", op, about, unanswered(ctx))
			return script{}, &tokensvc.Error{Op: operation(op), Err: ctx.Err()}
		}
	}
	s.mu.Lock()
	var next script
	if q := s.scripts[op]; len(q) > 0 {
		next, s.scripts[op] = q[0], q[1:]
	}
	down := s.down
	s.mu.Unlock()
	switch {
	case down:
		s.log("%s %s: 503", op, about)
		return script{}, &tokensvc.Error{Op: operation(op), Status: 503}
	case next.silent:
		<-ctx.Done()
		s.log("%s %s: %s", op, about, unanswered(ctx))
		return script{}, &tokensvc.Error{Op: operation(op), Err: ctx.Err()}
	case next.bearer:
		s.log("%s %s: not sent, the bot has no token", op, about)
		return script{}, next.fail(op)
	case next.status == 404 && op != "exchange":
		s.log("%s %s: 404", op, about)
		return script{}, fmt.Errorf("%s: %w", op, tokensvc.ErrNoToken)
	case next.status >= 300:
		s.log("%s %s: %d", op, about, next.status)
		return script{}, next.fail(op)
	}
	return next, nil
}

// GetToken returns the user's token, also for an issued code.
func (s *TokenService) GetToken(ctx context.Context, uc tokensvc.UserConnection, code tokensvc.Secret) (tokensvc.Token, error) {
	op := "GetToken"
	if !code.Empty() {
		op = "GetToken+code"
	}
	about := uc.Connection
	next, err := s.enter(ctx, op, about)
	if err != nil {
		return tokensvc.Token{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if next.stale {
		s.log("%s %s: 200, but expired", op, about)
		return s.old(uc), nil
	}
	key := owner(uc.UserID, uc.Connection)
	if !code.Empty() {
		if s.codes[code.Reveal()] != key {
			s.log("%s %s: 404", op, about)
			return tokensvc.Token{}, tokensvc.ErrNoToken
		}
		delete(s.codes, code.Reveal())
		s.tokens[key] = true
	}
	if !s.tokens[key] {
		s.log("%s %s: 404", op, about)
		return tokensvc.Token{}, tokensvc.ErrNoToken
	}
	s.log("%s %s: 200", op, about)
	return s.token(uc), nil
}

func (s *TokenService) token(uc tokensvc.UserConnection) tokensvc.Token {
	return tokensvc.Token{ChannelID: uc.ChannelID, Connection: uc.Connection, Token: tokensvc.NewSecret("token of " + owner(uc.UserID, uc.Connection))}
}

// old is a token that has expired.
func (s *TokenService) old(uc tokensvc.UserConnection) tokensvc.Token {
	tok := s.token(uc)
	tok.Expiration = time.Now().Add(-time.Hour)
	return tok
}

// GetSignInResource makes the next card's resource; its exchange id is x-1,
// x-2 and so on.
func (s *TokenService) GetSignInResource(ctx context.Context, st tokensvc.State) (tokensvc.SignInResource, error) {
	if _, err := s.enter(ctx, "GetSignInResource", st.Connection); err != nil {
		return tokensvc.SignInResource{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log("GetSignInResource %s: 200", st.Connection)
	return s.resource(st), nil
}

func (s *TokenService) resource(st tokensvc.State) tokensvc.SignInResource {
	s.cards++
	res := tokensvc.SignInResource{SignInLink: tokensvc.NewSecret(fmt.Sprintf("https://token.example/signin?n=%d", s.cards))}
	if !s.noSSO[strings.ToLower(st.Connection)] {
		res.TokenExchangeResource = &tokensvc.TokenExchangeResource{ID: fmt.Sprintf("x-%d", s.cards), URI: "api://bot.example/botid-app"}
	}
	return res
}

// GetTokenOrSignInResource combines both.
func (s *TokenService) GetTokenOrSignInResource(ctx context.Context, uc tokensvc.UserConnection, st tokensvc.State, _ tokensvc.Secret) (*tokensvc.Token, *tokensvc.SignInResource, error) {
	const op = "GetTokenOrSignInResource"
	if _, err := s.enter(ctx, op, uc.Connection); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokens[owner(uc.UserID, uc.Connection)] {
		s.log("%s %s: 200, a token", op, uc.Connection)
		tok := s.token(uc)
		return &tok, nil, nil
	}
	s.log("%s %s: 200, a resource", op, uc.Connection)
	res := s.resource(st)
	return nil, &res, nil
}

// Exchange accepts every token that does not begin with "bad".
func (s *TokenService) Exchange(ctx context.Context, uc tokensvc.UserConnection, sso tokensvc.Secret) (tokensvc.Token, error) {
	next, err := s.enter(ctx, "exchange", uc.Connection)
	if err != nil {
		return tokensvc.Token{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.HasPrefix(sso.Reveal(), "bad"):
		s.log("exchange %s: 404", uc.Connection)
		return tokensvc.Token{}, &tokensvc.Error{Op: "Exchange", Status: 404}
	case next.noToken:
		s.log("exchange %s: 200 without a token", uc.Connection)
		return tokensvc.Token{}, &tokensvc.Error{Op: "Exchange", Status: 200}
	case next.stale:
		s.log("exchange %s: 200, but expired", uc.Connection)
		return s.old(uc), nil
	}
	s.tokens[owner(uc.UserID, uc.Connection)] = true
	s.log("exchange %s: 200", uc.Connection)
	return s.token(uc), nil
}

// SignOut forgets the user's token; without a connection all of them.
func (s *TokenService) SignOut(ctx context.Context, uc tokensvc.UserConnection) error {
	about := uc.Connection
	if about == "" {
		about = "everywhere"
	}
	if _, err := s.enter(ctx, "SignOut", about); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.tokens {
		if key == owner(uc.UserID, uc.Connection) || uc.Connection == "" && strings.HasPrefix(key, uc.UserID+"/") {
			delete(s.tokens, key)
		}
	}
	s.log("SignOut %s: 200", about)
	return nil
}

// GetTokenStatus lists nothing: scenarios do not use it.
func (s *TokenService) GetTokenStatus(context.Context, string, string, ...string) ([]tokensvc.TokenStatus, error) {
	return nil, nil
}
