package playground

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// The message extension: a search, the popup that its answer asks for, and the
// same search again.

// searchCommand is the extension's command for the page's search box.
const searchCommand = "search"

// search is the last search and its result.
type search struct {
	Text, Device string
	asked        *emulator.Incoming // nil = no search yet

	Who    string // who sent it; "" = the user
	Status int
	Failed string
	Type   string // result, auth, silentAuth, message; "" if there is no answer
	Said   string
	URL    string // of the popup
	Title  string
	Cards  []resultCard
	Raw    string // the answer, as JSON
	Code   string // the popup ended with this code
	Reason string // the popup failed for this reason
}

type resultCard struct{ Title, Text string }

// bring sends the search again, as Teams does when its popup has ended. The state
// is a code or CancelledByUser. With other it comes from the other user.
func (p *Playground) bring(ctx context.Context, state string, other bool) {
	p.mu.Lock()
	before, device, who := p.search.asked, p.search.Device, ""
	if other {
		who = p.other.Name
	}
	p.mu.Unlock()
	if before == nil {
		return
	}
	text := "composeExtension/query with the popup's code"
	switch {
	case state == emulator.CancelledByUser:
		text = "composeExtension/query CancelledByUser"
	case other:
		text += ", brought by " + who
	}
	p.look(ctx, device, text, who, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		if other {
			t.User = p.other
		}
		return t.Reissue(ctx, *before, state)
	})
}

// find sends a search, as Teams' search box does.
func (p *Playground) find(ctx context.Context, device, text string) {
	p.mu.Lock()
	p.search = search{Text: text, Device: device}
	p.mu.Unlock()
	p.look(ctx, device, "composeExtension/query “"+text+"”", "", func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		a, err := t.Query(ctx, searchCommand, text)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.search.asked = &a.Sent
		return a, err
	})
}

// look delivers a search and records its answer.
func (p *Playground) look(ctx context.Context, device, text, who string, deliver func(context.Context, *emulator.Teams) (emulator.Answer, error)) {
	p.send(ctx, entry{Device: device, Text: text}, func(ctx context.Context, t *emulator.Teams) (emulator.Answer, error) {
		a, err := deliver(ctx, t)
		p.mu.Lock()
		defer p.mu.Unlock()
		s := &p.search
		s.Who, s.Status, s.Failed, s.Reason = who, a.Status, "", ""
		s.Type, s.Said, s.URL, s.Title, s.Cards, s.Raw = "", "", "", "", nil, ""
		if err != nil {
			s.Failed = err.Error()
			return a, err
		}
		s.read(a)
		return a, nil
	})
}

func (s *search) read(a emulator.Answer) {
	var pretty bytes.Buffer
	if json.Indent(&pretty, a.Body, "", "  ") == nil {
		s.Raw = pretty.String()
	}
	c, err := a.Compose()
	if err != nil {
		return
	}
	s.Type, s.Said, s.URL, s.Title = c.Type, c.Text, c.URL, c.Title
	for _, raw := range c.Attachments {
		var card struct{ Content resultCard }
		if json.Unmarshal(raw, &card) == nil {
			s.Cards = append(s.Cards, card.Content)
		}
	}
}

// searching handles the forms of the message extension. It returns false for any
// other form.
func (p *Playground) searching(do string, value func(string) string, device string) (func(context.Context), bool) {
	switch do {
	case "search":
		text := strings.TrimSpace(value("q"))
		return func(ctx context.Context) { p.find(ctx, device, cmp.Or(text, "lakers")) }, true
	case "search-code":
		p.search.Code = value("code")
		code, other := p.search.Code, value("who") == "other"
		return func(ctx context.Context) { p.bring(ctx, code, other) }, true
	case "search-again":
		code := p.search.Code
		return func(ctx context.Context) { p.bring(ctx, code, false) }, true
	case "search-stolen":
		code := p.search.Code
		return func(ctx context.Context) { p.bring(ctx, code, true) }, true
	case "search-cancel":
		return func(ctx context.Context) { p.bring(ctx, emulator.CancelledByUser, false) }, true
	case "search-failed":
		p.search.Reason = value("reason")
		p.changes++
		return nil, true
	default:
		return nil, false
	}
}

// somebody makes another user, who has the first one's code.
func somebody() emulator.Account {
	key := strings.ToLower(rand.Text())
	return emulator.Account{ID: "29:1" + key, Name: "Somebody else", AADObjectID: uuidOf(key)}
}

// ClientScript is the path of a stand-in for the library of the Teams client, for
// the windows that the playground opens. With it, no other machine is asked for
// anything.
const ClientScript = "/playground/teams.js"

// ClientIntegrity returns the integrity hash of [ClientScript].
func ClientIntegrity() string {
	b, err := files.ReadFile("page/teams.js")
	if err != nil {
		return "" // cannot happen, since the file is embedded
	}
	sum := sha512.Sum384(b)
	return "sha384-" + base64.StdEncoding.EncodeToString(sum[:])
}
