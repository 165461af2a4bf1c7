package operator_test

import (
	"encoding/json"
	"testing"

	"github.com/signin-engine/signin-engine/transport/browsertest"
)

// The console works in a real Chromium; see testdata/console.mjs.
func TestConsoleInBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser is not for short runs")
	}
	s := newStage(t)
	s.play(t)
	consent, hostileOne := s.attempt(t, "consent"), s.attempt(t, "hostile")
	asJSON := func(v any) string {
		b, err := json.Marshal(v)
		must(t, err)
		return string(b)
	}
	browsertest.Run(
		t, "testdata/console.mjs", "CONSOLE="+s.console.URL, "IDS="+asJSON(s.ids), "ACT="+actToken, "READ="+readToken,
		"USER_ID="+consent.Key.User, "HOSTILE_USER="+hostileOne.Key.User, "HOSTILE="+printable(hostile()),
		"SEARCH="+asJSON(map[string]string{
			"attempt": consent.ID, "exchange id": consent.ExchangeID, "card id": consent.CardActivityID,
			"message id": consent.Activity, "user": consent.Key.User, "Entra": consent.Conversation.UserAAD,
		}),
	)
}
