package operator_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// ago is a time before the clock of these tests.
func ago(d time.Duration) time.Time { return morning().Add(-d) }

// said returns the rules of findings with their levels.
func said(found []operator.Finding) string {
	words := make([]string, len(found))
	for i, f := range found {
		words[i] = f.Rule + " " + f.Level
	}
	return strings.Join(words, ", ")
}

func TestRulesOfOneAttempt(t *testing.T) {
	card := func(edit func(*store.Attempt)) store.Attempt {
		a := store.Attempt{
			ID: stuckID, State: store.CardSent, Created: ago(10 * time.Minute), Entered: ago(10 * time.Minute),
			Expires: ago(-5 * time.Minute), SSOOffered: true, Invokes: 1,
		}
		edit(&a)
		return a
	}
	for name, tc := range map[string]struct {
		attempt store.Attempt
		want    string
	}{
		"fine": {card(func(*store.Attempt) {}), ""},
		"idle-old": {card(func(a *store.Attempt) {
			a.State, a.Entered = store.Idle, ago(31*time.Second)
		}), "idle-old error"},
		"idle": {card(func(a *store.Attempt) { a.State, a.Entered = store.Idle, ago(29*time.Second) }), ""},
		"waiting": {card(func(a *store.Attempt) {
			a.Invokes, a.Entered = 0, ago(121*time.Second)
		}), "waiting warn"},
		"waiting without SSO": {card(func(a *store.Attempt) { a.Invokes, a.SSOOffered = 0, false }), ""},
		"past-expiry":         {card(func(a *store.Attempt) { a.Expires = ago(61 * time.Second) }), "past-expiry error"},
		"consent-pending": {card(func(a *store.Attempt) {
			a.SSOOutcome, a.Entered = "rejected", ago(181*time.Second)
		}), "consent-pending warn"},
		"lease-expired": {card(func(a *store.Attempt) {
			a.State, a.Lease = store.Verifying, store.Lease{Owner: "b", Until: ago(6 * time.Second)}
		}), "lease-expired error"},
		"a lease just over": {card(func(a *store.Attempt) {
			a.State, a.Lease = store.Verifying, store.Lease{Owner: "b", Until: ago(4 * time.Second)}
		}), ""},
		"flapping":         {card(func(a *store.Attempt) { a.Rounds = 4 }), "flapping warn"},
		"three rounds":     {card(func(a *store.Attempt) { a.Rounds = 3 }), ""},
		"flapping is over": {card(func(a *store.Attempt) { a.Rounds, a.State = 4, store.Complete }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := said(operator.Stuck(morning(), &tc.attempt, nil, operator.DefaultRules())); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// callback returns a delivery that was created five minutes ago.
func callback(round, tries int, status store.DeliveryStatus, next time.Time) store.Delivery {
	return store.Delivery{
		DeliveryKey: store.DeliveryKey{Attempt: doneID, Kind: store.DeliverComplete, Round: round},
		Status:      status, Tries: tries, Created: ago(5 * time.Minute), NextAt: next, Error: "boom",
	}
}

func TestCallbackLag(t *testing.T) {
	for name, tc := range map[string]struct {
		rows []store.Delivery
		want string
	}{
		"its turn came long ago":    {[]store.Delivery{callback(1, 1, store.DeliveryPending, ago(61*time.Second))}, "callback-lag error"},
		"its turn has just come":    {[]store.Delivery{callback(1, 1, store.DeliveryPending, ago(59*time.Second))}, ""},
		"asked to come back later":  {[]store.Delivery{callback(1, 1, store.DeliveryPending, ago(-time.Hour))}, ""},
		"tried five times":          {[]store.Delivery{callback(1, 5, store.DeliveryPending, ago(-time.Hour))}, "callback-lag error"},
		"dead":                      {[]store.Delivery{callback(1, 10, store.DeliveryDead, ago(0))}, "callback-lag error"},
		"undeliverable":             {[]store.Delivery{callback(1, 1, store.DeliveryUndeliverable, ago(0))}, ""},
		"delivered":                 {[]store.Delivery{callback(1, 6, store.DeliveryDone, ago(time.Hour))}, ""},
		"waits behind an early one": {[]store.Delivery{callback(1, 2, store.DeliveryPending, ago(-time.Minute)), callback(2, 0, store.DeliveryPending, ago(5*time.Minute))}, ""},
		"behind one that is dead":   {[]store.Delivery{callback(1, 10, store.DeliveryUndeliverable, ago(0)), callback(2, 0, store.DeliveryPending, ago(5*time.Minute))}, "callback-lag error"},
	} {
		t.Run(name, func(t *testing.T) {
			a := doneAttempt()
			found := operator.Stuck(morning(), &a, tc.rows, operator.DefaultRules())
			if got := said(found); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if tc.want != "" && (!strings.Contains(found[0].Detail, "boom") || found[0].Command != "signin-engine redeliver "+doneID+" --yes --reason 'the callback is repaired'") {
				t.Errorf("%+v", found[0])
			}
		})
	}
}

// attempts returns n attempts of one user, newest first, two seconds apart.
func attempts(n int, edit func(i int, a *store.Attempt)) []store.Attempt {
	out := make([]store.Attempt, n)
	for i := range out {
		at := ago(time.Minute + time.Duration(i)*2*time.Second)
		out[i] = store.Attempt{
			ID: fmt.Sprintf("01JSD4K2Q9000000000000%04d", 9999-i), Version: 1,
			Key:   store.Key{App: "app", Channel: "msteams", User: "29:1", Connection: "graph"},
			State: store.Failed, Reason: store.ReasonSuperseded, Origin: store.OriginSignIn,
			Created: at, Entered: at.Add(time.Second), Expires: at.Add(15 * time.Minute),
		}
		edit(i, &out[i])
	}
	return out
}

func TestFlappingOfManyAttempts(t *testing.T) {
	for name, tc := range map[string]struct {
		n      int
		newest store.State
		want   string
	}{
		"four":                           {4, store.CardSent, "flapping warn"},
		"three":                          {3, store.CardSent, ""},
		"four, and the last got through": {4, store.Complete, ""},
	} {
		t.Run(name, func(t *testing.T) {
			recent := attempts(tc.n, func(i int, a *store.Attempt) {
				if i == 0 {
					a.State, a.Reason = tc.newest, ""
				}
			})
			found := operator.StuckFleet(operator.Fleet{Now: morning(), Recent: recent}, operator.DefaultRules())
			if got := said(found); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			if tc.want != "" && found[0].Command != "signin-engine list --user 29:1 --connection graph" {
				t.Errorf("command %q", found[0].Command)
			}
		})
	}
}

// invoke returns the audit lines that one invoke without an attempt leaves.
func invoke(n int) []store.Event {
	id, at := fmt.Sprintf("f:%d", n), ago(time.Minute)
	return []store.Event{
		{Kind: store.EventReceived, Time: at, Invoke: "signin/verifyState", Activity: id},
		{Kind: store.EventUpstream, Time: at, Invoke: "GetToken with code", Status: 404},
		{Kind: store.EventNote, Time: at, Row: "C13", Invoke: "signin/verifyState", Activity: id},
		{Kind: store.EventAnswer, Time: at, Row: "C13", Invoke: "signin/verifyState", Activity: id, Status: 404},
	}
}

func TestOrphansAreCountedOnce(t *testing.T) {
	var lines []store.Event
	for i := range 19 {
		lines = append(lines, invoke(i)...)
	}
	for i := range 30 { // a sign-in that the bot itself asks for is not an invoke
		lines = append(lines,
			store.Event{Kind: store.EventReceived, Time: ago(time.Minute), Invoke: "SignOut", Activity: fmt.Sprint(i)},
			store.Event{Kind: store.EventNote, Time: ago(time.Minute), Row: "E1"},
			store.Event{Attempt: stuckID, Kind: store.EventReceived, Time: ago(time.Minute), Invoke: "signin/failure", Activity: fmt.Sprint("x", i)})
	}
	fleet := operator.Fleet{Now: morning(), Lines: lines}
	if found := operator.StuckFleet(fleet, operator.DefaultRules()); len(found) > 0 {
		t.Errorf("nineteen invokes: %+v", found)
	}
	fleet.Lines = append(fleet.Lines, store.Event{
		Kind: store.EventNote, Time: ago(2 * time.Minute), Row: "B0", Invoke: "signin/tokenexchange",
	})
	found := operator.StuckFleet(fleet, operator.DefaultRules())
	if said(found) != "orphans error" || found[0].Detail != "20 invokes" || found[0].Age.Duration() != 2*time.Minute {
		t.Errorf("twenty invokes: %+v", found)
	}
	if found[0].Command != "signin-engine watch --events --since 10m --count 1" {
		t.Errorf("command %q", found[0].Command)
	}
	fleet.Now = morning().Add(10 * time.Minute)
	if found = operator.StuckFleet(fleet, operator.DefaultRules()); len(found) > 0 {
		t.Errorf("later: %+v", found)
	}
}

// lookup returns the audit lines of a sign-in that ended with row A4.
func lookup(before time.Duration, source string, status int, code string) []store.Event {
	return []store.Event{
		{Kind: store.EventReceived, Time: ago(before), Invoke: "SignIn"},
		{Kind: store.EventUpstream, Time: ago(before), Invoke: "GetToken", Status: status, Source: source, Code: code},
		{Kind: store.EventNote, Time: ago(before), Row: "A4", Status: status, Source: source, Code: code},
	}
}

func TestLookupsFailing(t *testing.T) {
	lines := lookup(11*time.Minute, "token_service", 500, "")
	for i := range 3 {
		lines = append(lines, lookup(time.Duration(i+1)*time.Minute, "token_service", 500, "ServiceError")...)
	}
	lines = append(lines, lookup(time.Minute, "token_service", 0, "")...)
	fleet := operator.Fleet{Now: morning(), Lines: lines}
	if found := operator.StuckFleet(fleet, operator.DefaultRules()); len(found) > 0 {
		t.Errorf("four look-ups: %+v", found)
	}
	fleet.Lines = append(fleet.Lines, lookup(0, "token_service", 503, "")...)
	found := operator.StuckFleet(fleet, operator.DefaultRules())
	if said(found) != "lookups-failing error" || found[0].Age.Duration() != 3*time.Minute {
		t.Fatalf("five look-ups: %+v", found)
	}
	const want = "GetToken: 500 ServiceError (3 times), GetToken: no answer (1 time), GetToken: 503 Service Unavailable (1 time)"
	if found[0].Detail != want {
		t.Errorf("detail %q, want %q", found[0].Detail, want)
	}
}

func TestCredentials(t *testing.T) {
	rules := operator.DefaultRules()
	bad := lookup(5*time.Minute, store.SourceCredentials, 401, "invalid_client")
	one := operator.StuckFleet(operator.Fleet{Now: morning(), Lines: bad}, rules)
	if said(one) != "credentials error" || one[0].Subject != "invalid_client" ||
		one[0].Detail != "AccessToken: 401 invalid_client (1 time)" || one[0].Command != "signin-engine explain invalid_client" {
		t.Fatalf("the first occurrence: %+v", one)
	}

	many := slices.Concat(bad, bad, bad, bad, bad, lookup(4*time.Minute, store.SourceCredentials, 0, ""))
	found := operator.StuckFleet(operator.Fleet{Now: morning(), Lines: many}, rules)
	if said(found) != "credentials error, credentials error" || found[0].Detail != "AccessToken: 401 invalid_client (5 times)" ||
		found[1].Detail != "AccessToken: no answer (1 time)" || found[1].Command != "signin-engine doctor" {
		t.Errorf("many: %+v", found)
	}

	carded := func(age time.Duration, edit func(*store.Attempt)) []store.Attempt {
		return attempts(1, func(_ int, a *store.Attempt) {
			a.State, a.Reason, a.Created, a.Entered = store.CardSent, "", ago(age), ago(age)
			edit(a)
		})
	}
	nothing := func(*store.Attempt) {}
	for name, tc := range map[string]struct {
		fleet operator.Fleet
		want  string
	}{
		"a card since":     {operator.Fleet{Lines: bad, Recent: carded(4*time.Minute, nothing)}, ""},
		"a card before it": {operator.Fleet{Lines: bad, Recent: carded(6*time.Minute, nothing)}, "credentials error"},
		"a card that was refused since": {operator.Fleet{Lines: bad, Recent: carded(time.Minute, func(a *store.Attempt) {
			a.State, a.Reason = store.Failed, store.ReasonCardRejected
			a.Failure = &store.Failure{Source: store.SourceConnector, Status: 403, Code: "BotDisabledByAdmin"}
		})}, ""},
		"no card for want of it": {operator.Fleet{Recent: carded(time.Minute, func(a *store.Attempt) {
			a.State, a.Reason = store.Failed, store.ReasonCardRejected
			a.Failure = &store.Failure{Source: store.SourceCredentials, Status: 401, Code: "invalid_client"}
		})}, "credentials error"},
		"an exchange for want of it": {operator.Fleet{Recent: carded(time.Minute, func(a *store.Attempt) {
			a.Created = ago(3 * time.Minute)
			a.Failure = &store.Failure{Source: store.SourceCredentials, Status: 401, Code: "invalid_client"}
		})}, "credentials error"},
		"a code since then": {operator.Fleet{Lines: lookup(time.Minute, "", 404, ""), Recent: carded(10*time.Minute, func(a *store.Attempt) {
			a.AnswerAt, a.Entered = ago(5*time.Minute), ago(30*time.Second)
			a.Failure = &store.Failure{Source: store.SourceCredentials, Status: 401, Code: "invalid_client"}
		})}, ""},
		"ended otherwise since then": {operator.Fleet{Recent: carded(10*time.Minute, func(a *store.Attempt) {
			a.State, a.Reason, a.Entered = store.Failed, store.ReasonSignedOut, ago(time.Minute)
			a.Failure = &store.Failure{Source: store.SourceCredentials, Status: 401, Code: "invalid_client"}
		})}, ""},
		"a call since":            {operator.Fleet{Lines: append(slices.Clone(bad), lookup(time.Minute, "token_service", 500, "")...)}, ""},
		"a call before it":        {operator.Fleet{Lines: append(slices.Clone(bad), lookup(6*time.Minute, "", 404, "")...)}, "credentials error"},
		"no answer since":         {operator.Fleet{Lines: append(slices.Clone(bad), lookup(time.Minute, "token_service", 0, "")...)}, "credentials error"},
		"complete since":          {operator.Fleet{Lines: bad, Recent: carded(10*time.Minute, func(a *store.Attempt) { a.State, a.Entered = store.Complete, ago(time.Minute) })}, ""},
		"longer ago than an hour": {operator.Fleet{Lines: lookup(61*time.Minute, store.SourceCredentials, 401, "x")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tc.fleet.Now = morning()
			if got := said(operator.StuckFleet(tc.fleet, rules)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestFailureBurst(t *testing.T) {
	failed := func(n, of int, state store.State) operator.Fleet {
		return operator.Fleet{Now: morning(), Recent: attempts(of, func(i int, a *store.Attempt) {
			a.Key.User = fmt.Sprint("29:", i)
			if i < n {
				a.State, a.Failure = state, &store.Failure{Source: "connector", Code: "BotDisabledByAdmin"}
			}
		})}
	}
	for name, tc := range map[string]struct {
		fleet operator.Fleet
		want  string
	}{
		"five of five":        {failed(5, 5, store.Failed), "failure-burst error"},
		"four of four":        {failed(4, 4, store.Failed), ""},
		"five of twenty-five": {failed(5, 25, store.Failed), ""},
		"six of twenty-five":  {failed(6, 25, store.Failed), "failure-burst error"},
		"got over":            {failed(8, 8, store.Complete), ""},
	} {
		t.Run(name, func(t *testing.T) {
			found := operator.StuckFleet(tc.fleet, operator.DefaultRules())
			if got := said(found); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
			if tc.want != "" && (found[0].Subject != "BotDisabledByAdmin" || found[0].Command != "signin-engine explain BotDisabledByAdmin") {
				t.Errorf("%+v", found[0])
			}
		})
	}
}

// The input of the rules comes from the store: audit lines without an attempt, those of
// open attempts, failed attempts of the last hour, and records that cannot be decoded.
func TestOverviewReadsWhatTheRulesNeed(t *testing.T) {
	st := memstore.New(morning)
	d := direct(st)
	rules := func() string {
		t.Helper()
		o, err := d.Overview(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return said(o.Stuck)
	}
	open := attempts(1, func(_ int, a *store.Attempt) { a.State, a.Reason, a.Invokes = store.CardSent, "", 1 })[0]
	commit(t, st, store.Commit{Put: []store.Attempt{open}})

	asked := func(id string, lines []store.Event) {
		for i := range lines {
			lines[i].Attempt = id
		}
		commit(t, st, store.Commit{Events: lines})
	}
	for range 2 { // a card was sent, and the user asks for a sign-in again
		asked(open.ID, lookup(30*time.Second, "token_service", 500, ""))
	}
	for range 2 {
		asked("", lookup(30*time.Second, "token_service", 500, ""))
	}
	if got := rules(); got != "" {
		t.Errorf("four look-ups: %s", got)
	}
	asked("", lookup(30*time.Second, "token_service", 500, ""))
	if got := rules(); got != "lookups-failing error" {
		t.Errorf("five look-ups: %s", got)
	}

	// An attempt that is older than the other windows failed because the bot could not
	// get its own token.
	early := attempts(1, func(_ int, a *store.Attempt) {
		a.ID, a.Key.User = "01JSD4K2Q0000000000000000A", "29:2"
		a.Created, a.Entered = ago(40*time.Minute), ago(40*time.Minute)
		a.State, a.Reason = store.Failed, store.ReasonCardRejected
		a.Failure = &store.Failure{Source: store.SourceCredentials, Operation: "AccessToken", Status: 401, Code: "invalid_client"}
	})[0]
	commit(t, st, store.Commit{Put: []store.Attempt{early}})
	if got := rules(); got != "lookups-failing error" {
		t.Errorf("a card was made since: %s", got)
	}
	asked("", lookup(time.Second, store.SourceCredentials, 401, "invalid_client"))
	if got := rules(); got != "lookups-failing error, credentials error" {
		t.Errorf("no token of its own: %s", got)
	}

	st.Damage(early.ID)
	st.Damage(open.ID)
	o, err := d.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, f := range o.Stuck {
		if f.Rule == operator.RuleUnreadable && f.Serious() {
			ids = append(ids, f.Attempt)
		}
	}
	if !slices.Contains(ids, open.ID) {
		t.Errorf("records set aside: %v in %s", ids, said(o.Stuck))
	}
	page, err := d.List(t.Context(), operator.Query{})
	if err != nil || !slices.Contains(page.Unreadable, open.ID) || !slices.Contains(page.Unreadable, early.ID) {
		t.Errorf("a list beside damaged records: %+v, %v", page, err)
	}
	if _, err := d.Get(t.Context(), open.ID); err == nil || !strings.Contains(err.Error(), "corrupt") {
		t.Errorf("Get of a damaged record: %v", err)
	}
}

// Many lines of an hour ago do not hide the new ones.
func TestLateTroubleIsSeen(t *testing.T) {
	st := memstore.New(morning)
	old := lookup(50*time.Minute, "token_service", 503, "")
	var many []store.Event
	for range 1700 {
		many = append(many, old...)
	}
	commit(t, st, store.Commit{Events: many})
	o, err := direct(st).Overview(t.Context())
	if err != nil || len(o.Stuck) > 0 {
		t.Errorf("of an hour ago: %s, %v", said(o.Stuck), err)
	}
	for range 5 {
		commit(t, st, store.Commit{Events: lookup(time.Minute, "token_service", 503, "")})
	}
	if o, err = direct(st).Overview(t.Context()); err != nil || said(o.Stuck) != "lookups-failing error" {
		t.Errorf("of now: %s, %v", said(o.Stuck), err)
	}
}

// An open circuit is a finding of the overview. It is sorted with the others, and its
// age is by the store's clock.
func TestDeadUpstream(t *testing.T) {
	st := memstore.New(morning)
	d := direct(st)
	since := operator.Time{Time: morning().Add(-90 * time.Second)}
	d.CountCircuits(func() []operator.Circuit {
		return []operator.Circuit{
			{Upstream: "token_service", Host: "token.example", Open: true, Since: since, Opened: 1, Refused: 7},
			{Upstream: "connector", Host: "smba.example", Opened: 3},
		}
	})
	o, err := d.Overview(t.Context())
	if err != nil || said(o.Stuck) != "upstream-dead error" {
		t.Fatalf("%s, %v", said(o.Stuck), err)
	}
	f := o.Stuck[0]
	if f.Subject != "token_service at token.example" || f.Age.Duration() != 90*time.Second || !strings.Contains(f.Detail, "7 requests") ||
		f.Command != "signin-engine doctor" || f.Advice == "" {
		t.Errorf("%+v", f)
	}
}

// All findings of a rule have the same advice, so that a page can show it once. The
// commands of findings are commands of the program.
func TestAdvice(t *testing.T) {
	o, err := direct(fixture(t)).Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range o.Stuck {
		if strings.Contains(f.Advice, doneID) || !strings.HasPrefix(f.Command, "signin-engine ") {
			t.Errorf("%+v", f)
		}
		if e, ok := operator.Explain(f.Rule); !ok || e.Advice != f.Advice {
			t.Errorf("explain %s: %+v", f.Rule, e)
		}
	}
	for word, want := range map[string]string{"29:1cg": "29:1cg", "its instance died": "'its instance died'", "": "''", "it's": `'it'\''s'`} {
		if got := operator.Quote(word); got != want {
			t.Errorf("Quote(%q) = %s", word, got)
		}
	}
}

// The documentation has every rule with its level, and no others.
func TestRulesAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/state-machine.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "## 7. Stuck rules\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(cells[1], " `") {
			continue
		}
		rule := strings.Trim(cells[1], " `")
		documented = append(documented, rule)
		if e, ok := operator.Explain(rule); !ok || e.Kind != "stuck rule" {
			t.Errorf("there is no rule %s", rule)
		}
	}
	for _, e := range operator.Explanations() {
		if e.Kind == "stuck rule" && !slices.Contains(documented, e.Code) {
			t.Errorf("%s is not documented", e.Code)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, word := range []string{
		"installappfailed", "authrequestfailed", "installedappnotfound", "invokeerror", "ResourceMatchFailed", "oauthcardnotvalid",
		"tokenmissing", "userconsentrequired", "interactionrequired", "consent_required",
		"BotDisabledByAdmin", "botnotinconversationroster", "ConversationBlockedByUser", "MessageWritesBlocked", "ConversationNotFound",
		"invalid_client", "unauthorized_client", "invalid_grant",
		string(store.ReasonCardRejected), string(store.ReasonUpstreamRejected), string(store.ReasonUpstreamUnavailable),
		string(store.ReasonClientFailure), string(store.ReasonCodeRejected), string(store.ReasonUserCancelled), string(store.ReasonExpired),
		string(store.ReasonSuperseded), string(store.ReasonSignedOut), string(store.ReasonOperator), string(store.ReasonAbandoned),
		string(store.MethodSilent), string(store.MethodTokenExchange), string(store.MethodVerifyState), string(store.MethodCompose),
		string(store.MethodAdaptiveCard), string(store.MethodRecovered),
		string(store.Idle), string(store.CardSent), string(store.Exchanging), string(store.Verifying), string(store.Complete), string(store.Failed),
		string(store.OriginSignIn), string(store.OriginAdopted), string(store.OriginCompose), string(store.OriginCardAction),
		string(store.DeliveryPending), string(store.DeliveryDone), string(store.DeliveryDead), string(store.DeliveryUndeliverable),
		string(store.DeliveryDropped), string(store.DeliveryNotOwed),
		store.SourceClient, store.SourceTokenService, store.SourceConnector, store.SourceCredentials,
		"200", "404", "502", "C2", "b2/late",
		operator.RuleIdleOld, operator.RuleWaiting, operator.RulePastExpiry, operator.RuleConsentPending, operator.RuleLeaseExpired,
		operator.RuleFlapping, operator.RuleCallbackLag, operator.RuleOrphans, operator.RuleLookupsFailing, operator.RuleCredentials,
		operator.RuleFailureBurst, operator.RuleUnreadable, operator.RuleUpstreamDead,
	} {
		e, ok := operator.Explain(word)
		if !ok || e.Meaning == "" || e.Advice == "" || e.Kind == "" {
			t.Errorf("%s: %+v", word, e)
		}
	}
	for _, word := range []string{"", "nonsense", "304", "999"} {
		if e, ok := operator.Explain(word); ok {
			t.Errorf("%q: %+v", word, e)
		}
	}
	seen := map[string]bool{}
	for _, e := range operator.Explanations() {
		word := strings.ToLower(e.Code) + " as a " + e.Kind
		if seen[word] {
			t.Errorf("%s is explained twice", word)
		}
		seen[word] = true
	}
	for _, kind := range []store.EventKind{
		store.EventReceived, store.EventTransition, store.EventUpstream, store.EventAnswer, store.EventCallback, store.EventNote,
		store.EventOperator, store.EventSecurity,
	} {
		if !seen[string(kind)+" as a timeline line"] {
			t.Errorf("lines of kind %s are not explained", kind)
		}
	}
	if all := operator.ExplainAll("Operator"); len(all) != 2 {
		t.Errorf("operator is a reason and a line: %+v", all)
	}
	if got := operator.Suggest("resourcematchfaild"); !slices.Equal(got, []string{"resourcematchfailed"}) {
		t.Errorf("suggestions: %v", got)
	}
	if got := operator.Suggest("C99"); len(got) > 0 && !slices.Contains(got, "C9") {
		t.Errorf("suggestions: %v", got)
	}
	if got := operator.Suggest("lease"); !slices.Equal(got, []string{"lease-expired"}) {
		t.Errorf("suggestions: %v", got)
	}
	if got := operator.Suggest("card"); slices.Contains(got, "the card is out") {
		t.Errorf("suggestions have sentences: %v", got)
	}
	if e, _ := operator.Explain("aadsts50105"); e.Code != "AADSTS50105" || !strings.Contains(e.Advice, "/error?code=50105 ") {
		t.Errorf("a code of Entra: %+v", e)
	}
	if got := operator.Suggest(""); len(got) > 0 {
		t.Errorf("suggestions for nothing: %v", got)
	}
}

func TestDiagnosisInWords(t *testing.T) {
	d, err := direct(fixture(t)).Get(t.Context(), stuckID)
	if err != nil {
		t.Fatal(err)
	}
	said := d.Diagnosis.Explain()
	if len(said) != 1 || !strings.Contains(said[0].Advice, "requestedAccessTokenVersion to 2") {
		t.Errorf("%+v", said)
	}
	var none *operator.DiagnosisView
	if said := none.Explain(); said != nil {
		t.Errorf("of none: %+v", said)
	}
	no := false
	all := operator.DiagnosisView{Audience: &no, Version: &no, Tenant: &no, User: &no, Client: &no, Fresh: &no}
	if said := all.Explain(); len(said) != 6 {
		t.Errorf("of all: %+v", said)
	}
}
