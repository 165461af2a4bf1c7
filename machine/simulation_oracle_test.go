package machine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// The oracle says which answers the table allows for what the world has done
// to an invoke. It is small and knows nothing of the engine's inside.

// slow is how old a claim, or an invoke, is when no call is begun for it any more
// (§3), and nobody waits for its callback.
func (w *world) slow() time.Duration {
	return min(w.timeouts.Lease-w.timeouts.Upstream, 12*time.Second)
}

// beginExchange is the moment in which an engine decides to exchange.
func (w *world) beginExchange(t *task, uc tokensvc.UserConnection) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.exchanges++
	switch r := w.model.rows[t.claim]; {
	case t.settled:
		w.violate("5", "t%d exchanges for an id whose attempt is Complete", t.id)
	case w.stillOut(t) && r != nil && r.opener == t.activity.ID:
		w.violate("table", "t%d exchanges for a card that was signed out (B15)", t.id)
	case !t.claimed || r == nil:
		w.violate("5", "t%d exchanges without a durable claim of its own", t.id)
	case owner(r.Key.User, r.Key.Connection) != owner(uc.UserID, uc.Connection):
		w.violate("10", "t%d exchanges for another key than it has claimed", t.id)
	case time.Until(t.claimUntil) < w.timeouts.Upstream && len(t.statuses) == 0:
		w.violate("lease", "t%d exchanges with too little of the lease left", t.id)
	}
	t.claimed = false
}

// stillOut reports whether the card's sign-in ended by a sign-out and nobody
// has gone on from it since.
func (w *world) stillOut(t *task) bool {
	r := w.model.rows[w.model.byExchange[t.exchange]]
	if t.signedOut == "" || r == nil {
		return false
	}
	head, out := w.model.head(r), w.model.rows[t.signedOut]
	if head == out {
		return true
	}
	between := w.model.anyOf(owner(t.user, out.Key.Connection), func(o *row) bool {
		return o.number > out.number && o.number < head.number
	})
	return head.opener == t.activity.ID && !between
}

// beginCode is the moment in which an engine decides to send a code upstream.
func (w *world) beginCode(t *task, uc tokensvc.UserConnection, code string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := strings.ToLower(uc.Connection)
	t.codes[c]++
	key := owner(uc.UserID, uc.Connection)
	r := w.model.rows[t.claim]
	t.spends = w.model.newestComplete(key) && (r == nil || owner(r.Key.User, r.Key.Connection) != key)
	switch {
	case code != t.code || uc.UserID != t.user:
		w.violate("10", "t%d sends another's code", t.id)
	case t.codes[c] > 1:
		w.violate("6", "t%d sends its code to %s twice", t.id, uc.Connection)
	case t.settled:
		w.violate("6", "t%d sends a code that is redeemed already", t.id)
	case !t.asks && t.spends && t.passed[c] && w.rank(t, uc.Connection)/perRank != isCard && len(w.connections) > 1:
		w.violate("table", "t%d sends its code to %s, which is complete and was not asked for (C10b)", t.id, uc.Connection)
	}
	if !t.asks { // it says itself which connection it is about
		w.inOrder(t, uc)
	}
}

// The candidates of a code, best first (§4.C).
const (
	isCard = iota
	isPending
	hasFailed
	isUntried
	isDone
	perRank = 1000
)

// rank is the place of a connection among the candidates of a code, by what the
// task has read: the card that was replied to, what is pending, what has failed,
// what was never tried, what is complete; the newest first.
func (w *world) rank(t *task, connection string) int {
	newest, replied := -1, false
	for i := range t.candidates {
		a := &t.candidates[i]
		if !strings.EqualFold(a.Key.Connection, connection) {
			continue
		}
		if newest < 0 {
			newest = i
		}
		replied = replied || repliesTo(t.activity, a)
	}
	switch {
	case replied:
		return isCard*perRank + newest
	case newest < 0:
		return isUntried*perRank + slices.Index(w.connections, connection)
	}
	switch t.candidates[newest].State {
	case store.Complete:
		return isDone*perRank + newest
	case store.Failed:
		return hasFailed*perRank + newest
	default:
		return isPending*perRank + newest
	}
}

// inOrder: a code is offered to the best candidate first. One that has become
// complete meanwhile is passed over.
func (w *world) inOrder(t *task, uc tokensvc.UserConnection) {
	if time.Since(t.began) >= w.slow() {
		return
	}
	here := w.rank(t, uc.Connection)
	for _, c := range w.connections {
		asked := t.codes[strings.ToLower(c)] > 0 || t.passed[strings.ToLower(c)] || w.model.newestComplete(owner(t.user, c))
		if !asked && w.rank(t, c) < here {
			w.violate("order", "t%d offers its code to %s (place %d) before %s (place %d)", t.id, uc.Connection, here, c, w.rank(t, c))
		}
	}
}

// judgeCard looks at a card that arrives. w.mu is held.
func (w *world) judgeCard(t *task, to store.Conversation, m *machine.Message, exchange string) {
	group := to.IsGroup || to.Type == "groupChat" || to.Type == "channel"
	switch {
	case t.shown > 1:
		w.violate("table", "t%d %s shows %d cards", t.id, t.what, t.shown)
	case m.Targeted != (group && w.policy.GroupCard != machine.Everyone):
		w.violate("table", "t%d %s: a card in %s, to its recipient alone: %t", t.id, t.what, to.Type, m.Targeted)
	case exchange != "" && to.Type == "channel":
		w.violate("table", "t%d %s: a card with SSO in a channel (A14)", t.id, t.what)
	case group && w.policy.GroupChat == machine.OneToOne:
		w.violate("table", "t%d %s: a card in the group, not in the user's own chat", t.id, t.what)
	}
}

// announced: nothing is sent before the row that announces it is durable (§3).
// w.mu is held.
func (w *world) announced(t *task, to store.Conversation, c *machine.OAuthCard) {
	exchange := ""
	if res := c.Resource.TokenExchangeResource; res != nil {
		exchange = res.ID
	}
	if !w.model.anyOf(owner(to.UserID, c.Connection), func(r *row) bool { return r.opener == t.message && r.ExchangeID == exchange }) {
		w.violate("table", "t%d %s sends a card that no row announces", t.id, t.what)
	}
	if t.posts > 1 && !t.undelivered {
		w.violate("table", "t%d %s sends a card again that may have arrived (A8)", t.id, t.what)
	}
}

// judge looks at how a task ended on an instance that lived. w.mu is held.
func (w *world) judge(t *task) {
	switch {
	case t.asks:
		w.judgeAsk(t)
		return
	case t.activity != nil:
		w.judgeInvoke(t)
		return
	case t.popup != nil:
		w.judgePopup(t)
		return
	}
	if t.err != nil && strings.Contains(t.err.Error(), canary) {
		w.violate("8", "a secret in an error")
	}
	var illegal *table.IllegalTransitionError
	if errors.As(t.err, &illegal) {
		w.violate("table", "t%d %s: %v", t.id, t.what, t.err)
	}
	troubled := t.faults > 0 || w.storeTrouble(t) || time.Since(t.began) >= w.slow()
	if t.err != nil && !troubled {
		w.violate("9", "t%d %s fails though nothing was wrong: %v", t.id, t.what, t.err)
	}
	if strings.HasPrefix(t.what, "signout") && t.err == nil && t.deletes == 0 {
		w.violate("table", "t%d %s: the token service was not told", t.id, t.what)
	}
	if strings.HasPrefix(t.what, "signin") && t.err == nil {
		w.judgeSignIn(t)
	}
}

// judgeSignIn: the bot gets its user's token, or is told what is on the screen.
func (w *world) judgeSignIn(t *task) {
	token := t.result.Token.Token
	switch {
	case t.result.SignedIn() == token.Empty():
		w.violate("9", "t%d %s: signed in %t, with a token %t", t.id, t.what, t.result.SignedIn(), !token.Empty())
	case !token.Empty() && strings.HasPrefix(token.Reveal(), staleToken):
		w.violate("token", "t%d %s got a token that has expired", t.id, t.what)
	case !token.Empty() && !strings.HasPrefix(token.Reveal(), tokenOf(t.user)):
		w.violate("10", "t%d got another's token", t.id)
	case t.result.Pending == machine.CardSent && t.posts == 0, t.result.Pending == machine.UnderWay && t.posts > 0:
		w.violate("9", "t%d %s: %s, after %d cards", t.id, t.what, t.result.Pending, t.posts)
	}
}

// overdue reports whether the task's invoke should have been answered by now.
func (t *task) overdue() bool { return t.activity != nil && time.Since(t.began) >= 14*time.Second }

func (w *world) storeTrouble(t *task) bool { return t.node.storeFaults > t.repeats }

// judgeInvoke is invariant 9.
func (w *world) judgeInvoke(t *task) {
	status := t.answer.Status
	raw, err := json.Marshal(t.answer.Body)
	if err != nil || bytes.Contains(raw, []byte(canary)) {
		w.violate("8", "a secret in an answer")
	}
	wrong := func(why string) {
		w.violate("9", "t%d %s is answered %d: %s", t.id, t.what, status, why)
	}
	if t.answer.RetryAfter != 0 { // the store was down, or hung for too long
		if status != http.StatusServiceUnavailable || t.answer.RetryAfter != time.Second || !w.storeTrouble(t) && !t.overdue() {
			wrong("with Retry-After " + t.answer.RetryAfter.String())
		}
		return
	}
	switch {
	case status == 0:
		wrong("no answer at all")
	case t.activity.Name == machine.InvokeFailure:
		w.judgeFailure(t, wrong)
	case t.plain:
		want := http.StatusBadRequest
		if t.activity.Name == machine.InvokeVerifyState {
			want = http.StatusNotFound
			if t.code != "" {
				want = http.StatusOK
			}
		}
		if status != want || t.exchanges > 0 || len(t.codes) > 0 {
			wrong("malformed, or a closed popup")
		}
	case w.nameless(t):
		if status != http.StatusBadRequest || t.answer.Body != nil || t.exchanges > 0 {
			wrong("its connection is not registered (B0)")
		}
	case t.foreign && w.policy.IdentityMismatch == machine.Reject:
		if status != http.StatusForbidden || t.answer.Body != nil || t.exchanges > 0 {
			wrong("its token is another user's (§9)")
		}
	case t.settled || w.stillOut(t):
		if status != http.StatusOK {
			wrong("complete, or signed out, when it arrived")
		}
	case t.granted != "":
		w.judgeSuccess(t, wrong)
	case t.activity.Name == machine.InvokeTokenExchange:
		w.judgeExchange(t, raw, wrong)
	default:
		w.judgeCode(t, wrong)
	}
	if status == http.StatusOK && t.name != "" {
		w.judgeBody(t, raw, wrong)
	}
}

// nameless: neither the exchange id nor the connection's name says what the
// exchange is about. An id may become known meanwhile; then both answers are
// right.
func (w *world) nameless(t *task) bool {
	if t.name == "" || len(w.connections) == 1 || slices.Contains(w.connections, t.name) || !t.unknown {
		return false
	}
	r := w.model.rows[w.model.byExchange[t.exchange]]
	known := t.exchange != "" && r != nil && r.Key.User == t.user
	return !known || t.answer.Status == http.StatusBadRequest && t.exchanges == 0
}

// judgeBody: an exchange that is answered 200 has no body, unless the policy says
// so.
func (w *world) judgeBody(t *task, body []byte, wrong func(string)) {
	if w.policy.SuccessBody != machine.Echo {
		if t.answer.Body != nil {
			wrong("with a body")
		}
		return
	}
	var got machine.ExchangeResponse
	if json.Unmarshal(body, &got) != nil || got.ID != t.exchange || got.ConnectionName != t.name || got.FailureDetail != "" {
		wrong("without the body that the policy asks for")
	}
}

// judgeFailure: the answer is 200 whatever it says. A failure that is about no
// sign-in is told to the handler of all connections alone, unless the policy says
// otherwise, and to nobody when its user has no attempt in this conversation.
func (w *world) judgeFailure(t *task, wrong func(string)) {
	if t.answer.Status != http.StatusOK {
		wrong("a signin/failure is always answered 200")
		return
	}
	here := t.from
	about := attributed(t.survey, t.activity)
	stranger := (here.IsGroup || here.Type == "channel") && !slices.ContainsFunc(t.survey, func(a store.Attempt) bool {
		return a.Conversation.ID == here.ID || a.CardConversation == here.ID
	})
	var pending *store.Attempt // without SSO
	for i := range t.survey {
		if a := &t.survey[i]; !a.State.Terminal() && (pending == nil || a.ID > pending.ID) {
			pending = a
		}
	}
	late := len(t.survey) > 0 && pending == nil && t.surveyed.Sub(t.survey[0].Entered) < 5*time.Minute
	all := w.policy.FailureFanout == machine.All
	alone := !stranger && about == "" && !late && (pending == nil || !all && pending.State != store.Exchanging)
	for _, connection := range t.told {
		if !alone || connection != "" && !all {
			wrong("told to " + connection + ", whom it is not about")
		}
	}
	expired := pending != nil && !time.Now().Before(pending.Expires)
	if alone && !expired && time.Since(t.began) < w.slow() && !slices.Contains(t.told, "") {
		wrong("and the handler of all connections does not hear of it (D0, D6)")
	}
}

// judgeSuccess: a success is never thrown away, and it is durable before it is
// answered.
func (w *world) judgeSuccess(t *task, wrong func(string)) {
	if t.answer.Status != http.StatusOK {
		wrong("upstream gave it a token")
		return
	}
	done := w.model.anyOf(t.granted, func(r *row) bool {
		return r.State == store.Complete && (t.sawDone || !r.Entered.Before(store.Time(t.began)))
	})
	out := w.model.anyOf(t.granted, func(r *row) bool {
		return signedOut(&r.Attempt)
	})
	switch {
	case done:
	case out && (t.deletes > 0 || t.tried || time.Since(t.began) >= w.slow()): // or it is deleted after the answer
	case out:
		w.violate("table", "t%d %s: signed out meanwhile, but the token stays upstream (E2)", t.id, t.what)
	default:
		w.violate("success", "t%d %s: upstream gave it a token, and no attempt is Complete", t.id, t.what)
	}
}

func (w *world) judgeExchange(t *task, body []byte, wrong func(string)) {
	status := t.answer.Status
	recorded := w.recordedExchange(t)
	refused := slices.ContainsFunc(t.statuses, func(s int) bool { return s == 0 || s == 200 || refusal(s) })
	switch {
	case status == http.StatusOK:
		if !w.justOK(t, store.Exchanging) && w.policy.FailedDuplicate != machine.Noop {
			wrong("nobody is signed in and nobody is at it")
		}
	case status == http.StatusPreconditionFailed:
		var got machine.ExchangeResponse
		if json.Unmarshal(body, &got) != nil || got.ID != t.exchange || got.ConnectionName != t.name {
			wrong("without the body of a 412")
		}
		if !refused && !recorded && time.Since(t.began) < w.slow() {
			wrong("nothing refused it")
		}
	case status == http.StatusBadRequest && !slices.Contains(t.statuses, status) && !recorded:
		if w.policy.LateInvoke != machine.Reject {
			wrong("it was well-formed")
		}
	case !slices.Contains(t.statuses, status) && !recorded:
		wrong("no upstream said so")
	}
	// The last word of an upstream is the answer, unless somebody else was faster.
	if n := len(t.refusals); t.exchanges > 0 && n > 0 && !t.sawDone {
		want := t.refusals[n-1]
		if want == 0 || want == 200 || refusal(want) {
			want = http.StatusPreconditionFailed
		}
		if status != want {
			wrong("upstream said " + http.StatusText(want))
		}
	}
}

// recordedExchange reports whether the answer may be one on record: that of
// somebody for whom it has waited (B6), or a refusal that is less than ten
// seconds old (B9). An outage is no verdict on a token (B10).
func (w *world) recordedExchange(t *task) bool {
	return t.exchanges == 0 && slices.ContainsFunc(t.seen, func(a sighting) bool {
		return a.AnswerStatus == t.answer.Status &&
			(t.waited[a.ID] || a.State == store.CardSent && refusal(a.AnswerCause) && a.at.Sub(a.AnswerAt) < replayFor)
	})
}

// justOK reports whether a 200 is right for an invoke that got no token
// itself: somebody else is signed in by now, is still at it, or signed out.
func (w *world) justOK(t *task, busy store.State) bool {
	if t.sawDone {
		return true
	}
	return slices.ContainsFunc(t.seen, func(a sighting) bool {
		return a.State == busy && t.exchanges == 0 || signedOut(&a.Attempt) ||
			slices.ContainsFunc(t.seen, func(b sighting) bool { return signedOutSince(&a.Attempt, &b.Attempt) })
	})
}

// signedOut reports whether the user has signed out of an attempt that failed, by its
// end or after it.
func signedOut(a *store.Attempt) bool {
	return a.State == store.Failed && (a.Reason == store.ReasonSignedOut || a.SSOOutcome == "signed_out")
}

// signedOutSince reports whether a later attempt of the key has seen a sign-out that
// a failed one has not.
func signedOutSince(a, later *store.Attempt) bool {
	return a.State == store.Failed && later.Key.Same(a.Key) && later.Generation > a.Generation
}

func (w *world) judgeCode(t *task, wrong func(string)) {
	status := t.answer.Status
	recorded := slices.ContainsFunc(t.seen, func(a sighting) bool { return a.CodeStatus == status && t.waited[a.ID] })
	hard := slices.ContainsFunc(t.statuses, func(s int) bool { return s >= 500 || s == 401 || s == 403 || s == 409 || s == 429 })
	soft := slices.ContainsFunc(t.statuses, func(s int) bool { return s == 0 || s == 400 || s == 412 })
	single := len(w.connections) == 1
	switch {
	case recorded:
	case status == http.StatusOK:
		if !w.justOK(t, store.Verifying) {
			wrong("nobody is signed in and nobody is at it")
		}
	case status == http.StatusPreconditionFailed:
		if !single && !soft && time.Since(t.began) < w.slow() {
			wrong("several connections, and none refused it")
		}
	case status == http.StatusNotFound:
		if single || hard {
			wrong("a single connection, or an upstream failure hidden")
		}
	case !slices.Contains(t.statuses, status):
		wrong("no upstream said so")
	}
}

// heal ends the chaos: nothing fails any more, what is under way ends, and one
// engine after the other sweeps until everything is quiet.
func (w *world) heal() {
	w.fate, w.storeOff, w.tokenOff = fate{}, false, false
	if len(w.nodes) == 0 {
		w.boot()
	}
	for range 10_000 {
		w.settle()
		w.mu.Lock()
		waiting, active := len(w.parked), w.active
		if waiting == 0 && active == 0 {
			w.free = true
			w.mu.Unlock()
			break
		}
		var p *parked
		if waiting > 0 {
			slices.SortFunc(w.parked, func(a, b *parked) int { return strings.Compare(a.key, b.key) })
			p = w.parked[w.rng.IntN(waiting)]
		}
		w.mu.Unlock()
		if p != nil {
			w.release(p, w.verdictOn(p))
		} else {
			time.Sleep(time.Second)
		}
	}
	if !w.free {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, t := range w.tasks {
			if !t.done {
				w.violate("9", "t%d %s is still under way", t.id, t.what)
			}
		}
		return
	}
	w.quiet()
}

// quiet is one live engine over what the chaos has left.
func (w *world) quiet() {
	healed := time.Now()
	for range 3000 {
		for _, n := range w.nodes {
			t := &task{what: "quiet", node: n, codes: map[string]int{}, waited: map[string]bool{}, passed: map[string]bool{}}
			ctx := contextOf(t)
			if err := errors.Join(n.eng.Sweep(ctx), n.eng.DeliverDue(ctx), n.eng.Flush(ctx)); err != nil {
				w.blame("7", "a healthy engine cannot work: %v", err)
				return
			}
		}
		next, late := w.next(healed)
		if late != "" {
			w.blame("7", "%s", late)
			return
		}
		if next.IsZero() {
			w.owedAreTold()
			return
		}
		time.Sleep(max(w.timeouts.Sweep, time.Until(next)))
	}
	w.blame("callback", "a callback is never acknowledged")
}

// next is when something is due next; zero if nothing is. late says what should
// have happened by now.
func (w *world) next(healed time.Time) (next time.Time, late string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	soonest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, id := range w.model.ids {
		r := w.model.rows[id]
		if r.State.Terminal() {
			continue
		}
		end := r.Expires
		if end.Before(healed) {
			end = healed
		}
		if time.Since(end) > w.timeouts.Lease+2*w.timeouts.Sweep+w.timeouts.Upstream {
			return next, w.model.name(id) + " is still " + string(r.State)
		}
		soonest(r.Due())
	}
	page, err := w.mem.List(contextOf(nil), store.Filter{Limit: 1000})
	if err != nil {
		return next, err.Error()
	}
	for i := range page.Deliveries {
		d := &page.Deliveries[i]
		w.model.owed[d.DeliveryKey].Delivery = *d
		if d.Status == store.DeliveryPending {
			soonest(d.NextAt)
		}
	}
	return next, ""
}

// owedAreTold: every callback reached its handlers at least once, unless a
// sign-out or the caller of SignIn took its place, or it was given up.
func (w *world) owedAreTold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	page, err := w.mem.List(contextOf(nil), store.Filter{Limit: 1000})
	if err != nil {
		w.violate("2", "%v", err)
	}
	for i := range page.Deliveries {
		d := &page.Deliveries[i]
		o := w.model.owed[d.DeliveryKey]
		switch {
		case o == nil || o.Status != d.Status || o.Tries != d.Tries:
			w.violate("callback", "%s lies in the store as nobody has written it", w.model.key(d.DeliveryKey))
		case d.Status == store.DeliveryDone && !o.told:
			w.violate("callback", "%s is acknowledged, but nobody was told", w.model.key(d.DeliveryKey))
		}
	}
	bad, err := machinetest.Violations(contextOf(nil), w.mem)
	if err != nil {
		w.violate("2", "%v", err)
	}
	for _, b := range bad {
		w.violate("store "+b[:1], "%s", b)
	}
}
