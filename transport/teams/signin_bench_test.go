package teams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// instantUpstream is both Token Service and connector, without a network.
type instantUpstream struct {
	machine.TokenService
	machine.Messenger
	signedIn bool
	last     string // exchange id of the last card
	cards    int
}

func (u *instantUpstream) GetToken(context.Context, tokensvc.UserConnection, tokensvc.Secret) (tokensvc.Token, error) {
	if u.signedIn {
		return tokensvc.Token{Token: tokensvc.NewSecret("token")}, nil
	}
	return tokensvc.Token{}, tokensvc.ErrNoToken
}

func (u *instantUpstream) GetSignInResource(context.Context, tokensvc.State) (tokensvc.SignInResource, error) {
	u.cards++
	u.last = "exchange-" + strconv.Itoa(u.cards)
	return tokensvc.SignInResource{
		SignInLink:            tokensvc.NewSecret("https://token.botframework.com/api/oauth/signin"),
		TokenExchangeResource: &tokensvc.TokenExchangeResource{ID: u.last},
	}, nil
}

func (*instantUpstream) Exchange(context.Context, tokensvc.UserConnection, tokensvc.Secret) (tokensvc.Token, error) {
	return tokensvc.Token{Token: tokensvc.NewSecret("token")}, nil
}

func (*instantUpstream) Send(context.Context, store.Conversation, machine.Message) (string, error) {
	return "1776827524158", nil
}

// signInBot is a handler with a real engine and a store in memory: everything
// between the listener and the network.
func signInBot(b *testing.B, up *instantUpstream) http.Handler {
	b.Helper()
	eng, err := machine.New(machine.Config{
		AppID: seedBot, Store: memstore.New(nil), Tokens: up, Messenger: up,
		Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(),
	})
	if err != nil {
		b.Fatal(err)
	}
	flow, err := eng.Flow("graph")
	if err != nil {
		b.Fatal(err)
	}
	flow.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		return turn.Send(ctx, "Connected!")
	})
	return newHandler(b, eng, func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
		_, err := flow.SignIn(ctx, turn)
		return nil, err
	})
}

// wire makes the activities of ever new users. It replaces what changes inside
// one recorded activity, so that the benchmark does not measure encoding.
type wire struct {
	message, exchange []byte
	reader            bytes.Reader
	request           *http.Request
}

const (
	somebody = "29:somebody"
	someCard = "card-of-somebody"
)

func newWire(b *testing.B) *wire {
	b.Helper()
	var bodies [][]byte
	robin := emulator.NewTeams("http://bot.invalid", seedServiceURL, 1)
	robin.User.ID = somebody
	robin.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		bodies = append(bodies, body)
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, err
	})}
	if _, err := robin.SendMessage(b.Context(), "login"); err != nil {
		b.Fatal(err)
	}
	jwt := string(bytes.Repeat([]byte("a"), 1500)) // about as long as a real one
	if _, err := robin.TokenExchange(b.Context(), someCard, "graph", jwt); err != nil {
		b.Fatal(err)
	}
	w := &wire{message: bodies[0], exchange: bodies[1]}
	w.request = httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/api/messages", &w.reader)
	return w
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// of returns a body for the n-th user.
func (*wire) of(body []byte, n int, card string) []byte {
	user := fmt.Appendf(nil, "29:%09d", n)
	return bytes.Replace(bytes.Replace(body, []byte(somebody), user, 1), []byte(someCard), []byte(card), 1)
}

// post sends a body and returns the status.
func (w *wire) post(h http.Handler, body []byte) int {
	w.reader.Reset(body)
	w.request.ContentLength = int64(len(body))
	rec := &statusOnly{discard: discard{header: http.Header{}}}
	h.ServeHTTP(rec, w.request)
	return rec.status
}

type statusOnly struct {
	discard
	status int
}

func (s *statusOnly) WriteHeader(status int) { s.status = status }

// BenchmarkSSO measures one whole sign-in: message, card, exchange and callback.
// The variant bare does the same without an engine.
func BenchmarkSSO(b *testing.B) {
	up := &instantUpstream{}
	for _, bot := range []struct {
		name string
		h    http.Handler
	}{{"engine", signInBot(b, up)}, {"bare", bareBot(up)}} {
		b.Run(bot.name, func(b *testing.B) {
			w := newWire(b)
			b.ReportAllocs()
			for b.Loop() {
				if status := w.post(bot.h, w.of(w.message, up.cards, "")); status != http.StatusOK {
					b.Fatal("message:", status)
				}
				if status := w.post(bot.h, w.of(w.exchange, up.cards-1, up.last)); status != http.StatusOK {
					b.Fatal("exchange:", status)
				}
			}
		})
	}
}

// BenchmarkSilent measures a message of a user who is signed in.
func BenchmarkSilent(b *testing.B) {
	up := &instantUpstream{signedIn: true}
	for _, bot := range []struct {
		name string
		h    http.Handler
	}{{"engine", signInBot(b, up)}, {"bare", bareBot(up)}} {
		b.Run(bot.name, func(b *testing.B) {
			w := newWire(b)
			b.ReportAllocs()
			for b.Loop() {
				if status := w.post(bot.h, w.message); status != http.StatusOK {
					b.Fatal(status)
				}
			}
		})
	}
}

// bareBot makes the same calls and stores nothing. It shows the ceiling, as in
// package bench.
func bareBot(up *instantUpstream) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Type, ID, ServiceURL, ChannelID string
			From, Recipient, Conversation   struct{ ID string }
			Value                           struct{ Token string }
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		uc := tokensvc.UserConnection{UserID: in.From.ID, Connection: "graph", ChannelID: in.ChannelID}
		to := store.Conversation{ServiceURL: in.ServiceURL, Channel: in.ChannelID, ID: in.Conversation.ID, BotID: in.Recipient.ID, UserID: in.From.ID}
		switch _, err := up.GetToken(r.Context(), uc, tokensvc.Secret{}); {
		case in.Type == "invoke":
			_, _ = up.Exchange(r.Context(), uc, tokensvc.NewSecret(in.Value.Token))
			_, _ = up.Send(r.Context(), to, machine.Message{ReplyTo: in.ID, Text: "Connected!"})
		case err != nil:
			res, _ := up.GetSignInResource(r.Context(), tokensvc.State{UserID: in.From.ID})
			_, _ = up.Send(r.Context(), to, machine.Message{ReplyTo: in.ID, Card: &machine.OAuthCard{Resource: res}})
		}
		w.WriteHeader(http.StatusOK)
	})
}
