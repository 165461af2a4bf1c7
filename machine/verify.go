package machine

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// verifyState runs rows C of the table: signin/verifyState arrived. It names
// no connection, so candidates are tried in the order of
// docs/state-machine.md §4.C until one takes the code.
func (e *Engine) verifyState(ctx context.Context, turn *Turn) Answer {
	code, form := readState(turn.act.Value)
	switch {
	case form != "":
		return e.unreadable(ctx, turn, form)
	case strings.EqualFold(code.Reveal(), cancelledByUser):
		return e.popupClosed(ctx, turn)
	default:
		return e.redeemCode(ctx, turn, code)
	}
}

// unreadable answers a signin/verifyState in which there is no code (C0). The
// user's pending attempt gets a line that says which form came.
func (e *Engine) unreadable(ctx context.Context, turn *Turn, form string) Answer {
	c := e.call(turn, "")
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return c.broken(ctx, outcome{}, err)
	}
	var pending *store.Attempt
	if len(snap.Attempts) > 0 && !snap.Attempts[0].State.Terminal() {
		pending = &snap.Attempts[0]
	}
	return c.refuse(ctx, "C0", http.StatusNotFound, "signin/verifyState with "+form, pending)
}

// redeemCode offers a code to one candidate after the other.
func (e *Engine) redeemCode(ctx context.Context, turn *Turn, code tokensvc.Secret) Answer {
	c := e.call(turn, "")
	p := &prober{eng: e, turn: turn, code: code, ev: c.event(table.VerifyState)}
	p.ev.CodeMarks = e.mark("code", c.key.UserKey(), code)
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return c.broken(ctx, outcome{}, err)
	}
	if a := e.ownCard(snap.Attempts, turn.act); a != nil {
		return c.pageEnded(ctx, a)
	}
	if a := p.redeemed(snap.Attempts); a != nil { // C11 before all candidates: a code is never sent a second time
		answer, _ := p.offer(ctx, a.Key.Connection, exactly{a})
		return answer
	}
	if answer, done := p.run(ctx, e.candidates(snap.Attempts, turn.act)); done {
		return answer
	}
	// Another device may have redeemed the code while it was offered around.
	p.offered = true
	if snap, err = c.find(ctx, store.Query{User: c.key.UserKey()}); err != nil {
		return c.broken(ctx, outcome{}, err)
	}
	if a := p.redeemed(snap.Attempts); a != nil {
		answer, _ := p.offer(ctx, a.Key.Connection, exactly{a})
		return answer
	}
	return p.noMatch(ctx, e.candidates(snap.Attempts, turn.act))
}

// ownCard returns the attempt whose card was replied to, if its connection has no
// codes: the bot exchanges its SSO tokens itself, and the button led to its own page.
func (e *Engine) ownCard(attempts []store.Attempt, act *Activity) *store.Attempt {
	for i := range attempts {
		a := &attempts[i]
		f := e.registered(a.Key.Connection)
		if f == nil || f.conn.Tokens == nil || !isCardOf(a, act) {
			continue
		}
		if _, codes := f.conn.Tokens.(Redeemer); !codes {
			return a
		}
	}
	return nil
}

// pageEnded answers the invoke that such a page ends with (C17). It carries no code,
// and Teams would show anything but 200 as a failure.
func (c *call) pageEnded(ctx context.Context, a *store.Attempt) Answer {
	c.key = a.Key
	c.received(c.turn.act.Name)
	c.note(store.Event{
		Kind: store.EventNote, Row: "C17", Attempt: a.ID, Invoke: c.turn.act.Name, Activity: c.turn.act.ID,
		Status: http.StatusOK, Detail: "the page behind the card has ended",
	})
	c.finish(ctx, a)
	c.seen(ctx, "C17", http.StatusOK)
	return Answer{Status: http.StatusOK}
}

// redeemed returns the attempt that this code has completed, nil if there is none.
func (p *prober) redeemed(attempts []store.Attempt) *store.Attempt {
	for i := range attempts {
		if a := &attempts[i]; a.State == store.Complete && table.Marked(p.ev.CodeMarks, a.CodeMark) {
			return a
		}
	}
	return nil
}

// candidate is one connection that a code may belong to.
type candidate struct {
	connection string
	attempt    *store.Attempt // nil = the user never tried this connection
	rank       rank
}

// rank orders candidates, best first.
type rank int

const (
	isCard    rank = iota // its card was replied to
	isPending             // an attempt is under way
	hasFailed             // the newest attempt failed
	isUntried             // no attempt at all
	isDone                // the newest attempt is complete
)

// candidates puts the registered connections in the order in which a code is
// offered to them: by rank, newest attempt first, untried ones in the order of
// registration. The attempts are those of the user, non-terminal first, then
// newest first.
func (e *Engine) candidates(attempts []store.Attempt, act *Activity) []candidate {
	var out []candidate
	for i := range attempts {
		a := &attempts[i]
		f := e.registered(a.Key.Connection)
		switch {
		case f == nil:
			continue // no longer registered
		case f.conn.Tokens != nil && isCardOf(a, act):
			return nil // its popup's code belongs to no other connection
		case f.conn.Tokens != nil:
			continue // its codes come another way
		}
		at := slices.IndexFunc(out, func(k candidate) bool { return k.connection == f.conn.Name })
		if at < 0 {
			at = len(out)
			out = append(out, candidate{connection: f.conn.Name, attempt: a, rank: rankOf(a.State)})
		}
		if k := &out[at]; k.rank != isCard && isCardOf(a, act) {
			k.rank = isCard
			// The card's own attempt, unless its user's sign-in goes on in another.
			if k.attempt.State.Terminal() {
				k.attempt = newestOf(attempts, a)
			}
		}
	}
	for _, f := range e.flows {
		if f.conn.Tokens == nil && !slices.ContainsFunc(out, func(k candidate) bool { return k.connection == f.conn.Name }) {
			out = append(out, candidate{connection: f.conn.Name, rank: isUntried})
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return int(a.rank - b.rank) })
	return out
}

func rankOf(s store.State) rank {
	switch s {
	case store.Complete:
		return isDone
	case store.Failed:
		return hasFailed
	default:
		return isPending
	}
}

// newestOf follows the chain of a within the attempts that were read.
func newestOf(attempts []store.Attempt, a *store.Attempt) *store.Attempt {
	for a.SupersededBy != "" {
		i := slices.IndexFunc(attempts, func(o store.Attempt) bool { return o.ID == a.SupersededBy })
		if i < 0 {
			break
		}
		a = &attempts[i]
	}
	return a
}

// prober offers one code to the candidates and collects their answers.
type prober struct {
	eng  *Engine
	turn *Turn
	code tokensvc.Secret
	ev   table.Event // what is offered next

	single  bool
	worst   int  // the worst upstream status seen
	refused bool // some upstream said 400 or 412, or nothing at all
	unclear bool // some upstream failed
	offered bool // to every candidate
}

// run offers the code to the candidates in order until one settles it.
func (p *prober) run(ctx context.Context, all []candidate) (answer Answer, done bool) {
	p.single = len(all) == 1
	for i, k := range all {
		p.ev.First = i == 0
		p.ev.Only = p.single
		p.ev.Attributed = k.rank == isCard || p.single
		if answer, done = p.offer(ctx, k.connection, k.finder()); done {
			return answer, true
		}
	}
	return Answer{}, false
}

// noMatch handles a code that no candidate took. Only the best candidate that was
// waiting for a code gets the event.
func (p *prober) noMatch(ctx context.Context, all []candidate) Answer {
	if len(all) == 0 { // every connection has codes of its own
		all = []candidate{{connection: "", rank: isUntried}}
	}
	best, where := all[0], finder(exactly{})
	if i := slices.IndexFunc(all, func(k candidate) bool { return k.attempt != nil && k.rank != isDone }); i >= 0 {
		best = all[i]
		where = byCard(best.attempt.ID)
	}
	p.ev.Kind, p.ev.Status, p.ev.Unclear = table.NoMatch, p.status(), p.unclear
	p.ev.Operation = operation(table.Redeem)
	p.ev.First, p.ev.Only, p.ev.Attributed = false, false, false
	answer, _ := p.offer(ctx, best.connection, where)
	return answer
}

// finder returns how to find the candidate's attempt.
func (k candidate) finder() finder {
	if k.rank == isCard {
		return byCard(k.attempt.ID)
	}
	return byKey{}
}

// status is the answer to a code that no candidate took (C6, C8, C13).
func (p *prober) status() int {
	switch {
	case p.worst != 0:
		return p.worst
	case p.refused, p.single:
		return http.StatusPreconditionFailed
	default:
		return http.StatusNotFound
	}
}

// offer runs the event on one candidate. done is false if the next candidate is to
// be tried.
func (p *prober) offer(ctx context.Context, connection string, where finder) (answer Answer, done bool) {
	c := p.eng.call(p.turn, connection)
	c.code = p.code
	if !p.offered { // afterwards it is still the same invoke, already on record
		c.received(p.ev.Invoke)
	}
	out, err := c.drive(ctx, where, p.ev)
	if err != nil {
		return c.broken(ctx, out, err), true
	}
	switch out.reply {
	case table.ReplyOK:
		return c.answer(ctx, out, Answer{Status: http.StatusOK}), true
	case table.ReplyRefuse:
		return c.answer(ctx, out, Answer{Status: http.StatusPreconditionFailed}), true
	case table.ReplyRecord:
		return c.answer(ctx, out, Answer{Status: out.attempt.CodeStatus}), true
	case table.ReplyWorst:
		return c.answer(ctx, out, Answer{Status: out.event.Status}), true
	case table.ReplyStatus: // the recovery before the code got no clear answer (C9c)
		return c.answer(ctx, out, Answer{Status: statusOr412(out.event.Status)}), true
	default: // the next candidate
		p.remember(out.event)
		c.finish(ctx, out.attempt)
		return Answer{}, false
	}
}

func (p *prober) remember(ev table.Event) {
	switch ev.Kind {
	case table.VerifyRefused:
		p.refused = true
	case table.VerifyFailed:
		p.unclear = true
		p.refused = p.refused || ev.Status == 0
		p.worst = max(p.worst, ev.Status)
	default: // a miss
	}
}

// popupClosed runs C1: the user closed the popup.
func (e *Engine) popupClosed(ctx context.Context, turn *Turn) Answer {
	c := e.call(turn, "")
	c.received(turn.act.Name)
	out, err := c.drive(ctx, byPopup{}, c.event(table.PopupClosed))
	if err != nil {
		return c.broken(ctx, out, err)
	}
	return c.answer(ctx, out, Answer{Status: http.StatusOK})
}

// byPopup finds the attempt whose popup was closed: the card's, else the best
// pending one.
type byPopup struct{}

func (byPopup) find(ctx context.Context, c *call, _ *table.Event) (*store.Attempt, error) {
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return nil, err
	}
	for _, k := range c.eng.candidates(snap.Attempts, c.turn.act) {
		if k.attempt != nil && (k.rank == isCard || !k.attempt.State.Terminal()) {
			c.key = k.attempt.Key
			return k.attempt, nil
		}
	}
	return nil, nil
}
