package teams_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// TestTokensResponse covers Web Chat, which reports by an event that the user has
// signed in. The engine does not trust the event, and asks the Token Service.
func TestTokensResponse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g := newGuarded(t)
	bot, stop := g.start(t, "a")
	defer stop()
	user := g.emu.Teams(bot.URL)
	user.ChannelID = "webchat"
	if a, err := user.SendMessage(ctx, "show my issues"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("%+v, %v", a, err)
	}
	card, err := g.emu.WaitForCard(ctx, user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	signedIn := func(connection string) {
		event := user.Message("")
		event.Type, event.Name, event.Text = "event", machine.EventTokensResponse, ""
		event.Value = json.RawMessage(`{"connectionName":"` + connection + `","token":"made-up"}`)
		if a, err := user.Send(ctx, event); err != nil || a.Status != http.StatusOK {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	state := func() (open, complete int) {
		page, err := g.st.List(ctx, store.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Attempts {
			switch {
			case !a.State.Terminal():
				open++
			case a.State == store.Complete:
				complete++
			}
		}
		return open, complete
	}

	signedIn("graph")
	if open, complete := state(); open != 1 || complete != 0 {
		t.Fatalf("made up: %d open, %d complete", open, complete)
	}
	grant := func(connection string) {
		about := tokensvc.UserConnection{UserID: user.User.ID, Connection: connection, ChannelID: "webchat"}
		g.emu.PutToken(about)
	}
	grant("graph")
	signedIn("graph")
	if card, err = g.emu.WaitForCard(ctx, user.Conversation.ID, card.Seq); err != nil || card.Connection != "github" {
		t.Fatalf("%+v, %v", card, err)
	}
	grant("github")
	signedIn("github")
	if open, complete := state(); open != 0 || complete != 2 {
		t.Errorf("%d open, %d complete", open, complete)
	}
	if said := g.said(); len(said) != 1 || said[0] != "a: show my issues" {
		t.Errorf("the bot heard %q", said)
	}
}
