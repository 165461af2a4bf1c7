package operator

import (
	"cmp"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/signin-engine/signin-engine/diagrams"
	"github.com/signin-engine/signin-engine/machine/diagram"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Tone is how serious a story is.
type Tone string

// The tones.
const (
	ToneGood Tone = "good" // the user is signed in
	ToneWait Tone = "wait" // nothing is wrong; the sign-in is going on or was ended on purpose
	ToneWarn Tone = "warn" // something did not work, and the sign-in can still succeed or be repeated
	ToneBad  Tone = "bad"  // something has to be repaired
)

// Story describes an attempt in sentences: what happened, and what to do.
type Story struct {
	Tone     Tone
	Headline string   // one or two sentences
	Facts    []string // further sentences
	Advice   []Advice // the most important first
}

// Advice is something to do, with its reason.
type Advice struct {
	Because string // the reason; may be empty
	Do      string
	Command string // shell command to paste; "" = none
	Word    string // word for [Explain]; "" = none
}

// StoryOf describes what happened to an attempt, in words for people who do not
// know the code.
func StoryOf(d Detail) Story {
	s := Story{Tone: ToneWait}
	switch d.State {
	case store.Complete:
		s.Tone, s.Headline = ToneGood, completeWords(d)
		if d.Callback.Status == string(store.DeliveryDead) || d.Callback.Status == string(store.DeliveryPending) && d.Callback.Tries > 0 {
			s.Headline += " The bot's own code has not handled the result yet."
		}
	case store.Failed:
		s.Tone, s.Headline = failedWords(d)
	case store.CardSent:
		s.Headline = cardWords(d)
		if d.SSOOutcome != "" || d.PopupClosed {
			s.Tone = ToneWarn
		}
	case store.Idle:
		s.Headline = "The card is on its way to the user."
	case store.Exchanging:
		s.Headline = "An SSO token is at the Token Service now."
	case store.Verifying:
		s.Headline = "A code from the sign-in window is at the Token Service now."
	case store.None:
		s.Headline = "No attempt is stored."
	}
	if !d.State.Terminal() && d.Lease.Expired && d.Lease.Owner != "" && d.State != store.CardSent {
		s.Headline = "The instance that worked on this sign-in is gone, and no other one has finished it yet."
	}
	if d.Failure != nil && d.State != store.Complete {
		s.Facts = append(s.Facts, failureWords(d.Failure))
	}
	if d.DeliveryUnknown {
		s.Facts = append(s.Facts, "It is unknown whether the card was delivered: the connector gave no clear answer.")
	}
	if d.SupersededBy != "" {
		s.Facts = append(s.Facts, "The sign-in continues in a newer attempt: see the chain.")
	}
	var later []Advice // warnings: given only if nothing else explains the attempt
	for _, f := range d.Findings {
		one := Advice{Because: textOf(f.Rule).meaning, Do: f.Advice, Command: pasted(f), Word: f.Rule}
		if f.Serious() {
			s.Tone = ToneBad
			s.Advice = append(s.Advice, one)
		} else {
			later = append(later, one)
		}
		if s.Tone != ToneBad {
			s.Tone = ToneWarn
		}
		if f.Detail != "" {
			s.Facts = append(s.Facts, "Seen: "+f.Detail+".")
		}
	}
	if d.State != store.Complete {
		for _, e := range d.Diagnosis.Explain() {
			s.Advice = append(s.Advice, Advice{Because: e.Meaning, Do: e.Advice})
		}
	}
	s.Advice = append(s.Advice, failureAdvice(d)...)
	if len(s.Advice) == 0 { // warnings name a symptom; causes are better advice
		s.Advice = later
	}
	if len(s.Advice) == 0 {
		s.Advice = []Advice{{Do: nothingToDo}}
		switch {
		case d.State == store.CardSent && lastSetback(d) != "":
			s.Advice[0].Do = "Nothing has to be repaired: the user presses the card's button again before it expires."
		case d.State == store.CardSent:
			s.Advice[0].Do = "Nothing to do until the card expires: the next step is the user's."
		}
	}
	return s
}

// pasted is the command of a finding. It is empty for commands that only show what
// the page shows already.
func pasted(f Finding) string {
	for _, word := range []string{"inspect", "list", "watch"} {
		if strings.HasPrefix(f.Command, "signin-engine "+word+" ") {
			return ""
		}
	}
	return f.Command
}

// who is the user as the subject of a sentence.
func who(d Detail) string { return cmp.Or(d.UserName, "The user") }

func completeWords(d Detail) string {
	took := ""
	if e := d.Entered.Sub(d.Created.Time); e > 0 {
		took = ", " + ago(e) + " after the bot asked"
	}
	switch d.Method {
	case store.MethodTokenExchange:
		return who(d) + " is signed in, silently by single sign-on" + took + "."
	case store.MethodVerifyState:
		return who(d) + " is signed in, through the sign-in window" + took + "."
	case store.MethodSilent:
		return who(d) + " is signed in: a token was there when the bot asked again."
	case store.MethodCompose:
		return who(d) + " is signed in, through a message extension" + took + "."
	case store.MethodAdaptiveCard:
		return who(d) + " is signed in, through a card action" + took + "."
	case store.MethodRecovered:
		return who(d) + " is signed in: an instance died during its call, but the Token Service had the token."
	default:
		return who(d) + " is signed in."
	}
}

func failedWords(d Detail) (Tone, string) {
	switch d.Reason {
	case store.ReasonExpired:
		return ToneWarn, "Nobody finished the sign-in within its time, so it ended."
	case store.ReasonSuperseded:
		return ToneWait, "The user asked again, and a newer card replaced this one."
	case store.ReasonSignedOut:
		return ToneWait, "The user signed out while the sign-in was under way."
	case store.ReasonOperator:
		return ToneWait, "An operator ended this sign-in."
	case store.ReasonUserCancelled:
		return ToneWarn, "The user closed the sign-in window, and the sign-in ended."
	default:
	}
	if e, ok := Explain(string(d.Reason)); ok {
		return ToneBad, "The sign-in failed. " + e.Meaning
	}
	return ToneBad, "The sign-in failed."
}

func cardWords(d Detail) string {
	const button = " The card's button still works."
	switch lastSetback(d) {
	case "popup":
		return "The user closed the sign-in window without finishing." + button
	case "exchange":
		return "The Token Service refused silent sign-on." + button
	case "client":
		return "The user's Teams client could not do silent sign-on." + button
	case "code":
		return "The Token Service refused the code that the user sent." + button
	}
	switch {
	case d.SSOOffered && d.Invokes == 0:
		return "The card was sent, and no Teams client has answered it yet."
	case !d.SSOOffered:
		return "The card was sent. The user has to press its button."
	default:
		return "The card was sent, and the next step is the user's."
	}
}

// lastSetback is the reason for the last return of an attempt to CardSent: "popup"
// (the user closed it), "exchange" (it was refused), "client" (the client reported
// a failure), "code" (a wrong code), or "". The audit trail tells which came last.
// Without a trail the flags of the attempt tell what has happened at all.
func lastSetback(d Detail) string {
	for _, e := range slices.Backward(d.Events) {
		if e.Kind != store.EventTransition || e.To != store.CardSent {
			continue
		}
		switch row, _, _ := strings.Cut(e.Row, "/"); row {
		case "C1":
			return "popup"
		case "B3":
			return "exchange"
		case "D7":
			return "client"
		case "C5", "C6", "C7", "C8", "C10b":
			return "code"
		}
	}
	switch {
	case d.PopupClosed:
		return "popup"
	case d.SSOOutcome == "rejected":
		return "exchange"
	case strings.HasPrefix(d.SSOOutcome, "client_failed"):
		return "client"
	case d.VerifyTries > 0:
		return "code"
	}
	return ""
}

// failureWords says in a sentence who refused what.
func failureWords(f *FailureView) string {
	var b strings.Builder
	switch f.Source {
	case store.SourceClient:
		b.WriteString("The Teams client reported " + cmp.Or(f.Code, "a failure without a code"))
	case store.SourceCredentials:
		b.WriteString("Entra did not give the bot its own token" + answered(f))
	case store.SourceTokenService:
		b.WriteString("The Token Service" + answered(f))
	case store.SourceConnector:
		b.WriteString("The Bot Connector" + answered(f))
	default:
		b.WriteString(cmp.Or(f.Source, "An upstream") + answered(f))
	}
	if f.Message != "" && f.Source == store.SourceClient { // messages of the other sources repeat the above
		b.WriteString(": “" + f.Message + "”")
	}
	return b.String() + "."
}

// answered says what an upstream answered to which call.
func answered(f *FailureView) string {
	var said string
	switch {
	case f.Source == store.SourceCredentials:
		said = ": " + statusWord(f.HTTPStatus)
	case f.HTTPStatus == 0:
		said = strings.TrimRight(" did not answer "+f.Operation, " ")
	case f.Operation == "":
		said = " answered " + statusWord(f.HTTPStatus)
	default:
		said = " answered " + f.Operation + " with " + statusWord(f.HTTPStatus)
	}
	for _, code := range []string{f.Code, f.Kind} {
		if code != "" && code != strings.ReplaceAll(http.StatusText(f.HTTPStatus), " ", "") { // "404 Not Found (NotFound)" repeats itself
			return said + " (" + code + ")"
		}
	}
	return said
}

// failureAdvice explains the last failure of an attempt that is not complete, or
// its reason if there was no failure. It explains the most specific word.
func failureAdvice(d Detail) []Advice {
	if d.State == store.Complete {
		return nil
	}
	words := []string{string(d.Reason)}
	if f := d.Failure; f != nil && unknownThere(f) {
		return []Advice{{
			Because: "The Token Service does not know this connection of the bot: its name is wrong, or another region has it.",
			Do: "Check the name in the Azure Bot resource, under Configuration, OAuth connection settings. For a bot in a region set token_service_url to its address, such as " +
				tokensvc.EuropeURL + ".",
		}}
	}
	if f := d.Failure; f != nil {
		status := strconv.Itoa(f.HTTPStatus)
		words = []string{f.Code, f.Kind, status, string(d.Reason)}
		if f.HTTPStatus == 0 || f.HTTPStatus >= http.StatusInternalServerError { // such a status is less specific than the reason
			words = []string{f.Code, f.Kind, string(d.Reason), status}
		}
	}
	for _, word := range words {
		if e, ok := Explain(word); ok {
			return []Advice{{Because: e.Meaning, Do: e.Advice, Word: e.Code}}
		}
	}
	return nil
}

// unknownThere reports whether the failure means that the Token Service does not
// know the connection. For such a GetSignInResource it answers 404 or 500 without a
// code.
func unknownThere(f *FailureView) bool {
	return f.Source == store.SourceTokenService && f.Code == "" && f.Kind == "" && f.Operation == tokensvc.OpGetSignInResource &&
		(f.HTTPStatus == http.StatusNotFound || f.HTTPStatus == http.StatusInternalServerError)
}

// whom names the user in a title.
func whom(d Detail) string { return cmp.Or(d.UserName, d.Key.User) }

// clipped is [shown], cut to 44 characters.
func clipped(s string) string {
	const keep = 44
	if r := []rune(shown(s)); len(r) > keep {
		return string(r[:keep-1]) + "…"
	}
	return shown(s)
}

// says puts an audit line into a sentence.
func says(e EventView) string {
	explained := func(otherwise string) string {
		if x, ok := Explain(e.Row); ok && e.Row != "" {
			return x.Meaning
		}
		return otherwise
	}
	switch e.Kind {
	case store.EventTransition:
		return explained(cmp.Or(string(e.From), "new") + " → " + string(e.To))
	case store.EventReceived:
		return receivedWords(e.Invoke)
	case store.EventUpstream:
		if e.Status == 0 {
			return "Called " + e.Invoke + ": no answer."
		}
		if notSignedIn(e) {
			return "Called " + e.Invoke + ": " + statusWord(e.Status) + ", which means not signed in."
		}
		return "Called " + e.Invoke + ": " + statusWord(e.Status) + "."
	case store.EventAnswer:
		return "The bot answered " + cmp.Or(e.Invoke, "the invoke") + " with " + statusWord(e.Status) + "."
	case store.EventCallback:
		return callbackWords(e.Detail)
	case store.EventOperator:
		return "An operator asked to " + cmp.Or(e.Invoke, "act") + "."
	case store.EventSecurity:
		return "A warning: " + cmp.Or(e.Detail, "something that should not happen") + "."
	case store.EventNote:
		return explained("Noted.")
	default:
		return string(e.Kind)
	}
}

// callbackWords says how a callback ended. detail is that of the audit line, which
// begins with the delivery status.
func callbackWords(detail string) string {
	status, _, _ := strings.Cut(detail, ":")
	switch store.DeliveryStatus(status) {
	case store.DeliveryPending:
		return "The bot's own code did not handle the result. It will be called again."
	case store.DeliveryDead:
		return "The bot's own code did not handle the result, and will not be called again."
	case store.DeliveryUndeliverable:
		return "The bot's own code could not deliver its message, and a retry cannot change that."
	default:
		return "The bot's own code was called."
	}
}

func receivedWords(invoke string) string {
	switch strings.ToLower(invoke) {
	case "signin/tokenexchange":
		return "The Teams client sent an SSO token."
	case "signin/verifystate":
		return "The Teams client sent the result of the sign-in window."
	case "signin/failure":
		return "The Teams client reported that silent sign-on failed."
	case "message":
		return "The user wrote to the bot."
	case "signin":
		return "The bot's own code asked for a sign-in."
	default:
		return "Received " + cmp.Or(invoke, "an activity") + "."
	}
}

// notSignedIn reports whether a line is a GetToken that answered 404. That is not a
// failure: the user is not signed in.
func notSignedIn(e EventView) bool {
	return e.Kind == store.EventUpstream && e.Status == http.StatusNotFound && strings.EqualFold(e.Invoke, tokensvc.OpGetToken)
}

// isBad reports whether a line reports a failure.
func isBad(e EventView) bool {
	switch {
	case e.Kind == store.EventCallback:
		return callbackWords(e.Detail) != callbackWords("")
	case e.Kind == store.EventSecurity, e.To == store.Failed && e.From != store.Failed:
		return true
	case notSignedIn(e):
		return false
	case e.Kind == store.EventUpstream && e.Status == 0:
		return true
	}
	return e.Status >= http.StatusBadRequest || e.Source != "" || e.Code != ""
}

func pathEvents(d Detail) []store.Event {
	events := make([]store.Event, 0, len(d.Events))
	for _, e := range d.Events {
		events = append(events, store.Event{Kind: e.Kind, Row: e.Row, From: e.From, To: e.To})
	}
	return events
}

func drawingOf(d Detail) string {
	return drawing(diagram.Options{Path: pathEvents(d), Current: d.State})
}

// drawing is the diagram of the state machine as inline SVG: without XML prologue,
// background and size.
func drawing(o diagram.Options) string {
	svg := diagram.ClassSVG(diagrams.SVG, o)
	at := strings.Index(svg, "<g id=")
	if at < 0 {
		return ""
	}
	view := `viewBox="0 0 848 400"`
	if head := svg[:at]; strings.Contains(head, `viewBox="`) {
		_, rest, _ := strings.Cut(head, `viewBox="`)
		box, _, _ := strings.Cut(rest, `"`)
		view = `viewBox="` + box + `"`
	}
	body := svg[at:]
	if from := strings.Index(body, `<polygon fill="white"`); from >= 0 {
		if to := strings.Index(body[from:], "/>"); to >= 0 {
			body = body[:from] + body[from+to+2:]
		}
	}
	class := "machine"
	if len(o.Path) > 0 || o.Current != store.None {
		class += " marked"
	}
	return `<svg class="` + class + `" role="img" aria-label="The states of a sign-in and the transitions between them" ` + view + `>` + body
}

// WriteAttempt writes an attempt as HTML, as the console shows it: what happened
// and what to do, the diagram and the timeline. It is for other pages of this
// product, which need the style sheet of [Assets].
func WriteAttempt(w io.Writer, d Detail) error {
	t, err := pages()
	if err != nil {
		return err
	}
	if err = t[""].ExecuteTemplate(w, "attempt-body", pageOf(d, "")); err != nil {
		return fmt.Errorf("write attempt: %w", err)
	}
	return nil
}

// WriteDiagram writes the diagram of the state machine as HTML, without a marked
// path. The page needs the style sheet of [Assets].
func WriteDiagram(w io.Writer) error {
	t, err := pages()
	if err != nil {
		return err
	}
	if err = t[""].ExecuteTemplate(w, "machine", diagramPage{SVG: drawing(diagram.Options{})}); err != nil {
		return fmt.Errorf("write diagram: %w", err)
	}
	return nil
}

const mostText = 300

// shown makes text from outside safe to read: characters that would hide or reorder
// text become visible codes, and a long text is cut to mostText characters.
func shown(s string) string {
	var b strings.Builder
	n := 0
	for _, r := range s {
		if n == mostText {
			fmt.Fprintf(&b, "… (%d characters)", len([]rune(s)))
			break
		}
		n++
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			b.WriteByte(' ')
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == unicode.ReplacementChar || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r):
			fmt.Fprintf(&b, "⟨U+%04X⟩", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// shortened is the beginning of an id, for tables.
func shortened(id string) string {
	const keep = 14
	if r := []rune(shown(id)); len(r) > keep+2 {
		return string(r[:keep]) + "…"
	}
	return shown(id)
}

// templateFuncs are the functions of the templates.
func templateFuncs() template.FuncMap {
	return template.FuncMap{
		"shown": shown, "clipped": clipped, "short": shortened, "path": pathOf, "asset": asset, "ago": ago,
		"svg":    func(s string) template.HTML { return template.HTML(s) }, //nolint:gosec // drawn by this program, of its own words
		"ms":     func(m Milliseconds) string { return ago(m.Duration()) },
		"clock":  func(t Time) string { return t.UTC().Format("15:04:05.000") },
		"stamp":  func(t Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"day":    func(t Time) string { return t.UTC().Format(time.DateOnly) },
		"second": func(t Time) string { return t.UTC().Format(time.TimeOnly) },
		"iso":    func(t Time) string { return t.String() },
		"since":  func(now, t Time) string { return ago(now.Sub(t.Time)) },
		"left":   func(now, t Time) time.Duration { return t.Sub(now.Time) },
		"status": statusWord,
		"why":    func(v View) string { return cmp.Or(string(v.Method), string(v.Reason)) },
		"meaning": func(word any) string {
			e, _ := Explain(fmt.Sprint(word))
			return e.Meaning
		},
		"bars": chartOf, "pasted": pasted,
		"query": func(name, value string) string {
			return "/attempts?" + template.URLQueryEscaper(name) + "=" + template.URLQueryEscaper(value)
		},
		"plural": func(n int, one, many string) string {
			if n == 1 {
				return "1 " + one
			}
			return strconv.Itoa(n) + " " + many
		},
		"lower": strings.ToLower,
	}
}
