package machine

import (
	"fmt"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// cacheAt is a cache of one process whose clock a test moves.
func cacheAt(now *time.Time) *tokenCache {
	return newTokenCache(5*time.Minute, func() time.Time { return *now }, false)
}

func TestCachedTokenEndsBeforeItExpires(t *testing.T) {
	now := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	c, alice := cacheAt(&now), tokensvc.UserConnection{UserID: "29:alice", Connection: "graph", ChannelID: "msteams"}
	c.put(alice, tokensvc.Token{Token: tokensvc.NewSecret("one"), Expiration: now.Add(3 * time.Minute)}, 0)
	alice.Connection = "GRAPH" // names are compared without case
	now = now.Add(2*time.Minute - time.Second)
	if tok, _, ok := c.get(alice); !ok || tok.Token.Reveal() != "one" {
		t.Errorf("a minute and a second before the token ends: %t", ok)
	}
	now = now.Add(time.Second)
	if _, _, ok := c.get(alice); ok {
		t.Error("a minute before the token ends it is still given out")
	}
}

// What was asked for before a drop may be what was dropped.
func TestTokenAskedForBeforeADropIsNotKept(t *testing.T) {
	now := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	alice := tokensvc.UserConnection{UserID: "29:alice", Connection: "graph", ChannelID: "msteams"}
	for name, forget := range map[string]func(*tokenCache){
		"drop":  func(c *tokenCache) { c.drop(cacheUser{"msteams", "29:alice"}) },
		"clear": (*tokenCache).clear,
	} {
		c := cacheAt(&now)
		_, drops, _ := c.get(alice)
		forget(c)
		c.put(alice, tokensvc.Token{Token: tokensvc.NewSecret("old")}, drops)
		if _, _, ok := c.get(alice); ok {
			t.Errorf("%s: a token that was on its way when the user signed out was kept", name)
		}
	}
}

// Connection names are compared without case: an attempt may have been stored when the
// connection was registered in another spelling.
func TestOpenedInAnotherSpelling(t *testing.T) {
	now := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	q, k := newQuiet(func() time.Time { return now }), store.Key{App: "app", Channel: "msteams", User: "29:alice", Connection: "graph"}
	_, number := q.knows(k)
	q.found(k, number)
	if known, _ := q.knows(k); !known {
		t.Fatal("a look at the store is not remembered")
	}
	k.Connection = "Graph"
	q.opens(k)
	k.Connection = "graph"
	if known, _ := q.knows(k); known {
		t.Error("an attempt was opened, and the look before it still counts")
	}
}

func TestCacheIsBounded(t *testing.T) {
	now := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	c := cacheAt(&now)
	for i := range cachedUsers + 10 {
		c.put(tokensvc.UserConnection{UserID: fmt.Sprint(i), Connection: "graph"}, tokensvc.Token{Token: tokensvc.NewSecret("t")}, 0)
	}
	if n := c.users.Len(); n != cachedUsers {
		t.Errorf("%d users in the cache, want %d", n, cachedUsers)
	}
}

// A process that has missed more drops than are named forgets everybody.
func TestMissedDrops(t *testing.T) {
	now := time.Date(2026, 4, 22, 3, 12, 0, 0, time.UTC)
	alice, bob := tokensvc.UserConnection{UserID: "alice", Connection: "graph"}, tokensvc.UserConnection{UserID: "bob", Connection: "graph"}
	for _, tt := range []struct {
		name       string
		n          int64
		alice, bob bool // still there
	}{
		{"none", 0, true, true},
		{"the last one", 1, true, false},
		{"both", 2, false, false},
		{"more than are named", 3, false, false},
		{"the count began anew", -1, false, false},
	} {
		c := cacheAt(&now)
		c.put(alice, tokensvc.Token{Token: tokensvc.NewSecret("t")}, 0)
		c.put(bob, tokensvc.Token{Token: tokensvc.NewSecret("t")}, 0)
		c.heard(tt.n, []cacheUser{{User: "alice"}, {User: "bob"}})
		_, _, a := c.get(alice)
		_, _, b := c.get(bob)
		if a != tt.alice || b != tt.bob {
			t.Errorf("%s: alice %t, bob %t; want %t, %t", tt.name, a, b, tt.alice, tt.bob)
		}
	}
}
