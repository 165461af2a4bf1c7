package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// flow is one way to sign in, from the first request to the last answer.
type flow struct {
	name string
	run  func(ctx context.Context, u *user) error

	asksAgain bool // each user asks more than once
	alone     bool // also measured with a single user
	bearer    bool // with inbound_auth: jwt
}

// The flows.
func flows() []flow {
	return []flow{
		{name: "sso", alone: true, run: func(ctx context.Context, u *user) error { return u.sso(ctx, 1) }},
		{name: "sso jwt", bearer: true, run: func(ctx context.Context, u *user) error { return u.sso(ctx, 1) }},
		{name: "sso x3", run: func(ctx context.Context, u *user) error { return u.sso(ctx, 3) }},
		{name: "popup", run: popup},
		{name: "silent", run: silent},
		{name: "silent x10", run: again, asksAgain: true},
	}
}

// The paths of a bot. It requires a token on the second one.
const (
	pathOpen = "/api/messages"
	pathJWT  = "/jwt/api/messages"
)

func (f flow) path() string {
	if f.bearer {
		return pathJWT
	}
	return pathOpen
}

// levels returns the numbers of concurrent users.
func (f flow) levels(users []int) []int {
	if f.alone && !slices.Contains(users, 1) {
		return append([]int{1}, users...)
	}
	return users
}

// user is a person with one client, new for every sign-in.
type user struct {
	emu   *emulator.Server
	teams *emulator.Teams
	asked *times // latencies of messages that a card answers
	took  *times // latencies of what follows the card, or of the message if there is none
}

func (u *user) owner() tokensvc.UserConnection {
	return tokensvc.UserConnection{UserID: u.teams.User.ID, Connection: connection, ChannelID: "msteams"}
}

// sso sends "login" and then the exchange from a number of devices at once.
func (u *user) sso(ctx context.Context, devices int) error {
	card, err := u.ask(ctx)
	if err != nil {
		return err
	}
	errs := make([]error, devices)
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() {
			errs[i] = u.invoke(ctx, func() (emulator.Answer, error) {
				return u.teams.TokenExchange(ctx, card.ExchangeID(), connection, fmt.Sprintf("jwt-%d", i))
			})
		})
	}
	wg.Wait()
	return firstOf(errs)
}

// popup sends "login" and then the code that the page showed.
func popup(ctx context.Context, u *user) error {
	card, err := u.ask(ctx)
	if err != nil {
		return err
	}
	code := u.emu.IssueCode(u.owner())
	return u.invoke(ctx, func() (emulator.Answer, error) { return u.teams.VerifyState(ctx, code, card.ActivityID) })
}

// silent asks for a token that the Token Service has.
func silent(ctx context.Context, u *user) error {
	u.emu.PutToken(u.owner())
	return u.invoke(ctx, func() (emulator.Answer, error) { return u.teams.SendMessage(ctx, "login") })
}

// again asks ten times for a token that the Token Service has.
func again(ctx context.Context, u *user) error {
	u.emu.PutToken(u.owner())
	for range 10 {
		if err := u.invoke(ctx, func() (emulator.Answer, error) { return u.teams.SendMessage(ctx, "login") }); err != nil {
			return err
		}
	}
	return nil
}

func (u *user) ask(ctx context.Context) (emulator.Card, error) {
	began := time.Now()
	err := ok(u.teams.SendMessage(ctx, "login"))
	u.asked.add(time.Since(began))
	if err != nil {
		return emulator.Card{}, err
	}
	return u.emu.WaitForCard(ctx, u.teams.Conversation.ID, 0)
}

// invoke sends one request and records how long the answer took.
func (u *user) invoke(_ context.Context, send func() (emulator.Answer, error)) error {
	began := time.Now()
	err := ok(send())
	u.took.add(time.Since(began))
	return err
}

func ok(a emulator.Answer, err error) error {
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("answered %d", a.Status)
	}
	return err
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// times collects latencies.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, d)
}

func (t *times) percentile(p float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return 0
	}
	slices.Sort(t.all)
	return t.all[min(len(t.all)-1, int(p*float64(len(t.all))))]
}

// result is the outcome of one measured round.
type result struct {
	Done     int
	Failed   int
	Took     time.Duration
	Asked    time.Duration // median latency of messages that a card answers
	P50, P99 time.Duration
	CPU      time.Duration // of the bot
	MaxRSS   int64
	Anon     int64
	Commits  int64
	Groups   int64
	Written  int64
}

func (r result) perSecond() float64 { return float64(r.Done) / r.Took.Seconds() }
func (r result) cpuPer() float64    { return r.CPU.Seconds() * 1000 / float64(max(r.Done, 1)) } // s per 1,000

// load lets users sign in one after the other, a number of them at once, until
// the time is over.
func load(ctx context.Context, emu *emulator.Server, bots []*bot, f flow, users int, d time.Duration) (result, error) {
	before, err := sum(ctx, bots)
	if err != nil {
		return result{}, err
	}
	var (
		wg           sync.WaitGroup
		done, failed atomic.Int64
		asked, took  times
		stop         = time.Now().Add(d)
	)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4 * users}}
	defer client.CloseIdleConnections()
	authorize := emu.Authorize(appID)
	began := time.Now()
	for n := range users {
		wg.Go(func() {
			for i := 0; time.Now().Before(stop) && ctx.Err() == nil; i++ {
				t := emu.Teams(bots[(n+i)%len(bots)].url + f.path())
				t.HTTP = client
				if f.bearer {
					t.Authorize = authorize
				}
				t.User.ID = "29:" + t.Conversation.ID
				if err := f.run(ctx, &user{emu: emu, teams: t, asked: &asked, took: &took}); err != nil {
					failed.Add(1)
					continue
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	r := result{Done: int(done.Load()), Failed: int(failed.Load()), Took: time.Since(began), Asked: asked.percentile(0.5), P50: took.percentile(0.5), P99: took.percentile(0.99)}
	after, err := sum(ctx, bots)
	if err != nil {
		return result{}, err
	}
	r.CPU, r.MaxRSS, r.Anon = after.CPU-before.CPU, after.MaxRSS, after.Anon
	r.Commits, r.Groups, r.Written = after.Commits-before.Commits, after.Groups-before.Groups, after.Written-before.Written
	return r, nil
}
