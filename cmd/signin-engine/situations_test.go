package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	goflag "flag" // the package has a function of that name
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
	"github.com/signin-engine/signin-engine/transport/teamsbot"
)

var rewriteSituations = goflag.Bool("situations.rewrite", false, "write down what TestWhyIsThisUserStuck sees")

// monday is the time at which the operator looks.
var monday = time.Date(2026, 1, 5, 9, 5, 0, 0, time.UTC)

// adele is the user who is stuck.
var adele = emulator.Account{ID: "29:1adeleVance", Name: "Adele Vance", AADObjectID: "0350c6a2-0000-4000-8000-000000000001"}

// situation is a bot on an emulated Teams. Its clock stands still within a scene
// and is put forward between scenes, so that trouble grows old.
type situation struct {
	t        *testing.T
	store    *memstore.Store
	services *emulator.Server
	url      string // the emulator's
	ago      atomic.Int64
	bot      *teamsbot.Bot
	user     *emulator.Teams
	broken   atomic.Bool // the bot's own code fails
}

func (s *situation) now() time.Time { return monday.Add(-time.Duration(s.ago.Load())) }

func (s *situation) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func newSituation(t *testing.T) *situation {
	t.Helper()
	s := &situation{t: t}
	s.store = memstore.New(s.now)
	s.services = emulator.New(emulator.Config{ClientID: devAppID, Connections: []emulator.Connection{
		{Name: devSSO, DisplayName: "Microsoft Graph", SSO: true}, {Name: devPopup, DisplayName: "GitHub"},
	}, Users: []emulator.User{{ID: adele.ID, Name: adele.Name, AADObjectID: adele.AADObjectID}}})
	web := httptest.NewServer(s.services)
	t.Cleanup(web.Close)
	s.url = web.URL
	s.services.SetBaseURL(s.url)
	var address string
	s.bot, address = s.start("bot-a", s.store, machine.DefaultTimeouts())
	s.user = s.services.Teams(address)
	s.user.User = adele
	s.user.Conversation.ID = "a:1adeleChat"
	return s
}

// start runs a bot with the program's usual wiring and returns the address on
// which it listens.
func (s *situation) start(instance string, st store.Store, timeouts machine.Timeouts) (*teamsbot.Bot, string) {
	s.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	bot, err := teamsbot.New(teamsbot.Config{
		Engine: machine.Config{
			AppID: devAppID, Store: st, Instance: instance, Timeouts: &timeouts, Log: zerolog.Nop(), Clock: s.now,
			Connections: []machine.Connection{{Name: devSSO, DisplayName: "Microsoft Graph"}, {Name: devPopup, DisplayName: "GitHub"}},
		},
		ClientSecret: tokensvc.NewSecret("secret"), TokenServiceURL: s.url, LoginURL: s.url,
		Listen: l.Addr().String(), InboundAuth: teams.InboundAuthNone, ServiceURLs: []string{strings.TrimPrefix(s.url, "http://")},
	})
	s.must(err)
	bot.Engine().OnSignIn(func(context.Context, *machine.Turn, tokensvc.Token) error {
		if s.broken.Load() {
			return errors.New("no such table: users")
		}
		return nil
	})
	h, err := bot.Handler(teams.BotFunc(func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, connection, _ := strings.Cut(turn.Activity().Text, " ")
		_, err := turn.SignIn(ctx, machine.WithConnection(connection))
		return nil, err
	}))
	s.must(err)
	web := httptest.NewUnstartedServer(h)
	s.must(web.Listener.Close())
	web.Listener = l
	web.Start()
	s.t.Cleanup(func() { web.Close(); bot.CloseIdleConnections() })
	return bot, web.URL + "/api/messages"
}

// fault makes the emulator fail, through its HTTP interface.
func (s *situation) fault(f emulator.Fault) {
	s.t.Helper()
	body, err := json.Marshal(f)
	s.must(err)
	res, err := http.Post(s.url+"/emulator/faults", "application/json", bytes.NewReader(body))
	s.must(err)
	s.must(res.Body.Close())
	if res.StatusCode != http.StatusNoContent {
		s.t.Fatalf("the fault was answered %d", res.StatusCode)
	}
}

// login sends the user's message to the bot and returns the card, if one came.
func (s *situation) login(connection string) emulator.Card {
	s.t.Helper()
	_, err := s.user.SendMessage(s.t.Context(), "login "+connection)
	s.must(err)
	card, _ := s.services.LastCard(s.user.Conversation.ID)
	return card
}

func (s *situation) exchange(card emulator.Card, token string) {
	s.t.Helper()
	_, err := s.user.TokenExchange(s.t.Context(), card.ExchangeID(), devSSO, token)
	s.must(err)
}

// mortal is the store as seen by a process that can be killed.
type mortal struct {
	store.Store
	dead atomic.Bool
}

func (m *mortal) Apply(ctx context.Context, commits []store.Commit) []error {
	if !m.dead.Load() {
		return m.Store.Apply(ctx, commits)
	}
	errs := make([]error, len(commits))
	for i := range errs {
		errs[i] = store.ErrUnavailable
	}
	return errs
}

// situations lists what can keep users from signing in, each with the events that
// lead to it.
var situations = []struct {
	name  string
	ago   time.Duration // how long before the operator looks
	stage func(*situation)
}{
	{"consent-refused", 6 * time.Minute, func(s *situation) {
		s.fault(emulator.Fault{Operation: emulator.OpExchange, Status: http.StatusPreconditionFailed, Code: "consent_required"})
		s.exchange(s.login(devSSO), s.services.SSOToken(s.user.User.ID))
	}},
	{"popup-closed", 5 * time.Minute, func(s *situation) {
		card := s.login(devPopup)
		_, err := s.user.VerifyState(s.t.Context(), emulator.CancelledByUser, card.ActivityID)
		s.must(err)
	}},
	{"wrong-resource", 4 * time.Minute, func(s *situation) {
		s.login(devSSO)
		_, err := s.user.Failure(s.t.Context(), "resourcematchfailed", "Resource match failed")
		s.must(err)
	}},
	{"secret-expired", 3 * time.Minute, func(s *situation) {
		s.fault(emulator.Fault{
			Operation: emulator.OpAccessToken, Status: http.StatusUnauthorized,
			Body: `{"error":"invalid_client","error_description":"AADSTS7000222: The provided client secret keys are expired.","error_codes":[7000222]}`,
		})
		s.login(devSSO)
	}},
	{"token-service-down", 3 * time.Minute, func(s *situation) {
		s.fault(emulator.Fault{Operation: emulator.OpGetToken, Status: http.StatusServiceUnavailable})
		for range 5 {
			s.login(devSSO)
		}
	}},
	{"callback-failing", 9 * time.Minute, func(s *situation) {
		s.broken.Store(true)
		s.exchange(s.login(devSSO), s.services.SSOToken(s.user.User.ID))
	}},
	{"card-refused", 2 * time.Minute, func(s *situation) {
		s.fault(emulator.Fault{
			Operation: emulator.OpPostActivity, Activity: emulator.CardActivity,
			Status: http.StatusForbidden, Code: "BotNotInConversationRoster",
		})
		s.login(devSSO)
	}},
	{"killed-in-mid-exchange", 3 * time.Minute, func(s *situation) {
		s.fault(emulator.Fault{Operation: emulator.OpExchange, Delay: time.Hour, Drop: true})
		card := s.login(devSSO)
		process := &mortal{Store: s.store}
		timeouts := machine.DefaultTimeouts()
		timeouts.Upstream = 3 * time.Second // a dead process must not delay the test
		_, other := s.start("bot-b", process, timeouts)
		device := s.user.On("Windows")
		device.BotURL = other
		ctx, hangUp := context.WithCancel(s.t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = device.TokenExchange(ctx, card.ExchangeID(), devSSO, s.services.SSOToken(s.user.User.ID))
		}()
		for deadline := time.Now().Add(20 * time.Second); s.services.Count(emulator.OpExchange) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				s.t.Fatal("the exchange did not come")
			}
		}
		process.dead.Store(true)
		hangUp()
		<-ended
	}},
	{"wrong-region", 2 * time.Minute, func(s *situation) {
		s.fault(emulator.Fault{Operation: emulator.OpGetSignInResource, Status: http.StatusNotFound, Body: "not found"})
		s.login(devSSO)
	}},
	{"duplicate-devices", 2 * time.Minute, func(s *situation) {
		card := s.login(devSSO)
		for _, platform := range []string{"Windows", "iOS"} {
			_, err := s.user.On(platform).TokenExchange(s.t.Context(), card.ExchangeID(), devSSO, s.services.SSOToken(s.user.User.ID))
			s.must(err)
		}
	}},
}

// TestWhyIsThisUserStuck records in testdata/situations what an operator is shown
// of each situation, on a terminal of 80 by 24 characters and in the console. It
// also checks that each command which is advised there works.
func TestWhyIsThisUserStuck(t *testing.T) {
	for _, one := range situations {
		t.Run(one.name, func(t *testing.T) {
			s := newSituation(t)
			s.ago.Store(int64(one.ago))
			one.stage(s)
			s.must(s.bot.Engine().Drain(t.Context()))
			s.ago.Store(0)
			const token = "token-of-the-test"
			console := httptest.NewServer(s.bot.Operators(operator.HandlerConfig{Token: tokensvc.NewSecret(token)}))
			t.Cleanup(console.Close)
			environ := []string{"COLUMNS=80", "LINES=24", "TZ=UTC", "SIGNIN_ENGINE_OPERATOR=" + console.URL, "SIGNIN_ENGINE_OPERATOR_TOKEN=" + token}
			enter := func(args ...string) string {
				var out, errs bytes.Buffer
				code := run(t.Context(), args, &out, &errs, environ)
				if code != 0 && (args[0] != "doctor" || code != 1) { // doctor reports the trouble by its exit code
					t.Errorf("signin-engine %s: exit %d: %s", strings.Join(args, " "), code, errs.String())
				}
				return out.String()
			}
			screen := enter("inspect", s.user.User.ID)
			if lines := strings.SplitAfter(screen, "\n"); len(lines) > 23 { // the last line is for the prompt
				screen = strings.Join(lines[:23], "")
			}
			page := "$ signin-engine inspect " + s.user.User.ID + "\n" + screen + "\n== console\n"
			newest, err := s.store.List(t.Context(), store.Filter{User: s.user.User.ID, Limit: 1})
			s.must(err)
			path := "/users/" + s.user.User.ID
			if len(newest.Attempts) > 0 {
				path = "/attempts/" + newest.Attempts[0].ID
			}
			page += s.shown(console.URL+path, token)
			page = normal(page)
			golden := filepath.Join("testdata", "situations", one.name+".txt")
			if *rewriteSituations {
				s.must(os.WriteFile(golden, []byte(page), 0o600))
			}
			want, err := os.ReadFile(golden)
			s.must(err)
			if diff := cmp.Diff(string(want), page); diff != "" {
				t.Errorf("it says something else (-want +got); -situations.rewrite writes it down:\n%s", diff)
			}
			for _, command := range regexp.MustCompile(`(?m)^ +signin-engine (.*)$`).FindAllStringSubmatch(screen, -1) {
				enter(words(command[1])...)
			}
		})
	}
}

// shown returns the text of a console page, without its timeline.
func (s *situation) shown(address, token string) string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, address, http.NoBody)
	s.must(err)
	req.Header.Set("Accept", "text/html")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	s.must(err)
	defer res.Body.Close() //nolint:errcheck // it was read
	body, err := io.ReadAll(res.Body)
	s.must(err)
	_, main, _ := strings.Cut(string(body), "<main")
	main = "<main" + main
	for _, end := range []string{"</main>", `<section data-live id="attempt-way"`, `<section class="act"`} {
		main, _, _ = strings.Cut(main, end)
	}
	main = regexp.MustCompile(`</(p|li|h1|h2|ul|div|code)>|<code[^>]*>`).ReplaceAllString(main, "\n")
	main = html.UnescapeString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(main, " "))
	main = regexp.MustCompile(`[ \t]+`).ReplaceAllString(main, " ")
	return strings.TrimLeft(regexp.MustCompile(`\s*\n\s*`).ReplaceAllString(main, "\n"), " \n")
}

// normal replaces whatever differs between runs by fixed text.
func normal(text string) string {
	ids := map[string]string{}
	text = regexp.MustCompile(`\b01[0-9A-HJKMNP-TV-Z]{14,24}`).ReplaceAllStringFunc(text, func(id string) string {
		short := id[:16]
		if ids[short] == "" {
			ids[short] = fmt.Sprintf("ATTEMPT-%d", len(ids)+1)
		}
		return ids[short] + strings.Repeat("x", len(id)-len(ids[short]))
	})
	text = regexp.MustCompile(`\b\d{13}\b`).ReplaceAllString(text, "CARD")
	text = regexp.MustCompile(`http://127\.0\.0\.1:\d+`).ReplaceAllString(text, "http://HOST")
	return text
}
