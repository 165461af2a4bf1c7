package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// botURL is the URL of the bot. The client's dialer ignores its host and connects
// to the process that serves.
const botURL = "http://bot/api/messages"

// post sends a body unchanged.
func post(ctx context.Context, client *http.Client, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, botURL, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, errors.Join(err, resp.Body.Close())
}

// person is a user who wants to be signed in, and does what that takes.
type person struct {
	w     *world
	teams *emulator.Teams
	popup bool // has no SSO, or does not wait for it
	cards int  // how many the sign-in took
}

// tries bounds how often a person starts over.
const tries = 20

// redeliveries bounds how often an activity is sent again.
const redeliveries = 500

// signIn sends "login graph" and lets the clients do their part. It starts over
// until the Token Service holds a token.
func (p *person) signIn(ctx context.Context) error {
	for n := range tries {
		card, err := p.card(ctx)
		if err != nil {
			return err
		}
		if card != nil {
			p.cards++
			if p.popup {
				err = p.enterCode(ctx, card, n)
			} else {
				err = p.sso(ctx, card, n)
			}
			if err != nil {
				return err
			}
		}
		if p.w.signedIn(p.teams) {
			return nil
		}
	}
	return fmt.Errorf("%s is not signed in after %d tries", p.teams.User.Name, tries)
}

// card asks for a sign-in until a new card is in the chat. It returns nil if the
// user is signed in already.
func (p *person) card(ctx context.Context) (*emulator.Card, error) {
	before, _ := p.w.LastCard(p.teams.Conversation.ID)
	for range tries {
		if _, err := p.teams.SendMessage(ctx, "login graph"); err != nil {
			return nil, err
		}
		if card, ok := p.w.LastCard(p.teams.Conversation.ID); ok && card.Seq != before.Seq {
			return &card, nil
		}
		if p.w.signedIn(p.teams) {
			return nil, nil
		}
	}
	return nil, fmt.Errorf("%s sees no card after %d messages", p.teams.User.Name, tries)
}

// sso has three devices exchange a token for the same card at once.
func (p *person) sso(ctx context.Context, card *emulator.Card, n int) error {
	if card.ExchangeID() == "" {
		return errors.New("the card offers no SSO")
	}
	platforms := []string{"Web", "Windows", "iOS"}
	errs := make([]error, len(platforms))
	var wg sync.WaitGroup
	for i, platform := range platforms {
		device := p.teams.On(platform)
		wg.Go(func() {
			_, errs[i] = device.TokenExchange(ctx, card.ExchangeID(), connection, fmt.Sprintf("sso-%s-%d", p.teams.User.ID, n))
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// enterCode goes through the popup.
func (p *person) enterCode(ctx context.Context, card *emulator.Card, n int) error {
	code, err := p.w.code(ctx, card, fmt.Sprintf("code-%s-%d", p.teams.User.ID, n))
	if err != nil {
		return err
	}
	_, err = p.teams.VerifyState(ctx, code, card.ActivityID)
	return err
}

// redelivery sends the same activity again, as Teams does, when the connection
// breaks or the answer is 5xx. It is more patient than Teams, since in
// TestRandomKills dozens of processes may die on one invoke.
type redelivery struct{ http.RoundTripper }

func (r redelivery) RoundTrip(req *http.Request) (resp *http.Response, err error) {
	for n := range redeliveries {
		again := req.Clone(req.Context())
		if n > 0 {
			if again.Body, err = req.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err = r.RoundTripper.RoundTrip(again)
		if err == nil && resp.StatusCode < http.StatusInternalServerError {
			// A body that breaks off counts as a broken connection.
			var body []byte
			body, err = io.ReadAll(resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err == nil {
				resp.Body = io.NopCloser(bytes.NewReader(body))
				return resp, nil
			}
		}
		if err == nil && n < redeliveries-1 {
			err = resp.Body.Close()
		}
		if req.Context().Err() != nil {
			break
		}
	}
	return resp, err
}
