package machine_test

import (
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// What the model knows of callbacks (docs/state-machine.md §6).

// maxTries is when a callback is given up.
const maxTries = 10

// owed is a callback that the outbox owes.
type owed struct {
	store.Delivery           // as the store has it
	holder         string    // who may call …
	taken, until   time.Time // … since when, and how long
	due            time.Time // since when it is pending
	runs           map[*machine.Turn]*run
	begun          int  // runs of the handlers
	told           bool // all handlers of one run returned without an error
	final          bool // a handler said that no repeat can help
}

// run is one run of all handlers of a callback: they share a turn.
type run struct {
	nth, want, well int
}

// deliver checks a row that is new in the outbox.
func (m *model) deliver(n *node, c *store.Commit, d *store.Delivery) {
	m.buf = store.AppendDelivery(m.buf[:0], d)
	m.secret("the outbox", m.buf)
	if m.owed[d.DeliveryKey] != nil {
		m.w.violate("callback", "%s is owed twice", m.key(d.DeliveryKey))
		return
	}
	o := &owed{Delivery: d.Clone(), runs: map[*machine.Turn]*run{}, due: time.Now()}
	m.owed[d.DeliveryKey] = o
	if d.Kind == store.DeliverComplete && !m.completes(c, d.Attempt) {
		m.w.violate("4", "%s: a complete row without its transition", m.key(d.DeliveryKey))
	}
	switch {
	case d.Status == store.DeliveryDone:
		m.w.violate("callback", "%s is acknowledged before it is made", m.key(d.DeliveryKey))
	case d.Owner != "" && d.Owner != n.name:
		m.w.violate("callback", "%s writes %s as held by %s", n.name, m.key(d.DeliveryKey), d.Owner)
	case d.Owner != "":
		o.holder, o.taken, o.until = d.Owner, time.Now(), d.NextAt
	}
}

func (m *model) completes(c *store.Commit, id string) bool {
	for i := range c.Events {
		if e := &c.Events[i]; e.Attempt == id && e.To == store.Complete && e.From != store.Complete {
			return true
		}
	}
	return false
}

func (m *model) owesCompletion(id string) bool {
	for k, o := range m.owed {
		if k.Attempt == id && k.Kind == store.DeliverComplete && o.Status == store.DeliveryPending {
			return true
		}
	}
	return false
}

// claimed checks the rows that an instance has taken: one at a time, only what is
// due and nobody's, and none before its turn.
func (m *model) claimed(n *node, q store.ClaimQuery, rows []store.Delivery) {
	if q.Limit != 1 {
		m.w.violate("callback", "%s claims %d callbacks at once", n.name, q.Limit)
	}
	for i := range rows {
		d := &rows[i]
		o := m.owed[d.DeliveryKey]
		switch {
		case o == nil || o.Status != store.DeliveryPending:
			m.w.violate("callback", "%s claims %s, which is not owed", n.name, m.key(d.DeliveryKey))
			continue
		case time.Now().Before(o.NextAt):
			m.w.violate("callback", "%s claims %s before its time", n.name, m.key(d.DeliveryKey))
		}
		o.Delivery = d.Clone()
		o.holder, o.taken, o.until = n.name, time.Now(), d.NextAt
	}
}

// acknowledge checks what becomes of a row: only its holder says so, or an
// operator of one that nobody holds.
func (m *model) acknowledge(n *node, c *store.Commit, a *store.Ack) {
	o := m.owed[a.DeliveryKey]
	if o == nil {
		m.w.violate("callback", "%s acknowledges %s, which is not owed", n.name, m.key(a.DeliveryKey))
		return
	}
	key := m.key(a.DeliveryKey)
	by, _, _ := strings.Cut(a.By, "/") // the rest says which claim of the instance
	switch {
	case by == "" && !byOperator(c):
		m.w.violate("callback", "%s acknowledges %s, which nobody holds", n.name, key)
	case by != "" && by != n.name:
		m.w.violate("callback", "%s acknowledges %s, which %s holds", n.name, key, by)
	}
	switch {
	case a.Status == store.DeliveryDone && !o.told:
		m.w.violate("callback", "%s is acknowledged, but nobody was told", key)
	case a.Status == store.DeliveryDead && a.Try < maxTries:
		m.w.violate("callback", "%s is given up after %d tries", key, a.Try)
	case a.Status == store.DeliveryUndeliverable && !o.final:
		m.w.violate("callback", "%s is undeliverable, but nobody said so", key)
	}
	if o.Status != store.DeliveryPending { // an operator has made it due again
		o.due = time.Now()
	}
	o.Delivery = a.Clone()
	o.holder = ""
}

func byOperator(c *store.Commit) bool {
	for i := range c.Events {
		if c.Events[i].Kind == store.EventOperator {
			return true
		}
	}
	return false
}

// drop: only a sign-out takes a completion back (E3).
func (m *model) drop(c *store.Commit, id string) {
	if !hasRow(c, "E3") {
		m.w.violate("callback", "%s: a completion dropped without a sign-out", m.name(id))
	}
	for k, o := range m.owed {
		if k.Attempt == id {
			o.Dropped()
		}
	}
}

// started notes that a handler begins and returns which run of the callback's
// handlers it belongs to. A callback is made by whoever holds it, while he holds
// it, in its turn, at most ten times, and only by the handlers that it is owed
// to. w.mu is held.
func (m *model) started(n *node, t *task, turn *machine.Turn, key store.DeliveryKey, connection string) int {
	if key.Attempt == "" {
		t.told = append(t.told, connection)
		return 0
	}
	o := m.owed[key]
	if o == nil {
		m.w.violate("callback", "a callback with an unknown key")
		return 0
	}
	r := m.rows[key.Attempt]
	if r.Key.User != turn.Conversation().UserID {
		m.w.violate("10", "a callback of #%d goes to another user", r.number)
	}
	if connection != "" && !o.Fanout && !strings.EqualFold(connection, r.Key.Connection) {
		m.w.violate("callback", "%s of %s is told to %s", m.key(key), r.Key.Connection, connection)
	}
	this := o.runs[turn]
	if this == nil {
		o.begun++
		this = &run{nth: o.begun, want: 2}
		if o.Fanout {
			this.want = 1 + len(m.w.connections)
			if m.w.ext != nil {
				this.want++
			}
		}
		o.runs[turn] = this
		if o.Tries > maxTries {
			m.w.violate("callback", "%s is tried %d times", m.key(key), o.Tries)
		}
		m.inTurn(key)
	}
	switch {
	case o.holder != n.name:
		m.w.violate("callback", "%s is made by %s, but held by %q", m.key(key), n.name, o.holder)
	case !time.Now().Before(o.until):
		m.w.violate("callback", "%s is made by %s, who has held it until %s ago", m.key(key), n.name, time.Since(o.until))
	}
	return this.nth
}

// inTurn: no callback of an attempt is made before an earlier one is through. One
// that an operator makes due again comes too late for what is under way.
func (m *model) inTurn(key store.DeliveryKey) {
	for k, before := range m.owed {
		if k.Attempt == key.Attempt && k.Round < key.Round && before.Status == store.DeliveryPending && !before.told &&
			before.due.Before(m.owed[key].taken) {
			m.w.violate("callback", "%s before %s", m.key(key), m.key(k))
		}
	}
}

// ended notes that a handler returned without an error. w.mu is held.
func (m *model) ended(turn *machine.Turn, key store.DeliveryKey) {
	o := m.owed[key]
	if o == nil || o.runs[turn] == nil {
		return
	}
	r := o.runs[turn]
	if r.well++; r.well == r.want {
		o.told = true
	}
}

// onceBegins checks that what runs once has a mark that says so, and none that
// says that it has run to its end. w.mu is held.
func (m *model) onceBegins(name string) {
	mark, ok := m.once["once "+name]
	switch now := time.Now(); {
	case !ok || mark.Gone:
		m.w.violate("once", "%s runs without a mark", m.w.renumberHeld(name))
	case mark.Version > 1 && now.Before(mark.Expires):
		m.w.violate("once", "%s has run to its end, and runs again", m.w.renumberHeld(name))
	}
}
