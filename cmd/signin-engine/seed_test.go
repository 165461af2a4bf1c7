package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/boltstore"
	"github.com/signin-engine/signin-engine/store/pgstore"
)

// The attempts that seed writes.
const (
	seededStuck   = "01JSD4K2Q80000000000000001" // Exchanging, its instance died
	seededFailed  = "01JSD4K2Q80000000000000002" // Failed, callback dead
	seededWaiting = "01JSD4M0000000000000000003" // Failed in the future, with hostile texts
	seededDone    = "01JSD4N0000000000000000004" // Complete
	seededHostile = "01JSD4P0000000000000000005" // Failed in the future, with texts that do harm
)

// seed STORE writes one attempt of each kind to a file or to the database at an
// address. With hostile it adds an attempt whose texts do harm if they are shown
// unchanged. With many it adds 300 attempts, more than a page holds. With fresh it writes
// only an attempt whose id has its time, as the ids of an engine have: bounds on the
// time of creation need that.
func seed() {
	now := time.Now()
	commits := []store.Commit{stuckExchange(now), failedClient(now), waiting(now), done(now)}
	switch {
	case slices.Contains(os.Args, "hostile"):
		commits = append(commits, hostile(now))
	case slices.Contains(os.Args, "many"):
		for n := range 300 {
			commits = append(commits, one(now, n))
		}
	case slices.Contains(os.Args, "fresh"):
		id := ulid.MustNew(ulid.Timestamp(now), nil).String()
		commits = []store.Commit{{Put: []store.Attempt{seeded(id, "29:fresh", "graph", store.CardSent, now, now)}}}
	}
	if err := seedStore(os.Args[1], commits); err != nil {
		fatal(err)
	}
}

func seedStore(where string, commits []store.Commit) (err error) {
	var st store.Store
	if strings.HasPrefix(where, "postgres:") {
		st, err = pgstore.Open(context.Background(), where)
	} else {
		st, err = boltstore.Open(where)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return errors.Join(st.Apply(context.Background(), commits)...)
}

func seeded(id, user, connection string, state store.State, created, entered time.Time) store.Attempt {
	return store.Attempt{
		ID: id, Version: 1, State: state, Origin: store.OriginSignIn,
		Key: store.Key{App: "00000000-0000-4000-8000-0000000000b0", Channel: "msteams", User: user, Connection: connection},
		Conversation: store.Conversation{
			ServiceURL: "http://127.0.0.1:9/", Channel: "msteams", Type: "personal", ID: "a:1xH4HncZ6ly", Tenant: "tenant-3f3d",
			UserID: user, UserAAD: "aad-0350",
		},
		Platform: "Web", Created: created, Entered: entered, Expires: created.Add(15 * time.Minute),
	}
}

func stuckExchange(now time.Time) store.Commit {
	a := seeded(seededStuck, "29:stuck", "graph", store.Exchanging, now.Add(-12*time.Minute), now.Add(-11*time.Minute))
	a.ExchangeID, a.SSOOffered, a.Invokes, a.Rounds = "fc67", true, 1, 1
	a.Failure = &store.Failure{
		Source: store.SourceTokenService, Operation: "Exchange", Status: 400, Kind: store.KindConsent, Message: "token service: Exchange: status 400",
	}
	a.Diagnosis = store.Diagnosis{Audience: store.Holds, Version: store.Fails, Fresh: store.Holds}
	a.Lease = store.Lease{Owner: "bot-b", Fence: 1, Until: now.Add(-10 * time.Minute)}
	return store.Commit{Put: []store.Attempt{a}, Events: []store.Event{
		{Attempt: a.ID, Time: a.Created, Kind: store.EventTransition, Row: "A3", Version: 1, To: store.Idle},
		{Attempt: a.ID, Time: a.Created.Add(time.Second), Kind: store.EventTransition, Row: "A6", From: store.Idle, To: store.CardSent},
		{Attempt: a.ID, Time: a.Entered, Kind: store.EventTransition, Row: "B1", From: store.CardSent, To: store.Exchanging, Invoke: "signin/tokenExchange"},
	}}
}

func failedClient(now time.Time) store.Commit {
	a := seeded(seededFailed, "29:failed", "graph", store.Failed, now.Add(-11*time.Minute), now.Add(-10*time.Minute))
	a.Reason = store.ReasonClientFailure
	a.Failure = &store.Failure{Source: "client", Operation: "signin/failure", Code: "resourcematchfailed", Message: "Resource match failed"}
	return store.Commit{
		Put: []store.Attempt{a},
		Events: []store.Event{
			{Attempt: a.ID, Time: a.Entered, Kind: store.EventTransition, Row: "D1", Version: 1, From: store.CardSent, To: store.Failed, Invoke: "signin/failure"},
		},
		Deliveries: []store.Delivery{{
			DeliveryKey: store.DeliveryKey{Attempt: a.ID, Kind: store.DeliverFailure, Round: 1},
			Status:      store.DeliveryDead, Tries: 10, Created: a.Entered, NextAt: a.Entered, Error: "boom",
		}},
	}
}

func waiting(now time.Time) store.Commit {
	a := seeded(seededWaiting, "29:waiting", "github", store.CardSent, now.Add(-9*time.Minute), now.Add(-10*time.Second))
	return store.Commit{Put: []store.Attempt{a}}
}

func done(now time.Time) store.Commit {
	a := seeded(seededDone, "29:done", "github", store.Complete, now.Add(-10*time.Second), now.Add(-9*time.Second))
	a.Method = store.MethodVerifyState
	return store.Commit{Put: []store.Attempt{a}}
}

// hostile is an attempt by a clock that runs ahead. Its texts clear the screen,
// reverse the direction of writing and are 10 kB long.
func hostile(now time.Time) store.Commit {
	const evil = "\x1b[2J\x1b]0;owned\a\u202egnp.exe\r\nStuck: none\x00"
	a := seeded(seededHostile, "29:"+evil, "graph", store.Failed, now, now.Add(time.Hour))
	a.Reason = store.ReasonClientFailure
	a.Conversation.ID = "a:" + evil
	a.Conversation.UserName = evil + strings.Repeat("x", 10_000)
	a.Failure = &store.Failure{Source: "client", Operation: "signin/failure", Code: evil, Message: evil}
	return store.Commit{Put: []store.Attempt{a}, Events: []store.Event{
		{Attempt: a.ID, Time: now, Kind: store.EventReceived, Invoke: evil, Detail: evil},
		{Attempt: a.ID, Time: now, Kind: store.EventTransition, Row: "D1", Version: 1, From: store.CardSent, To: store.Failed, Detail: evil},
	}}
}

// one is the nth of many attempts.
func one(now time.Time, n int) store.Commit {
	a := seeded(fmt.Sprintf("01JSD4Q%019d", n), fmt.Sprintf("29:many-%d", n), "many", store.Complete, now.Add(-time.Minute), now)
	a.Method = store.MethodSilent
	return store.Commit{Put: []store.Attempt{a}}
}
