package machine_test

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// model is what the store must hold: it looks at every commit that was
// written and knows the rules of state-machine.md by heart, not from the
// engine's table.
type model struct {
	w          *world
	rows       map[string]*row
	ids        []string // in the order of insertion
	open       map[string]string
	byExchange map[string]string
	owed       map[store.DeliveryKey]*owed
	buf        []byte
}

// row is an attempt as it was last written.
type row struct {
	store.Attempt
	number   int
	claimBy  string // instance and activity of the last claim
	claimAct string
	promised bool   // upstream granted a token under the claim that still holds
	opener   string // activity that opened it
}

// owed is a callback that the outbox owes.
type owed struct {
	store.Delivery
	told int // handlers that returned without an error
}

func newModel(w *world) *model {
	return &model{
		w: w, rows: map[string]*row{}, open: map[string]string{}, byExchange: map[string]string{},
		owed: map[store.DeliveryKey]*owed{},
	}
}

// edges of state-machine.md §4, copied from its list by hand.
func legalEdge(from, to store.State) bool {
	switch from {
	case store.None:
		return to == store.Idle
	case store.Idle:
		return to != store.Idle
	case store.CardSent:
		return to != store.Idle
	case store.Exchanging:
		return to == store.Complete || to == store.CardSent || to == store.Failed || to == store.Verifying
	case store.Verifying:
		return to == store.Complete || to == store.CardSent || to == store.Failed || to == store.Exchanging
	case store.Complete, store.Failed:
		return false
	}
	return false
}

// observe checks a commit that was written. w.mu is held.
func (m *model) observe(c *store.Commit) {
	for i := range c.Put {
		m.put(c, &c.Put[i])
	}
	for i := range c.Deliveries {
		m.deliver(c, &c.Deliveries[i])
	}
	for i := range c.Events {
		e := &c.Events[i]
		m.buf = store.AppendEvent(m.buf[:0], e)
		m.secret("an audit line", m.buf)
		if e.Kind == store.EventTransition && !putsVersion(c, e) {
			m.w.violate("2", "a transition's line without its transition: %s %s", m.name(e.Attempt), e.Row)
		}
	}
}

func (m *model) name(id string) string {
	if r := m.rows[id]; r != nil {
		return "#" + strconv.Itoa(r.number)
	}
	return "#?"
}

func (m *model) secret(where string, b []byte) {
	if bytes.Contains(b, []byte(canary)) {
		m.w.violate("8", "a secret in %s", where)
	}
}

func putsVersion(c *store.Commit, e *store.Event) bool {
	for i := range c.Put {
		if c.Put[i].ID == e.Attempt && c.Put[i].Version == e.Version {
			return true
		}
	}
	return false
}

// put checks one attempt of a commit against the row before.
func (m *model) put(c *store.Commit, a *store.Attempt) {
	now := time.Now()
	r := m.rows[a.ID]
	if r == nil {
		r = &row{number: len(m.ids) + 1}
		m.rows[a.ID] = r
		m.ids = append(m.ids, a.ID)
	}
	before := r.Attempt
	if a.Version != before.Version+1 {
		m.w.violate("2", "#%d version %d follows %d", r.number, a.Version, before.Version)
	}
	state := before.State
	var last *store.Event
	for i := range c.Events {
		e := &c.Events[i]
		if e.Kind != store.EventTransition || e.Attempt != a.ID || e.Version != a.Version {
			continue
		}
		if e.From != state {
			m.w.violate("2", "#%d: a line leaves %q, the attempt is %q", r.number, e.From, state)
		}
		if e.From != e.To && !legalEdge(e.From, e.To) {
			m.w.violate("3", "#%d: %q to %q (%s) is not in the table", r.number, e.From, e.To, e.Row)
		}
		state, last = e.To, e
	}
	if last == nil || state != a.State {
		m.w.violate("2", "#%d is %s, its trail is at %q", r.number, a.State, state)
	}
	if last == nil {
		last = &store.Event{}
	}
	if before.ID == "" {
		r.opener = last.Activity
	}
	m.w.trace("    #%d %s → %s v%d %s %s", r.number, before.State, a.State, a.Version, last.Row, a.Reason)
	m.buf = store.AppendAttempt(m.buf[:0], a)
	m.secret("an attempt", m.buf)
	m.claims(r, &before, a, last, now)
	m.unique(r, a)
	m.ends(c, r, &before, a, last, now)
	m.whose(r, &before, a, last)
	r.Attempt = a.Clone()
	if a.ExchangeID != "" {
		m.byExchange[a.ExchangeID] = a.ID
	}
}

// unique is invariant 1.
func (m *model) unique(r *row, a *store.Attempt) {
	key := a.Key.Index()
	switch other := m.open[key]; {
	case a.State.Terminal():
		if other == a.ID {
			delete(m.open, key)
		}
	case other != "" && other != a.ID:
		m.w.violate("1", "#%d is open beside %s", r.number, m.name(other))
	default:
		m.open[key] = a.ID
	}
}

// claims checks the rules of the lease and the fence.
func (m *model) claims(r *row, before, a *store.Attempt, line *store.Event, now time.Time) {
	fence := a.Lease.Fence - before.Lease.Fence
	if fence < 0 || fence > 1 {
		m.w.violate("fence", "#%d: the fence goes from %d to %d", r.number, before.Lease.Fence, a.Lease.Fence)
	}
	if fence == 0 && (a.State == store.Exchanging || a.State == store.Verifying) && a.State != before.State {
		m.w.violate("fence", "#%d: %s without a claim (%s)", r.number, a.State, line.Row)
	}
	settles := (before.State == store.Exchanging || before.State == store.Verifying) &&
		(a.State == store.CardSent || a.State == store.Failed)
	if settles && upstreamRow(line.Row) && (line.Instance != r.claimBy || line.Activity != r.claimAct) {
		m.w.violate("fence", "#%d: %s settles a failure under somebody else's claim (%s)", r.number, line.Instance, line.Row)
	}
	if fence == 0 {
		return
	}
	claimed := !a.State.Terminal()
	if claimed && !a.Lease.Until.After(line.Time) {
		m.w.violate("fence", "#%d: a claim without a lease (%s)", r.number, line.Row)
	}
	live := before.Lease.Live(now)
	switch {
	case !live || !claimed:
	case before.State == store.Exchanging && a.State == store.Exchanging:
		m.w.violate("fence", "#%d: an exchange takes over from a live one (%s)", r.number, line.Row)
	case before.State == store.Verifying && a.State == store.Verifying && bytes.Equal(before.CodeMark, a.CodeMark):
		m.w.violate("fence", "#%d: a repeat of the code takes over from a live one (%s)", r.number, line.Row)
	case line.Row == "E8":
		m.w.violate("fence", "#%d: a recovery in spite of a live lease", r.number)
	}
	if line.Row != "E8" {
		r.promised = false
	}
	r.claimBy, r.claimAct = line.Instance, line.Activity
	if t := m.w.byActivity[line.Activity]; t != nil && claimed {
		t.claim, t.claimFence, t.claimUntil = a.ID, a.Lease.Fence, a.Lease.Until
		t.claimed = a.State == store.Exchanging
	}
}

// upstreamRow names the rows by which an upstream's no settles an attempt.
func upstreamRow(name string) bool {
	switch name {
	case "B3", "B4", "C4", "C5", "C7", "C8", "E8":
		return true
	default:
		return false
	}
}

// ends checks how an attempt ends, and what goes with it.
func (m *model) ends(c *store.Commit, r *row, before, a *store.Attempt, line *store.Event, now time.Time) {
	if needsFailure(line.Row) && before.ID != "" && !newDelivery(c, a.ID, store.DeliverFailure) {
		m.w.violate("4", "#%d: %s owes a failure callback, the commit has none", r.number, line.Row)
	}
	if a.State == before.State {
		return
	}
	if a.State == store.Complete {
		if t := m.w.byActivity[line.Activity]; t != nil {
			t.sawDone = true
		}
		if !newDelivery(c, a.ID, store.DeliverComplete) {
			m.w.violate("4", "#%d is Complete without its outbox row", r.number)
		}
		for id := a.Supersedes; id != ""; id = m.rows[id].Supersedes {
			if m.rows[id] == nil {
				m.w.violate("2", "#%d supersedes an attempt that is not there", r.number)
				break
			}
			if m.rows[id].State == store.Complete {
				m.w.violate("4", "#%d and #%d of one chain are both Complete", r.number, m.rows[id].number)
			}
		}
		r.promised = false
	}
	if r.promised && upstreamRow(line.Row) && a.Reason != store.ReasonUpstreamUnavailable {
		m.w.violate("success", "#%d: upstream granted a token under this claim, and %s makes it %s", r.number, line.Row, a.State)
	}
	if a.State != store.Failed {
		return
	}
	r.promised = false
	switch a.Reason { //nolint:exhaustive // the others are the table's to give
	case store.ReasonExpired:
		if now.Before(a.Expires) {
			m.w.violate("table", "#%d expired before its time", r.number)
		}
	case store.ReasonAbandoned:
		if before.Lease.Live(now) {
			m.w.violate("table", "#%d abandoned under a live lease", r.number)
		}
	case store.ReasonClientFailure:
		if !before.SSOOffered || before.Rounds > 0 || before.State != store.Idle && before.State != store.CardSent {
			m.w.violate("table", "#%d moved by a signin/failure that is not about it", r.number)
		}
	case store.ReasonSignedOut:
		if (before.State == store.Idle || before.State == store.CardSent) && m.w.twin.deletes[owner(a.Key.User, a.Key.Connection)] == 0 {
			m.w.violate("table", "#%d signed out, but the token service was not told", r.number)
		}
	case store.ReasonSuperseded:
		if before.State != store.Idle && before.State != store.CardSent || a.SupersededBy == "" {
			m.w.violate("table", "#%d superseded out of %s", r.number, before.State)
		}
	case "":
		m.w.violate("2", "#%d failed without a reason", r.number)
	}
}

// needsFailure names the rows that owe a failure callback (§4, column CB).
func needsFailure(name string) bool {
	switch name {
	case "B3", "B4", "C5", "D1", "D2", "D4", "D6", "D7":
		return true
	default:
		return false
	}
}

func newDelivery(c *store.Commit, id string, kind store.DeliveryKind) bool {
	n := 0
	for i := range c.Deliveries {
		if d := &c.Deliveries[i]; d.Attempt == id && d.Kind == kind && (kind == store.DeliverFailure || d.Status != store.DeliveryDropped) {
			n++
		}
	}
	return n == 1
}

// whose is invariant 10.
func (m *model) whose(r *row, before, a *store.Attempt, line *store.Event) {
	if before.ID != "" && (before.Key != a.Key || before.Supersedes != a.Supersedes || before.Created != a.Created) {
		m.w.violate("10", "#%d is another's by now", r.number)
	}
	if t := m.w.byActivity[line.Activity]; t != nil && t.user != a.Key.User {
		m.w.violate("10", "an event of %s changes #%d of %s (%s)", t.user, r.number, a.Key.User, line.Row)
	}
}

// deliver checks a row of the outbox.
func (m *model) deliver(c *store.Commit, d *store.Delivery) {
	m.buf = store.AppendDelivery(m.buf[:0], d)
	m.secret("the outbox", m.buf)
	o := m.owed[d.DeliveryKey]
	if o == nil {
		o = &owed{}
		m.owed[d.DeliveryKey] = o
		if d.Kind == store.DeliverComplete && !m.completes(c, d.Attempt) {
			m.w.violate("4", "%s: a complete row without its transition", m.key(d.DeliveryKey))
		}
	}
	if d.Status == store.DeliveryDropped && o.Status != store.DeliveryDropped && !hasRow(c, "E3") {
		m.w.violate("callback", "%s dropped without a sign-out", m.key(d.DeliveryKey))
	}
	o.Delivery = d.Clone()
}

func (m *model) completes(c *store.Commit, id string) bool {
	for i := range c.Events {
		if e := &c.Events[i]; e.Attempt == id && e.To == store.Complete && e.From != store.Complete {
			return true
		}
	}
	return false
}

func hasRow(c *store.Commit, name string) bool {
	for i := range c.Events {
		if c.Events[i].Row == name {
			return true
		}
	}
	return false
}

func (m *model) key(k store.DeliveryKey) string {
	return fmt.Sprintf("%s/%s/%d", m.name(k.Attempt), k.Kind, k.Round)
}

// granted notes that upstream gave a token to a task: while the task's claim
// holds, that success must not be lost.
func (m *model) granted(t *task, key string) {
	r := m.rows[t.claim]
	if r != nil && owner(r.Key.User, r.Key.Connection) == key && r.Lease.Fence == t.claimFence &&
		(r.State == store.Exchanging || r.State == store.Verifying) {
		r.promised = true
	}
}

// deleted forgets what was promised: the token is gone.
func (m *model) deleted(key string) {
	for _, r := range m.rows {
		if owner(r.Key.User, r.Key.Connection) == key {
			r.promised = false
		}
	}
}

// head follows a chain to its newest attempt, by what supersedes what.
func (m *model) head(r *row) *row {
	for {
		next := r
		for _, id := range m.ids {
			if o := m.rows[id]; o.Supersedes == r.ID {
				next = o
			}
		}
		if next == r {
			return r
		}
		r = next
	}
}

// anyOf reports whether an attempt of the owner is what f says.
func (m *model) anyOf(key string, f func(*row) bool) bool {
	for _, id := range m.ids {
		if r := m.rows[id]; owner(r.Key.User, r.Key.Connection) == key && f(r) {
			return true
		}
	}
	return false
}

// newestComplete reports whether the owner's newest attempt is Complete.
func (m *model) newestComplete(key string) bool {
	done := false
	for _, id := range m.ids {
		if r := m.rows[id]; owner(r.Key.User, r.Key.Connection) == key {
			done = r.State == store.Complete
		}
	}
	return done
}

// started checks that a callback keeps the order of its attempt, has a key
// that the outbox knows, and goes to the right user. w.mu is held.
func (m *model) started(turn *machine.Turn, key store.DeliveryKey) {
	o := m.owed[key]
	if o == nil {
		m.w.violate("callback", "a callback with an unknown key")
		return
	}
	if r := m.rows[key.Attempt]; r.Key.User != turn.Conversation().UserID {
		m.w.violate("10", "a callback of #%d goes to another user", r.number)
	}
	for k, before := range m.owed {
		if k.Attempt == key.Attempt && k.Round < key.Round && before.Status == store.DeliveryPending && before.told == 0 {
			m.w.violate("callback", "%s before %s", m.key(key), m.key(k))
		}
	}
}
