package operator

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Stuck applies the rules about one attempt to an attempt and its callbacks, which
// are in the order of their rounds. It returns the findings, the most serious
// first.
//
// Only an attempt that is open or owes a callback can break such a rule.
func Stuck(now time.Time, a *store.Attempt, callbacks []store.Delivery, r Rules) []Finding {
	found := []Finding{}
	hit := func(f Finding) {
		f.Attempt, f.User, f.UserName = a.ID, a.Key.User, a.Conversation.UserName
		f.Connection, f.State = a.Key.Connection, a.State
		found = append(found, f)
	}
	in := now.Sub(a.Entered)
	switch a.State {
	case store.Idle:
		if in > r.IdleOld {
			hit(finding(RuleIdleOld, in, "doctor"))
		}
	case store.CardSent:
		if late := now.Sub(a.Expires); late > r.PastExpiry {
			hit(finding(RulePastExpiry, late, "doctor"))
		}
		switch {
		case a.SSOOutcome == "rejected" && in > r.ConsentPending:
			hit(finding(RuleConsentPending, in, "inspect", a.ID))
		case a.SSOOffered && a.Invokes == 0 && in > r.Waiting:
			hit(finding(RuleWaiting, in, "inspect", a.ID))
		}
	case store.Exchanging, store.Verifying:
		if over := now.Sub(a.Lease.Until); over > r.LeaseExpired {
			f := finding(RuleLeaseExpired, over, "reconcile", a.ID, "--yes", "--reason", "its instance died")
			f.Detail = "held by " + a.Lease.Owner
			hit(f)
		}
	case store.Complete, store.Failed, store.None:
	}
	if !a.State.Terminal() && a.Rounds > r.FlappingRounds {
		f := finding(RuleFlapping, now.Sub(a.Created), "inspect", a.ID)
		f.Detail = fmt.Sprintf("%d exchange rounds", a.Rounds)
		hit(f)
	}
	if f, ok := lagging(now, a.ID, callbacks, r); ok {
		hit(f)
	}
	slices.SortStableFunc(found, bySeriousness)
	return found
}

// lagging applies the callback-lag rule. A pending callback that waits for an
// earlier round is not due yet. An undeliverable one breaks no rule, because nothing
// on this side can be repaired.
func lagging(now time.Time, id string, callbacks []store.Delivery, r Rules) (Finding, bool) {
	waits := false
	for i := range callbacks {
		row := &callbacks[i]
		var since time.Time
		switch row.Status {
		case store.DeliveryDead:
			since = row.Created
		case store.DeliveryPending:
			switch {
			case row.Tries >= r.CallbackTries:
				since = row.Created
			case !waits && now.Sub(row.NextAt) > r.CallbackLag:
				since = row.NextAt
			}
			waits = true
		case store.DeliveryDone, store.DeliveryDropped, store.DeliveryNotOwed, store.DeliveryUndeliverable:
		}
		if since.IsZero() {
			continue
		}
		f := finding(RuleCallbackLag, now.Sub(since), "redeliver", id, "--yes", "--reason", "the callback is repaired")
		tries := "tries"
		if row.Tries == 1 {
			tries = "try"
		}
		f.Detail = fmt.Sprintf("callback %s/%d is %s after %d %s", row.Kind, row.Round, row.Status, row.Tries, tries)
		if row.Error != "" {
			f.Detail += ": " + row.Error
		}
		return f, true
	}
	return Finding{}, false
}

// bySeriousness sorts errors before warnings, and older findings before newer ones.
func bySeriousness(a, b Finding) int {
	if a.Serious() != b.Serious() {
		if a.Serious() {
			return -1
		}
		return 1
	}
	return cmp.Compare(b.Age, a.Age)
}

// Fleet is the input of the rules about many attempts.
type Fleet struct {
	Now time.Time
	// Recent has the attempts created within FlappingWindow or BurstWindow, whichever
	// is longer, and those within CredentialsWindow that matter to the credentials
	// rule, newest first.
	Recent []store.Attempt
	// Lines has the audit lines without an attempt, and those of open attempts, within
	// the longest window.
	Lines []store.Event
	// Corrupt has the records that cannot be decoded.
	Corrupt []store.Corrupt
}

// StuckFleet applies the rules about many attempts. It returns the findings, the
// most serious first.
func StuckFleet(f Fleet, r Rules) []Finding {
	found := slices.Concat(f.unreadable(), f.credentials(r), f.lookups(r), f.orphans(r), f.burst(r), f.flapping(r))
	slices.SortStableFunc(found, bySeriousness)
	return found
}

// deadUpstreams returns a finding for every open circuit.
func deadUpstreams(circuits []Circuit, now time.Time) []Finding {
	var found []Finding
	for _, c := range circuits {
		if !c.Open {
			continue
		}
		f := finding(RuleUpstreamDead, max(now.Sub(c.Since.Time), 0), "doctor")
		f.Subject = c.Upstream + " at " + c.Host
		f.Detail = fmt.Sprintf("%d requests refused at once", c.Refused)
		found = append(found, f)
	}
	return found
}

func (f *Fleet) unreadable() []Finding {
	found := make([]Finding, len(f.Corrupt))
	for i, c := range f.Corrupt {
		found[i] = finding(RuleUnreadable, 0, "doctor")
		found[i].Attempt = c.ID
	}
	return found
}

// within reports whether a line is at most window old.
func (f *Fleet) within(e *store.Event, window time.Duration) bool { return f.Now.Sub(e.Time) <= window }

// trouble is one way in which a call failed.
type trouble struct {
	operation string
	status    int
	code      string
}

// String returns a text such as "GetToken: 503 ServiceUnavailable".
func (t trouble) String() string {
	said := "no answer"
	if t.status != 0 {
		said = strconv.Itoa(t.status)
	}
	return t.operation + ": " + said + " " + cmp.Or(t.code, http.StatusText(t.status))
}

// tally counts how often each trouble occurred, and when it occurred first.
type tally struct {
	order []trouble // in the order in which they were added
	n     map[trouble]int
	since map[trouble]time.Time
}

func (t *tally) add(what trouble, at time.Time) {
	if t.n == nil {
		t.n, t.since = map[trouble]int{}, map[trouble]time.Time{}
	}
	if t.n[what]++; t.n[what] == 1 {
		t.order, t.since[what] = append(t.order, what), at
	}
	if at.Before(t.since[what]) {
		t.since[what] = at
	}
}

func (t *tally) total() (n int, since time.Time) {
	for _, what := range t.order {
		n += t.n[what]
		if since.IsZero() || t.since[what].Before(since) {
			since = t.since[what]
		}
	}
	return n, since
}

// String lists the troubles with their counts, the most frequent first.
func (t *tally) String() string {
	order := slices.Clone(t.order)
	slices.SortStableFunc(order, func(a, b trouble) int { return cmp.Compare(t.n[b], t.n[a]) })
	parts := make([]string, len(order))
	for i, what := range order {
		parts[i] = fmt.Sprintf("%s (%s)", strings.TrimSpace(what.String()), Count(int64(t.n[what]), "time"))
	}
	return strings.Join(parts, ", ")
}

// lookups applies the lookups-failing rule: it counts the sign-ins that ended with
// row A4. It leaves those that ended because the bot could not get its own token to
// the credentials rule.
func (f *Fleet) lookups(r Rules) []Finding {
	var seen tally
	for i := range f.Lines {
		e := &f.Lines[i]
		if e.Kind == store.EventNote && e.Row == "A4" && e.Source != store.SourceCredentials && f.within(e, r.LookupsWindow) {
			seen.add(trouble{"GetToken", e.Status, e.Code}, e.Time)
		}
	}
	n, since := seen.total()
	if n == 0 || n < r.Lookups {
		return nil
	}
	hit := finding(RuleLookupsFailing, f.Now.Sub(since), "doctor")
	hit.Detail = seen.String()
	return []Finding{hit}
}

// credentials applies the credentials rule. It returns a finding for each way in
// which getting the bot's own token has failed since it last succeeded.
func (f *Fleet) credentials(r Rules) []Finding {
	type occurrence struct {
		what trouble
		at   time.Time
	}
	var (
		all  []occurrence
		good time.Time
	)
	succeeded := func(at time.Time) {
		if at.After(good) {
			good = at
		}
	}
	for i := range f.Lines {
		e := &f.Lines[i]
		switch {
		case e.Kind != store.EventUpstream:
		case e.Source == store.SourceCredentials:
			all = append(all, occurrence{trouble{operationToken, e.Status, e.Code}, e.Time})
		case e.Status != 0:
			succeeded(e.Time)
		}
	}
	for i := range f.Recent {
		a := &f.Recent[i]
		if at, ok := wanted(a); ok {
			all = append(all, occurrence{trouble{operationToken, a.Failure.Status, a.Failure.Code}, at})
		}
		if hadCard(a) {
			succeeded(a.Created)
		}
		if a.State == store.Complete && a.Method != store.MethodCompose && a.Method != store.MethodAdaptiveCard {
			succeeded(a.Entered)
		}
	}
	var seen tally
	for _, o := range all {
		if o.at.After(good) && f.Now.Sub(o.at) <= r.CredentialsWindow {
			seen.add(o.what, o.at)
		}
	}
	found := make([]Finding, len(seen.order))
	for i, what := range seen.order {
		command := []string{"doctor"}
		if _, known := Explain(what.code); known {
			command = []string{"explain", what.code}
		}
		found[i] = finding(RuleCredentials, f.Now.Sub(seen.since[what]), command...)
		found[i].Subject = what.code
		found[i].Detail = fmt.Sprintf("%s (%s)", strings.TrimSpace(what.String()), Count(int64(seen.n[what]), "time"))
	}
	return found
}

// operationToken is the operation of fetching the bot's own token.
const operationToken = "AccessToken"

// upstreamReasons are the reasons of attempts that ended because a call failed.
var upstreamReasons = [...]store.Reason{store.ReasonCardRejected, store.ReasonUpstreamRejected, store.ReasonUpstreamUnavailable}

// wanted reports whether the last failure of an attempt was that the bot could not
// get its own token, and when that was. An attempt that later ended for another
// reason keeps the failure without its time, so it does not count.
func wanted(a *store.Attempt) (time.Time, bool) {
	if a.Failure == nil || a.Failure.Source != store.SourceCredentials {
		return time.Time{}, false
	}
	switch a.State {
	case store.CardSent:
		if at := a.AnswerAt; !at.IsZero() && at.Before(a.Entered) {
			return at, true // the user has sent a code since then
		}
		return a.Entered, true
	case store.Exchanging, store.Verifying:
		return a.Lease.Until, true // the lease of the recovery that failed
	case store.Failed:
		if slices.Contains(upstreamReasons[:], a.Reason) {
			return a.Entered, true
		}
	case store.None, store.Idle, store.Complete:
	}
	return time.Time{}, false
}

// hadCard reports whether the Token Service answered when it was asked for the
// attempt's card. Any answer counts: it shows that the bot had its own token.
func hadCard(a *store.Attempt) bool {
	switch {
	case a.Origin != store.OriginSignIn:
		return false
	case a.Reason != store.ReasonCardRejected || a.Failure == nil:
		return true
	default:
		return a.Failure.Source != store.SourceCredentials && a.Failure.Status != 0
	}
}

// orphans applies the orphans rule. It counts each invoke once, however many lines
// it left.
func (f *Fleet) orphans(r Rules) []Finding {
	oldest := f.Now
	arrived := map[string]bool{}
	for i := range f.Lines {
		e := &f.Lines[i]
		if e.Attempt != "" || !isSignIn(e.Invoke) || !f.within(e, r.OrphansWindow) {
			continue
		}
		name := e.Activity
		if name == "" {
			// Without an activity id the lines of one invoke cannot be matched, so count
			// only the line that comes first.
			if e.Kind != store.EventReceived && e.Row != "B0" && e.Row != "C0" {
				continue
			}
			name = "line " + strconv.FormatInt(e.Seq, 10)
		}
		arrived[name] = true
		if e.Time.Before(oldest) {
			oldest = e.Time
		}
	}
	if len(arrived) == 0 || len(arrived) < r.Orphans {
		return nil
	}
	hit := finding(RuleOrphans, f.Now.Sub(oldest), "watch", "--events", "--since", short(r.OrphansWindow), "--count", "1")
	hit.Detail = fmt.Sprintf("%d invokes", len(arrived))
	return []Finding{hit}
}

func isSignIn(invoke string) bool {
	const prefix = "signin/"
	return len(invoke) > len(prefix) && strings.EqualFold(invoke[:len(prefix)], prefix)
}

// short formats a duration without trailing zero units, such as 10m for 10m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// burst applies the failure-burst rule. A failure of an attempt that completed
// afterwards does not count.
func (f *Fleet) burst(r Rules) []Finding {
	total := 0
	hit := map[string]int{}
	newest := map[string]*store.Attempt{}
	var codes []string
	for i := range f.Recent {
		a := &f.Recent[i]
		if f.Now.Sub(a.Created) > r.BurstWindow {
			continue
		}
		total++
		if a.Failure == nil || a.Failure.Code == "" || a.State == store.Complete {
			continue
		}
		code := a.Failure.Code
		if hit[code]++; hit[code] == 1 {
			codes, newest[code] = append(codes, code), a
		}
	}
	var found []Finding
	for _, code := range codes {
		n := hit[code]
		if n < r.BurstMin || float64(n) <= r.BurstShare*float64(total) {
			continue
		}
		command := []string{"list", "--failure-code", code, "--since", short(r.BurstWindow)}
		if _, known := Explain(code); known {
			command = []string{"explain", code}
		}
		one := finding(RuleFailureBurst, r.BurstWindow, command...)
		one.Subject, one.Attempt = code, newest[code].ID
		one.Detail = fmt.Sprintf("%s on %d of %d attempts", code, n, total)
		found = append(found, one)
	}
	return found
}

// flapping applies the part of the flapping rule about many attempts of one key. It
// no longer holds once the newest of them is complete.
func (f *Fleet) flapping(r Rules) []Finding {
	byKey := map[string][]*store.Attempt{}
	var keys []string
	for i := range f.Recent {
		a := &f.Recent[i]
		if f.Now.Sub(a.Created) > r.FlappingWindow {
			continue
		}
		k := a.Key.Index()
		if byKey[k] == nil {
			keys = append(keys, k)
		}
		byKey[k] = append(byKey[k], a)
	}
	var found []Finding
	for _, k := range keys {
		of := byKey[k]
		newest, oldest := of[0], of[len(of)-1]
		if len(of) <= r.FlappingAttempts || newest.State == store.Complete {
			continue
		}
		hit := finding(RuleFlapping, f.Now.Sub(oldest.Created), "list", "--user", newest.Key.User, "--connection", newest.Key.Connection)
		hit.Attempt, hit.User, hit.UserName = newest.ID, newest.Key.User, newest.Conversation.UserName
		hit.Connection, hit.State = newest.Key.Connection, newest.State
		hit.Subject = newest.Key.User + " " + newest.Key.Connection
		hit.Detail = fmt.Sprintf("%d attempts", len(of))
		found = append(found, hit)
	}
	return found
}
