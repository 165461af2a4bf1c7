package teams_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// TestCodeAsANumber covers a code that a client sends as a number, which has lost
// its leading zeros.
func TestCodeAsANumber(t *testing.T) {
	g := newGuarded(t)
	bot, stop := g.start(t, "a")
	defer stop()
	user := g.emu.Teams(bot.URL)
	if a, err := user.SendMessage(t.Context(), "show my mail"); err != nil || a.Status != http.StatusOK {
		t.Fatalf("message: %+v, %v", a, err)
	}
	card, err := g.emu.WaitForCard(t.Context(), user.Conversation.ID, 0)
	if err != nil {
		t.Fatal(err)
	}
	about := tokensvc.UserConnection{UserID: user.User.ID, Connection: "graph", ChannelID: "msteams"}
	code := g.emu.IssueCode(about)
	for !strings.HasPrefix(code, "0") {
		code = g.emu.IssueCode(about)
	}
	value := map[string]json.Number{"state": json.Number(strings.TrimLeft(code, "0"))}
	a, err := user.Invoke(t.Context(), "signin/verifyState", card.ActivityID, value)
	if err != nil || a.Status != http.StatusOK || !g.emu.HasToken(about) {
		t.Errorf("code %s as a number: %d %s, %v", code, a.Status, a.Body, err)
	}
}
