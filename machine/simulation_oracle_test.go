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
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// The oracle says which answers the table allows for what the world has done
// to an invoke. It is small and knows nothing of the engine's inside.

// slow is how old a claim is when no call is begun under it any more (§3).
func (w *world) slow() time.Duration { return w.timeouts.Lease - w.timeouts.Upstream }

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
	}
}

// judge looks at how a task ended on an instance that lived. w.mu is held.
func (w *world) judge(t *task) {
	if t.activity != nil {
		w.judgeInvoke(t)
		return
	}
	if t.err != nil && strings.Contains(t.err.Error(), canary) {
		w.violate("8", "a secret in an error")
	}
	var illegal *machine.IllegalTransitionError
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
	if !t.token.Token.Empty() && !strings.HasPrefix(t.token.Token.Reveal(), tokenOf(t.user)) {
		w.violate("10", "t%d got another's token", t.id)
	}
}

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
	if status == http.StatusServiceUnavailable && w.storeTrouble(t) {
		return
	}
	switch {
	case status == 0:
		wrong("no answer at all")
	case t.activity.Name == machine.InvokeFailure:
		if status != http.StatusOK {
			wrong("a signin/failure is always answered 200")
		}
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
		return r.State == store.Failed && r.Reason == store.ReasonSignedOut
	})
	switch {
	case done:
	case out && (t.deletes > 0 || t.tried):
	case out:
		w.violate("table", "t%d %s: signed out meanwhile, but the token stays upstream (E2)", t.id, t.what)
	default:
		w.violate("success", "t%d %s: upstream gave it a token, and no attempt is Complete", t.id, t.what)
	}
}

func (w *world) judgeExchange(t *task, body []byte, wrong func(string)) {
	status := t.answer.Status
	recorded := slices.Contains(t.recorded, status)
	refused := slices.ContainsFunc(t.statuses, func(s int) bool { return s == 0 || s == 200 || s == 400 || s == 404 || s == 412 })
	switch {
	case status == http.StatusOK:
		if !w.justOK(t, store.Exchanging) && w.policy.FailedDuplicate != machine.Noop {
			wrong("nobody is signed in and nobody is at it")
		}
	case status == http.StatusPreconditionFailed:
		var got machine.ExchangeResponse
		if json.Unmarshal(body, &got) != nil || got.ID != t.exchange || got.ConnectionName == "" {
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
	if n := len(t.statuses); t.exchanges > 0 && n > 0 && !t.sawDone {
		want := t.statuses[n-1]
		switch want {
		case 0, 200, 400, 404:
			want = http.StatusPreconditionFailed
		}
		if status != want {
			wrong("upstream said " + http.StatusText(want))
		}
	}
}

// justOK reports whether a 200 is right for an invoke that got no token
// itself: somebody else is signed in by now, is still at it, or signed out.
func (w *world) justOK(t *task, busy store.State) bool {
	if t.sawDone {
		return true
	}
	return slices.ContainsFunc(t.seen, func(a store.Attempt) bool {
		return a.State == busy && t.exchanges == 0 || a.Reason == store.ReasonSignedOut
	})
}

func (w *world) judgeCode(t *task, wrong func(string)) {
	status := t.answer.Status
	recorded := slices.Contains(t.recorded, status)
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
		w.violate("9", "something is still under way")
		return
	}
	w.quiet()
}

// quiet is one live engine over what the chaos has left.
func (w *world) quiet() {
	healed := time.Now()
	for range 500 {
		for _, n := range w.nodes {
			t := &task{what: "quiet", node: n, codes: map[string]int{}}
			ctx := contextOf(t)
			if err := errors.Join(n.eng.Sweep(ctx), n.eng.DeliverDue(ctx), n.eng.Flush(ctx)); err != nil {
				w.violate("7", "a healthy engine cannot work: %v", err)
				return
			}
		}
		next, late := w.next(healed)
		if late != "" {
			w.violate("7", "%s", late)
			return
		}
		if next.IsZero() {
			w.owedAreTold()
			return
		}
		time.Sleep(max(w.timeouts.Sweep, time.Until(next)))
	}
	w.violate("callback", "a callback is never acknowledged")
}

// next is when something is due next; zero if nothing is. late says what should
// have happened by now.
func (w *world) next(healed time.Time) (next time.Time, late string) {
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

// owedAreTold: every callback reached a handler at least once, unless a
// sign-out or the caller of SignIn took its place.
func (w *world) owedAreTold() {
	for _, id := range w.model.ids {
		for k, o := range w.model.owed {
			if k.Attempt == id && o.Status == store.DeliveryDone && o.told == 0 {
				w.violate("callback", "%s is acknowledged, but nobody was told", w.model.key(k))
			}
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
