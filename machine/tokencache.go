package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

const (
	// cachedUsers bounds the cache; beyond it the least recently used user is
	// evicted.
	cachedUsers = 10_000
	// cacheEndsEarly keeps the cache from returning a token that is about to expire.
	cacheEndsEarly = time.Minute
	// dropLook is how often the other processes' drops are polled, in case the
	// store's notification is lost. dropUnseen is how long the cache is used without
	// a successful poll.
	dropLook   = 5 * time.Second
	dropUnseen = 3 * dropLook
	// toldDrops is how many drops a process may be behind before it clears its
	// cache.
	toldDrops = 100
)

// tokenCache keeps users' tokens for [Policy.TokenCache], in memory only. A nil cache
// is off.
//
// Processes that share a store announce drops through a mark, which counts them and
// names the last users. A process that has not read it lately does not use its
// cache.
type tokenCache struct {
	life   time.Duration
	clock  func() time.Time
	shared bool

	mu    sync.Mutex
	users *simplelru.LRU[cacheUser, map[string]cachedToken] // by connection, in lower case
	drops int                                               // so far; a token requested before a drop is not kept
	until time.Time                                         // with a shared store: the cache is usable until then

	telling sync.Mutex // one drop is told at a time
}

// cacheUser identifies a user in the cache and in the mark.
type cacheUser struct {
	Channel string `json:"channel"`
	User    string `json:"user"`
}

type cachedToken struct {
	token tokensvc.Token
	until time.Time
}

func newTokenCache(life time.Duration, clock func() time.Time, shared bool) *tokenCache {
	if life <= 0 {
		return nil
	}
	users, _ := simplelru.NewLRU[cacheUser, map[string]cachedToken](cachedUsers, nil) // the size is positive
	return &tokenCache{life: life, clock: clock, shared: shared, users: users}
}

// get returns a cached token, and the number of drops so far, for put.
func (c *tokenCache) get(uc tokensvc.UserConnection) (tok tokensvc.Token, drops int, ok bool) {
	if c == nil {
		return tokensvc.Token{}, 0, false
	}
	now := c.clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared && !now.Before(c.until) {
		return tokensvc.Token{}, c.drops, false
	}
	of, _ := c.users.Get(cacheUser{uc.ChannelID, uc.UserID})
	got, ok := of[strings.ToLower(uc.Connection)]
	if !ok || !now.Before(got.until) {
		return tokensvc.Token{}, c.drops, false
	}
	return got.token, c.drops, true
}

// put caches a token that was requested after that many drops.
func (c *tokenCache) put(uc tokensvc.UserConnection, tok tokensvc.Token, drops int) {
	if c == nil {
		return
	}
	now := c.clock()
	until := now.Add(c.life)
	if ends := tok.Expiration.Add(-cacheEndsEarly); !tok.Expiration.IsZero() && ends.Before(until) {
		until = ends
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.drops != drops {
		return // it may be the dropped token
	}
	who := cacheUser{uc.ChannelID, uc.UserID}
	of, ok := c.users.Get(who)
	if !ok {
		of = map[string]cachedToken{}
		c.users.Add(who, of)
	}
	maps.DeleteFunc(of, func(_ string, old cachedToken) bool { return !now.Before(old.until) })
	of[strings.ToLower(uc.Connection)] = cachedToken{tok, until}
}

// drop forgets users.
func (c *tokenCache) drop(users ...cacheUser) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	for _, u := range users {
		c.users.Remove(u)
	}
}

// clear forgets everybody.
func (c *tokenCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	c.users.Purge()
}

// userToken returns the user's token from the cache, else from the Token Service.
func (e *Engine) userToken(ctx context.Context, uc tokensvc.UserConnection) (tokensvc.Token, error) {
	tok, drops, ok := e.cache.get(uc)
	if ok {
		return tok, nil
	}
	tok, err := e.getToken(ctx, uc, tokensvc.Secret{})
	if err == nil {
		e.cache.put(uc, tok, drops)
	}
	return tok, err
}

// forgetTokens drops the user's tokens from the cache of every process.
func (e *Engine) forgetTokens(ctx context.Context, user store.UserKey) {
	who := cacheUser{user.Channel, user.User}
	e.exchanges.drop(who)
	e.cache.drop(who)
	if e.cache == nil || !e.cache.shared {
		return
	}
	if err := e.tellDrop(context.WithoutCancel(ctx), who); err != nil {
		e.logger(ctx).Error().Str("user", user.User).Err(err).Msg("other processes may give out a token that was dropped, as long as policy.token_cache")
		e.report(ctx, nil, err)
	}
}

// toldTokens is the value of the mark: the users dropped last, newest last.
type toldTokens struct {
	Users []cacheUser `json:"users"`
}

func (e *Engine) dropMark() string { return "tokens dropped " + e.app }

// tellDrop adds a drop to the mark that the other processes watch.
func (e *Engine) tellDrop(ctx context.Context, who cacheUser) error {
	e.cache.telling.Lock()
	defer e.cache.telling.Unlock()
	for range maxRaces {
		m, told, err := e.readDrops(ctx)
		if err != nil {
			return err
		}
		told.Users = append(told.Users, who)
		told.Users = told.Users[max(0, len(told.Users)-toldDrops):]
		value, err := json.Marshal(told)
		if err != nil {
			return fmt.Errorf("tell of a dropped token: %w", err)
		}
		err = e.store.Commit(ctx, store.Commit{Marks: []store.Mark{
			{Name: e.dropMark(), Version: m.Version + 1, Value: value, Wakes: true},
		}})
		if err == nil || !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrDuplicate) {
			return err
		}
	}
	return fmt.Errorf("tell of a dropped token: %w", errRaces)
}

// readDrops reads the mark. A missing mark has version 0.
func (e *Engine) readDrops(ctx context.Context) (store.Mark, toldTokens, error) {
	var told toldTokens
	m, err := e.store.Mark(ctx, e.dropMark())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return store.Mark{}, told, nil
	case err != nil:
		return store.Mark{}, told, fmt.Errorf("read the dropped tokens: %w", err)
	}
	if err := json.Unmarshal(m.Value, &told); err != nil {
		told = toldTokens{} // unreadable, of a newer program: it names no users
	}
	return m, told, nil
}

// watchDrops applies the drops of other processes to the cache until ctx is done.
func (e *Engine) watchDrops(ctx context.Context) {
	for seen := int64(-1); ctx.Err() == nil; {
		began := e.clock()
		m, told, err := e.readDrops(ctx)
		if err == nil {
			if seen >= 0 {
				e.cache.heard(m.Version-seen, told.Users)
			}
			seen = m.Version
			e.cache.trust(began.Add(dropUnseen))
		}
		look, stop := context.WithTimeout(ctx, dropLook)
		if err != nil || e.store.Changed(look, e.dropMark(), 0) != nil {
			<-look.Done()
		}
		stop()
	}
}

// heard drops the last n of the named users. If the mark was begun anew (n < 0) or
// names fewer than n users, the cache is cleared.
func (c *tokenCache) heard(n int64, users []cacheUser) {
	switch {
	case n == 0:
	case n < 0 || n > int64(len(users)):
		c.clear()
	default:
		c.drop(users[int64(len(users))-n:]...)
	}
}

func (c *tokenCache) trust(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = until
}
