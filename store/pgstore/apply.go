package pgstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/signin-engine/signin-engine/store"
)

// Apply writes the commits; see [store.Store]. Those that touch one attempt
// each, which is nearly all, go as one statement in one transaction and one
// round trip; those that build on others of the call as a second one in the
// same round trip. Commits of several attempts, or with marks, have a
// transaction each. Where the connection is lost the outcome is unknown to the
// caller as it is to us: ErrUnavailable, and the commits may be there.
func (s *Store) Apply(ctx context.Context, commits []store.Commit) []error {
	w := &writer{commits: commits, errs: make([]error, len(commits))}
	w.plan()
	if len(w.steps) == 0 {
		if err := ctx.Err(); err != nil {
			w.all(classify(ctx, "apply", err))
		}
		return w.errs
	}
	for _, step := range w.steps {
		s.run(ctx, w, step)
	}
	return w.errs
}

// writer is one call of Apply.
type writer struct {
	commits []store.Commit
	errs    []error
	shapes  []shape
	steps   []group
}

// group goes as one transaction: levels of commits that do not meet, each a
// statement, or one commit alone.
type group struct {
	levels [][]int
	alone  int
}

// shape is what plan has found out about a commit.
type shape struct {
	simple bool   // one statement can write it: see shapeOf
	id     string // of the attempt that it touches, "" for none
	prev   int64
	put    *store.Attempt // nil: lines and deliveries only
	claims bool
	needs  error // what it is when the attempt is not there; nil if it does not matter
}

func (w *writer) all(err error) {
	for i := range w.errs {
		if w.errs[i] == nil {
			w.errs[i] = err
		}
	}
}

// plan cuts the call into steps, in order: as many simple commits as follow on
// each other, or one that is not simple.
func (w *writer) plan() {
	w.shapes = make([]shape, len(w.commits))
	var r run
	flush := func() {
		if len(r.levels) > 0 {
			w.steps = append(w.steps, group{levels: r.levels})
		}
		r = run{}
	}
	for i := range w.commits {
		c := &w.commits[i]
		if err := validate(c); err != nil {
			w.errs[i] = fmt.Errorf("pgstore: apply: %w", err)
			continue
		}
		if w.shapes[i] = shapeOf(c); w.shapes[i].simple {
			r.add(i, c)
			continue
		}
		flush()
		w.steps = append(w.steps, group{alone: i})
	}
	flush()
	for _, g := range w.steps {
		for _, level := range g.levels {
			// Rows in one order, lest two instances wait for each other.
			slices.SortFunc(level, func(i, j int) int { return strings.Compare(w.shapes[i].id, w.shapes[j].id) })
		}
	}
}

// run is simple commits that follow on each other: each is put behind those
// that it may depend on.
type run struct {
	levels  [][]int
	last    map[uint64]int // name of what is touched, to level of the last who did
	names   []uint64       // of the commit that is added
	orphans int            // level of the last line of no attempt: they keep their order
}

func (r *run) add(i int, c *store.Commit) {
	if r.last == nil {
		r.last = map[uint64]int{}
	}
	level := 0
	r.names = touched(r.names[:0], c)
	for _, n := range r.names {
		if l, ok := r.last[n]; ok {
			level = max(level, l+1)
		}
	}
	if hasOrphans(c) {
		level = max(level, r.orphans)
		r.orphans = level
	}
	for _, n := range r.names {
		r.last[n] = level
	}
	for len(r.levels) <= level {
		r.levels = append(r.levels, nil)
	}
	r.levels[level] = append(r.levels[level], i)
}

// validate refuses what the store or Postgres cannot keep.
func validate(c *store.Commit) error {
	if err := c.Validate(); err != nil {
		return err
	}
	ok := true
	for i := range c.Put {
		ok = ok && utf8.ValidString(c.Put[i].ID)
	}
	for i := range c.Events {
		ok = ok && clean(c.Events[i].Attempt) == c.Events[i].Attempt
	}
	for i := range c.Deliveries {
		ok = ok && clean(c.Deliveries[i].Attempt) == c.Deliveries[i].Attempt
	}
	for i := range c.Acks {
		ok = ok && clean(c.Acks[i].Attempt) == c.Acks[i].Attempt
	}
	for _, id := range c.Drop {
		ok = ok && clean(id) == id
	}
	if !ok {
		return fmt.Errorf("attempt id is no text: %w", store.ErrInvalid)
	}
	return nil
}

// seed of the names of this process.
var seed = maphash.MakeSeed()

// name is what must not be touched twice by one statement: an attempt, a key,
// an exchange id or a mark. It is a hash: should two meet for nothing, they go
// one after the other.
func name(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range parts {
		_, _ = h.WriteString(part)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// touched appends the names of a commit.
func touched(names []uint64, c *store.Commit) []uint64 {
	add := func(n uint64) {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	for i := range c.Put {
		a := &c.Put[i]
		add(name("attempt", a.ID))
		add(name("key", a.Key.App, a.Key.Channel, a.Key.User, strings.ToLower(a.Key.Connection)))
		if a.ExchangeID != "" {
			add(name("exchange", a.Key.App, a.ExchangeID))
		}
	}
	for i := range c.Events {
		if id := c.Events[i].Attempt; id != "" {
			add(name("attempt", id))
		}
	}
	for i := range c.Deliveries {
		add(name("attempt", c.Deliveries[i].Attempt))
	}
	for i := range c.Acks {
		add(name("attempt", c.Acks[i].Attempt))
	}
	for _, id := range c.Drop {
		add(name("attempt", id))
	}
	for _, m := range c.Marks {
		add(name("mark", m.Name))
	}
	return names
}

// shapeOf finds out whether one statement can write the commit: it touches one
// attempt, its Puts mean the same as the last of them, and no delivery is
// written twice.
func shapeOf(c *store.Commit) shape {
	if len(c.Marks) > 0 {
		return shape{}
	}
	s := shape{simple: true, prev: prevNone}
	same := func(id string) bool {
		if s.id == "" {
			s.id = id
		}
		return s.id == id
	}
	for i := range c.Put {
		a := &c.Put[i]
		if !same(a.ID) {
			return shape{}
		}
		if i == 0 {
			s.prev = a.Version - 1
		} else if b := &c.Put[i-1]; b.State.Terminal() || a.Version != b.Version+1 || a.Key != b.Key ||
			b.ExchangeID != "" && b.ExchangeID != a.ExchangeID {
			return shape{}
		}
		s.claims = s.claims || !a.State.Terminal()
		s.put = a
	}
	for i := range c.Events {
		if id := c.Events[i].Attempt; id != "" && !same(id) {
			return shape{}
		}
	}
	for i := range c.Deliveries {
		d := &c.Deliveries[i]
		if !same(d.Attempt) || hasDelivery(c.Deliveries[:i], d.DeliveryKey) {
			return shape{}
		}
	}
	if s.id != "" {
		s.needs = store.ErrNotFound
	}
	for i := range c.Acks {
		a := &c.Acks[i]
		if !same(a.Attempt) || hasAck(c.Acks[:i], a.DeliveryKey) {
			return shape{}
		}
	}
	if s.needs == nil && len(c.Acks) > 0 {
		s.needs = store.ErrConflict
	}
	for _, id := range c.Drop {
		if !same(id) {
			return shape{}
		}
	}
	switch {
	case len(c.Acks) > 0 && s.prev == prevInsert, len(c.Drop) > 0 && len(c.Deliveries)+len(c.Acks) > 0:
		return shape{}
	}
	return s
}

func hasDelivery(deliveries []store.Delivery, k store.DeliveryKey) bool {
	for i := range deliveries {
		if deliveries[i].DeliveryKey == k {
			return true
		}
	}
	return false
}

func hasAck(acks []store.Ack, k store.DeliveryKey) bool {
	for i := range acks {
		if acks[i].DeliveryKey == k {
			return true
		}
	}
	return false
}

// refusal says why the commit wrote nothing; nil if there was nothing to write.
func (s *shape) refusal(found stored) error {
	switch {
	case s.prev == prevInsert && found.there:
		return fmt.Errorf("attempt %s: id taken: %w", s.id, store.ErrExists)
	case s.prev == prevInsert:
		return fmt.Errorf("attempt %s: %w", s.id, store.ErrExists)
	case !found.there && s.needs == nil:
		return nil
	case !found.there:
		return fmt.Errorf("attempt %s: %w", s.id, s.needs)
	case s.prev > 0 && s.prev != found.version:
		return fmt.Errorf("attempt %s: stored version %d, wanted %d: %w", s.id, found.version, s.prev, store.ErrConflict)
	case s.claims && found.taken:
		return fmt.Errorf("attempt %s: %w", s.id, store.ErrExists)
	default:
		return fmt.Errorf("attempt %s or a delivery of it is no longer as it was read: %w", s.id, store.ErrConflict)
	}
}

// run executes one step of the plan.
func (s *Store) run(ctx context.Context, w *writer, g group) {
	if g.levels == nil {
		w.errs[g.alone] = s.applyAlone(ctx, &w.commits[g.alone])
		return
	}
	err := s.use(ctx, "apply", func(ctx context.Context, conn *pgxpool.Conn) error {
		if err := w.together(ctx, conn.Conn(), g.levels); err != nil {
			return err
		}
		s.tell(ctx, conn, w.written(g.levels)...)
		return nil
	})
	if err == nil {
		return
	}
	for _, i := range slices.Sorted(slices.Values(slices.Concat(g.levels...))) {
		if w.errs[i] = err; poisoned(err) {
			// One of them made the statement fail: find out which.
			w.errs[i] = s.applyAlone(ctx, &w.commits[i])
		}
	}
}

// together sends the statements of all levels; the server runs them as one
// transaction.
func (w *writer) together(ctx context.Context, conn *pgx.Conn, levels [][]int) error {
	r := round{conn: conn}
	refused := map[int]error{}
	for _, level := range levels {
		if err := w.level(ctx, &r, level, refused); err != nil {
			return err
		}
	}
	if err := r.send(ctx); err != nil {
		return err
	}
	for i, err := range refused {
		w.errs[i] = fmt.Errorf("pgstore: apply: %w", err)
	}
	return nil
}

// level adds the statement of commits that do not meet.
func (w *writer) level(ctx context.Context, r *round, level []int, refused map[int]error) error {
	t := newTouches()
	defer t.free()
	orphans := false
	for _, i := range level {
		w.collect(t, i)
		orphans = orphans || hasOrphans(&w.commits[i])
	}
	if orphans {
		for _, i := range slices.Sorted(slices.Values(level)) {
			n := i
			if w.shapes[i].needs == nil {
				n = -1 // nothing can be wrong with this commit
			}
			t.orphans(n, w.commits[i].Events)
		}
	}
	if t.empty() {
		return nil
	}
	stmt, args := t.statement(false)
	return r.add(ctx, stmt, args, func(rows *pgconn.ResultReader) error {
		return eachRefused(rows, func(n int, found stored) {
			if err := w.shapes[n].refusal(found); err != nil {
				refused[n] = err
			}
		})
	})
}

// written are the commits of the levels that were not refused.
func (w *writer) written(levels [][]int) []*store.Commit {
	var out []*store.Commit
	for _, level := range levels {
		for _, i := range level {
			if w.errs[i] == nil {
				out = append(out, &w.commits[i])
			}
		}
	}
	return out
}

// collect adds a simple commit to a statement, but for its lines of no attempt.
func (w *writer) collect(t *touches, i int) {
	c, shape := &w.commits[i], &w.shapes[i]
	switch {
	case shape.put != nil:
		t.put(i, shape.put, shape.prev, shape.claims, c)
	case shape.id != "":
		t.touch(i, shape.id, c)
	}
}

func hasOrphans(c *store.Commit) bool {
	for i := range c.Events {
		if c.Events[i].Attempt == "" {
			return true
		}
	}
	return false
}
