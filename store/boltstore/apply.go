package boltstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// putPlan is what check found out about one Put.
type putPlan struct {
	had bool // false on insertion
	old stored
	key userKey
}

// Apply writes the commits in one transaction; see [store.Store]. When the
// transaction fails, every result is that error.
func (s *Store) Apply(ctx context.Context, commits []store.Commit) []error {
	errs := make([]error, len(commits))
	err := s.update(ctx, "apply", func(t *txn) error {
		for i := range commits {
			plans, err := t.check(&commits[i])
			if err != nil {
				errs[i] = fmt.Errorf("boltstore: apply: %w", err)
				continue
			}
			if err := t.apply(&commits[i], plans); err != nil {
				return err
			}
		}
		t.putLines()
		return nil
	})
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
	}
	return errs
}

// check accepts or refuses a commit before any of it is written.
func (t *txn) check(c *store.Commit) ([]putPlan, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	t.plans = slices.Grow(t.plans[:0], len(c.Put))[:len(c.Put)]
	plans := t.plans
	clear(plans)
	for i := range c.Put {
		if err := t.checkPut(c.Put[:i], plans, &c.Put[i]); err != nil {
			return nil, err
		}
	}
	known := func(id string) bool {
		for i := range c.Put {
			if c.Put[i].ID == id {
				return true
			}
		}
		return t.exists(id)
	}
	for i := range c.Events {
		if id := c.Events[i].Attempt; id != "" && !known(id) {
			return nil, fmt.Errorf("event of attempt %s: %w", id, store.ErrNotFound)
		}
	}
	for i := range c.Deliveries {
		k := c.Deliveries[i].DeliveryKey
		if !known(k.Attempt) {
			return nil, fmt.Errorf("delivery of attempt %s: %w", k.Attempt, store.ErrNotFound)
		}
		t.key = deliveryRow(t.key[:0], k)
		if t.rows.Get(t.key) != nil || slices.ContainsFunc(c.Deliveries[:i], func(o store.Delivery) bool { return o.DeliveryKey == k }) {
			return nil, fmt.Errorf("delivery %s: %w", k, store.ErrConflict)
		}
	}
	for i := range c.Acks {
		if err := t.checkAck(c.Acks[:i], &c.Acks[i]); err != nil {
			return nil, err
		}
	}
	for i := range c.Marks {
		if err := t.checkMark(c.Marks[:i], &c.Marks[i]); err != nil {
			return nil, err
		}
	}
	return plans, nil
}

func (t *txn) checkAck(before []store.Ack, a *store.Ack) error {
	found, err := t.readDelivery(a.DeliveryKey, &t.had)
	if err != nil {
		return err
	}
	twice := slices.ContainsFunc(before, func(o store.Ack) bool { return o.DeliveryKey == a.DeliveryKey })
	if !found || twice || !a.Matches(&t.had) {
		return fmt.Errorf("delivery %s: %w", a.DeliveryKey, store.ErrConflict)
	}
	return nil
}

func (t *txn) checkMark(before []store.Mark, m *store.Mark) error {
	if slices.ContainsFunc(before, func(o store.Mark) bool { return o.Name == m.Name }) {
		return fmt.Errorf("mark: %w", store.ErrDuplicate)
	}
	old, there := t.mark(m.Name)
	switch {
	case m.Version == 1 && there:
		return fmt.Errorf("mark: %w", store.ErrDuplicate)
	case m.Version > 1 && (!there || old.version != m.Version-1):
		return fmt.Errorf("mark: %w", store.ErrConflict)
	}
	return nil
}

// checkPut checks and plans one Put as if those before it were written.
func (t *txn) checkPut(before []store.Attempt, plans []putPlan, a *store.Attempt) error {
	plan := &plans[len(before)]
	plan.key = t.hashKey(a.Key)
	if err := t.readStored(before, a.ID, plan); err != nil {
		return err
	}
	old := &plan.old
	switch {
	case a.Version == 1 && plan.had:
		return fmt.Errorf("attempt %s: id taken: %w", a.ID, store.ErrExists)
	case a.Version > 1 && (!plan.had || !old.key.Same(a.Key)):
		return fmt.Errorf("attempt %s: %w", a.ID, store.ErrNotFound)
	case a.Version > 1 && old.version != a.Version-1:
		return fmt.Errorf("attempt %s: stored version %d, wanted %d: %w", a.ID, old.version, a.Version-1, store.ErrConflict)
	}
	if plan.had && !old.state.Terminal() && a.State.Terminal() {
		// A row that cannot be read refuses this commit here. In apply it would fail the
		// whole transaction.
		if _, _, err := t.openRow(plan.key); err != nil {
			return err
		}
	}
	if a.State.Terminal() {
		return nil
	}
	row, _, err := t.openRow(plan.key)
	if err != nil {
		return err
	}
	other := row.id
	for j := range before {
		if plans[j].had && other == before[j].ID {
			other = "" // it holds the key in the store; the next if says whether it still does
		}
		if plans[j].key == plan.key && !before[j].State.Terminal() {
			other = before[j].ID
		}
	}
	if other != "" && other != a.ID {
		return fmt.Errorf("attempt %s: attempt %s: %w", a.ID, other, store.ErrExists)
	}
	return nil
}

// readStored finds what is stored of an attempt, as if the Puts before were written.
func (t *txn) readStored(before []store.Attempt, id string, plan *putPlan) error {
	for j := len(before) - 1; j >= 0; j-- {
		if before[j].ID == id {
			plan.had, plan.old = true, storedOf(&before[j])
			return nil
		}
	}
	if old := t.known[id]; old != nil {
		plan.had, plan.old = true, *old
		return nil
	}
	var err error
	if plan.had, err = t.read(id, &t.put); plan.had {
		plan.old = storedOf(&t.put)
	}
	return err
}

// openRow returns a key's row of the open index, and whether there is one.
func (t *txn) openRow(h userKey) (openRow, bool, error) {
	t.key = openKey(t.key[:0], h)
	b := t.live.Get(t.key)
	if b == nil {
		return openRow{}, false, nil
	}
	row, ok := readOpenRow(b)
	if !ok {
		return openRow{}, false, fmt.Errorf("index of open attempts: %w", store.ErrCorrupt)
	}
	return row, true, nil
}

// apply writes a checked commit. An error ends the transaction.
func (t *txn) apply(c *store.Commit, plans []putPlan) error {
	for i := range c.Put {
		if err := t.putAttempt(&c.Put[i], &plans[i]); err != nil {
			return err
		}
	}
	t.putEvents(c.Events)
	for i := range c.Deliveries {
		t.putDelivery(&c.Deliveries[i], nil)
	}
	for i := range c.Acks {
		a := &c.Acks[i].Delivery
		if _, err := t.readDelivery(a.DeliveryKey, &t.had); err != nil {
			return err
		}
		t.putDelivery(a, &t.had)
	}
	for _, id := range c.Drop {
		t.drop(id)
	}
	for i := range c.Marks {
		t.putMark(&c.Marks[i])
	}
	return nil
}

func (t *txn) putAttempt(given *store.Attempt, plan *putPlan) error {
	t.put = *given // a shallow copy: Normalize sets fields only
	a := &t.put
	a.Normalize()
	a.Request = nil // has a row of its own
	t.value = store.AppendAttempt(t.value[:0], a)
	t.key = rowKey(t.key[:0], a.ID, kindRecord)
	t.rows.Put(t.key, t.value)
	a.Request = given.Request
	t.woken = append(t.woken, a.ID)
	t.known.keep(a)
	t.putRequest(a, plan)
	t.indexUser(a, plan)
	t.indexExchange(a, plan)
	t.indexEnd(a, plan)
	return t.indexOpen(a, plan)
}

// putRequest writes the activity that asked, if it has changed. It is larger than the
// rest of the record, and hardly ever changes.
func (t *txn) putRequest(a *store.Attempt, plan *putPlan) {
	now := sum(a.Request)
	if plan.old.request == now { // old is 0 on insertion
		return
	}
	t.key = rowKey(t.key[:0], a.ID, kindRequest)
	if now == 0 {
		t.rows.Delete(t.key)
		return
	}
	t.rows.Put(t.key, a.Request)
}

// indexOpen updates the open and the due index.
func (t *txn) indexOpen(a *store.Attempt, plan *putPlan) error {
	var had openRow
	if plan.had && !plan.old.state.Terminal() {
		row, ok, err := t.openRow(plan.key)
		if err != nil {
			return err
		}
		if ok && row.id == a.ID {
			had = row
			if a.State.Terminal() {
				t.live.Delete(t.key)
			}
		}
	}
	// An earlier time in the due index may stay: when it comes, Due looks again.
	due := a.Due()
	if !had.due.IsZero() && had.due.Before(due) {
		due = had.due
	}
	if !had.due.Equal(due) {
		t.moveDue(a.ID, had.due, due)
	}
	if a.State.Terminal() {
		return nil
	}
	row := openRow{state: a.State, entered: a.Entered, due: due, id: a.ID}
	t.putOpenRow(plan.key, &row)
	return nil
}

func (t *txn) putOpenRow(h userKey, row *openRow) {
	t.value = row.append(t.value[:0])
	t.key = openKey(t.key[:0], h)
	t.live.Put(t.key, t.value)
}

func (t *txn) moveDue(id string, from, to time.Time) {
	if !from.IsZero() {
		t.key = dueKey(t.key[:0], from, id)
		t.live.Delete(t.key)
	}
	if to.IsZero() {
		return
	}
	t.key = dueKey(t.key[:0], to, id)
	t.live.Put(t.key, nil)
}

// indexUser updates the indexes by MRI and by Entra object id.
func (t *txn) indexUser(a *store.Attempt, plan *putPlan) {
	if !plan.had {
		t.value = append(t.value[:0], plan.key[hashSize:]...)
		t.key = userRow(t.key[:0], plan.key, a.ID)
		t.idx.Put(t.key, t.value)
	}
	oldAAD, aad := "", a.Conversation.UserAAD
	if plan.had {
		oldAAD = plan.old.aad
	}
	if oldAAD == aad {
		return
	}
	if oldAAD != "" {
		t.key = t.aadRow(t.key[:0], oldAAD, a.ID)
		t.idx.Delete(t.key)
	}
	if aad == "" {
		return
	}
	t.key = t.aadRow(t.key[:0], aad, a.ID)
	t.idx.Put(t.key, nil)
}

// indexExchange makes a new exchange id point to the attempt, and records a former one
// for Purge.
func (t *txn) indexExchange(a *store.Attempt, plan *putPlan) {
	old := &plan.old // empty on insertion
	if old.exchange == a.ExchangeID {
		return
	}
	if old.exchange != "" {
		former := t.exchangeRow(nil, a.Key.App, old.exchange)
		t.key = append(rowKey(t.key[:0], a.ID, kindExchange), former...)
		t.rows.Put(t.key, nil)
	}
	if a.ExchangeID != "" {
		t.key = t.exchangeRow(t.key[:0], a.Key.App, a.ExchangeID)
		t.value = append(t.value[:0], a.ID...)
		t.idx.Put(t.key, t.value)
	}
}

// indexEnd updates the tallies of ended attempts.
func (t *txn) indexEnd(a *store.Attempt, plan *putPlan) {
	if old := &plan.old; plan.had && old.state.Terminal() {
		t.tally(old.entered, old.outcome, -1)
	}
	if !a.State.Terminal() {
		return
	}
	t.tally(a.Entered, a.Outcome(), 1)
}

func (t *txn) tally(entered time.Time, outcome string, by int64) {
	t.key = tallyKey(t.key[:0], entered, outcome)
	n, _ := binary.Varint(t.live.Get(t.key))
	if n += by; n <= 0 {
		t.live.Delete(t.key)
		return
	}
	t.value = binary.AppendVarint(t.value[:0], n)
	t.live.Put(t.key, t.value)
}

// putEvents writes the lines, one row for each run of lines of an attempt. Each line
// has a number among all lines, which is not reused after a purge. It is the Seq of
// a line without an attempt.
func (t *txn) putEvents(events []store.Event) {
	if t.lines == 0 && len(events) > 0 {
		t.lines, _ = binary.Uvarint(t.facts.Get(factLines()))
	}
	for i := 0; i < len(events); {
		id := events[i].Attempt
		t.key, t.value = lineKey(t.key[:0], id, t.lines+1), t.value[:0]
		for more := true; more; more = i < len(events) && id != "" && events[i].Attempt == id {
			t.value = store.AppendLine(t.value, &events[i])
			t.lines++
			i++
		}
		t.audit.Put(t.key, t.value)
	}
}

// putLines writes the number of the last line that putEvents wrote.
func (t *txn) putLines() {
	if t.lines > 0 {
		t.facts.Put(factLines(), binary.AppendUvarint(nil, t.lines))
	}
}
