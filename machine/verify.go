package machine

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// verifyState runs rows C of the table: signin/verifyState arrived. It names
// no connection, so candidates are tried in the order of state-machine.md §4.C
// until one takes the code.
func (e *Engine) verifyState(ctx context.Context, act *Activity) Answer {
	var value struct {
		State tokensvc.Secret `json:"state"`
	}
	turn := e.Turn(act)
	if err := json.Unmarshal(act.Value, &value); err != nil || value.State.Empty() {
		return e.refuse(ctx, turn, "C0", http.StatusNotFound, "signin/verifyState without a state")
	}
	if strings.EqualFold(value.State.Reveal(), cancelledByUser) {
		return e.popupClosed(ctx, turn)
	}
	return e.redeemCode(ctx, turn, value.State)
}

// redeemCode offers a code to one candidate after the other.
func (e *Engine) redeemCode(ctx context.Context, turn *Turn, code tokensvc.Secret) Answer {
	c := e.call(turn, e.flows[0])
	defer c.release()
	p := &prober{eng: e, turn: turn, code: code, ev: *c.invoked(VerifyState)}
	p.ev.CodeMark = e.mark("code", c.key.UserKey(), code)
	snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
	if err != nil {
		return c.broken(ctx, nil, err)
	}
	for i := range snap.Attempts {
		// C11 before all candidates: a code is never sent a second time.
		if a := &snap.Attempts[i]; a.State == store.Complete && slices.Equal(a.CodeMark, p.ev.CodeMark) {
			return p.offer(ctx, candidate{flow: e.byName[strings.ToLower(a.Key.Connection)], attempt: a, redeemed: true})
		}
	}
	return p.run(ctx, e.candidates(snap.Attempts, turn.act))
}

// candidate is one connection that a code may belong to.
type candidate struct {
	flow    *Flow
	attempt *store.Attempt // nil = the user never tried this connection
	byCard  bool           // replyToId is this attempt's card
	rank    int
	// redeemed: this attempt is Complete and bears the code's mark. It is not
	// read again, since another code may have taken the mark's place meanwhile.
	redeemed bool
}

// The ranks of candidates, best first.
const (
	rankCard    = iota // the card that was replied to
	rankPending        // an attempt is under way
	rankFailed         // the newest attempt failed
	rankUntried        // no attempt at all
	rankDone           // the newest attempt is complete
)

// candidates puts the registered connections in the order in which a code is
// offered to them: by rank, newest attempt first, untried ones in the order of
// registration. The attempts are those of the user, non-terminal first, then
// newest first.
func (e *Engine) candidates(attempts []store.Attempt, act *Activity) []candidate {
	byFlow := map[*Flow]*candidate{}
	var out []*candidate
	for i := range attempts {
		a := &attempts[i]
		f := e.byName[strings.ToLower(a.Key.Connection)]
		if f == nil {
			continue // registered no more
		}
		k := byFlow[f]
		if k == nil {
			k = &candidate{flow: f, attempt: a, rank: rankOf(a.State)}
			byFlow[f] = k
			out = append(out, k)
		}
		if isCardOf(a, act) && !k.byCard {
			k.byCard, k.rank = true, rankCard
			// The card's own attempt, unless its user's sign-in goes on in another.
			if k.attempt.State.Terminal() {
				k.attempt = newestOf(attempts, a)
			}
		}
	}
	for _, f := range e.flows {
		if byFlow[f] == nil {
			out = append(out, &candidate{flow: f, rank: rankUntried})
		}
	}
	slices.SortStableFunc(out, func(a, b *candidate) int { return a.rank - b.rank })
	list := make([]candidate, len(out))
	for i, k := range out {
		list[i] = *k
	}
	return list
}

func rankOf(s store.State) int {
	switch s {
	case store.Complete:
		return rankDone
	case store.Failed:
		return rankFailed
	case store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.None:
		return rankPending
	}
	return rankPending
}

// isCardOf reports whether the activity replies to the attempt's card.
func isCardOf(a *store.Attempt, act *Activity) bool {
	if act.ReplyToID == "" || a.CardActivityID != act.ReplyToID {
		return false
	}
	where := a.CardConversation
	if where == "" {
		where = a.Conversation.ID
	}
	return where == act.Conversation.ID
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

// prober offers one code to candidates and remembers what it saw.
type prober struct {
	eng  *Engine
	turn *Turn
	code tokensvc.Secret
	ev   Event // what is offered next

	single  bool
	worst   int  // the worst upstream status seen
	refused bool // some upstream said 400 or 412, or nothing at all
	unclear bool // some upstream failed
	matched bool
}

func (p *prober) run(ctx context.Context, all []candidate) Answer {
	p.single = len(all) == 1
	best := -1
	for i, k := range all {
		p.ev.First = i == 0
		p.ev.Only = p.single
		p.ev.Attributed = k.byCard || p.single
		if k.attempt != nil && k.rank != rankDone && best < 0 {
			best = i
		}
		a := p.offer(ctx, k)
		if p.matched || a.Status != 0 {
			return a
		}
	}
	// No candidate took the code: the best one hears of it, once.
	p.ev.Kind, p.ev.Status, p.ev.Unclear = NoMatch, p.status(), p.unclear
	p.ev.First, p.ev.Only, p.ev.Attributed = false, false, false
	k := all[0]
	if best >= 0 {
		k = all[best]
	}
	return p.offer(ctx, k)
}

// status is the answer to a code that nobody took (C6, C8, C13).
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

// offer runs the event on one candidate. An answer without a status means that
// the next candidate is to be tried.
func (p *prober) offer(ctx context.Context, k candidate) Answer {
	if k.flow == nil { // the connection is registered no more
		k.flow = p.eng.flows[0]
	}
	c := p.eng.call(p.turn, k.flow)
	defer c.release()
	c.code, c.in.Event = p.code, p.ev
	c.locate = (*call).byKey
	switch {
	case k.redeemed:
		c.locate = func(*call, context.Context) (sighting, error) { return sighting{attempt: k.attempt}, nil }
	case k.byCard || p.ev.Kind == NoMatch:
		c.locate = func(c *call, ctx context.Context) (sighting, error) { return c.byID(ctx, k.attempt) }
	}
	if p.ev.Kind == VerifyState { // NoMatch is the same invoke once more
		c.received(p.ev.Invoke)
	}
	out, err := c.drive(ctx)
	if err != nil {
		return c.broken(ctx, out.attempt, err)
	}
	p.matched = out.rule.Reply == ReplyOK
	switch out.rule.Reply { //nolint:exhaustive // a verification ends in these
	case ReplyOK:
		return c.answer(ctx, out, Answer{Status: http.StatusOK})
	case ReplyRefuse:
		return c.answer(ctx, out, Answer{Status: http.StatusPreconditionFailed})
	case ReplyRecord:
		return c.answer(ctx, out, Answer{Status: out.attempt.CodeStatus})
	case ReplyWorst:
		return c.answer(ctx, out, Answer{Status: c.in.Event.Status})
	case ReplyStatus: // the recovery before the code got no clear answer (C9c)
		return c.answer(ctx, out, Answer{Status: statusOr412(c.in.Event.Status)})
	}
	p.remember(&c.in.Event)
	c.finish(ctx, out.attempt)
	return Answer{}
}

func (p *prober) remember(ev *Event) {
	switch ev.Kind { //nolint:exhaustive // the others are misses
	case VerifyRefused:
		p.refused = true
	case VerifyFailed:
		p.unclear = true
		if ev.Status == 0 {
			p.refused = true
		}
		p.worst = max(p.worst, ev.Status)
	}
}

// byID finds one attempt again, or, if it was superseded, the one that goes on.
func (c *call) byID(ctx context.Context, a *store.Attempt) (sighting, error) {
	if a == nil {
		return c.byKey(ctx)
	}
	found, err := c.get(ctx, a.ID)
	if errors.Is(err, store.ErrNotFound) {
		return sighting{}, nil
	}
	if err == nil {
		found, err = c.head(ctx, found)
	}
	if err != nil || found.State != store.Failed {
		return sighting{attempt: found}, err
	}
	// A failed one must not be linked beside one that is under way by now.
	here, err := c.byKey(ctx)
	if err == nil && (here.attempt == nil || here.attempt.State.Terminal()) {
		here.attempt = found
	}
	return here, err
}

// popupClosed runs C1: the user closed the popup.
func (e *Engine) popupClosed(ctx context.Context, turn *Turn) Answer {
	c := e.call(turn, e.flows[0])
	c.invoked(PopupClosed)
	c.locate = func(c *call, ctx context.Context) (sighting, error) {
		snap, err := c.find(ctx, store.Query{User: c.key.UserKey()})
		if err != nil {
			return sighting{}, err
		}
		for _, k := range e.candidates(snap.Attempts, turn.act) {
			if k.attempt != nil && (k.byCard || !k.attempt.State.Terminal()) {
				c.flow, c.key = k.flow, k.attempt.Key
				return sighting{attempt: k.attempt}, nil
			}
		}
		return sighting{}, nil
	}
	c.received(turn.act.Name)
	out, err := c.drive(ctx)
	if err != nil {
		return c.broken(ctx, out.attempt, err)
	}
	return c.answer(ctx, out, Answer{Status: http.StatusOK})
}
