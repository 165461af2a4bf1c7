//nolint:wrapcheck // Store.use and its like name the operation, see classify
package pgstore

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/signin-engine/signin-engine/store"
)

// Apply writes the commits; see [store.Store]. Those that touch one attempt each,
// nearly all, go as one statement in one transaction and one round trip. Those that
// build on others of the call go as a further statement in the same round trip. A
// commit of several attempts, or with marks, has a transaction of its own. If the
// connection is lost, the outcome is unknown: the error is ErrUnavailable, and the
// commits may have been written.
func (s *Store) Apply(ctx context.Context, commits []store.Commit) []error {
	w := &writer{commits: commits, errs: make([]error, len(commits))}
	w.plan()
	if len(w.steps) == 0 {
		if err := ctx.Err(); err != nil {
			w.all(classify(ctx, opApply, err))
		}
		return w.errs
	}
	for _, step := range w.steps {
		if err := s.findHomes(ctx, w, step.commits()); err != nil {
			for _, i := range step.commits() {
				w.errs[i] = err
			}
			continue
		}
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
	homes   map[string]int64 // of attempts whose commits do not determine it
}

// group is one transaction: either one commit alone, or levels of simple commits. The
// commits of a level are independent of each other; a level is one or two statements.
type group struct {
	levels [][]int
	alone  int
}

// commits are the indexes of its commits, in order.
func (g *group) commits() []int {
	if g.levels == nil {
		return []int{g.alone}
	}
	return slices.Sorted(slices.Values(slices.Concat(g.levels...)))
}

// shape is what plan found out about a commit.
type shape struct {
	simple bool           // one statement can write it: see shapeOf
	acks   bool           // it is one ack and nothing else
	id     string         // of the attempt that it touches, "" for none
	prev   int64          // see touch
	put    *store.Attempt // nil: lines and deliveries only
	claims bool
}

// home is the home of an attempt that the commit is about.
func (w *writer) home(c *store.Commit, id string) int64 {
	for i := range c.Put {
		if c.Put[i].ID == id {
			return home(c.Put[i].Key.UserKey())
		}
	}
	if c.User != (store.UserKey{}) {
		return home(c.User)
	}
	return w.homes[id]
}

// findHomes looks up the homes of attempts that neither a Put nor the commit's User
// determines. It runs before each step, so it sees what earlier steps have written.
func (s *Store) findHomes(ctx context.Context, w *writer, commits []int) error {
	var ids []string
	for _, i := range commits {
		if c := &w.commits[i]; c.User == (store.UserKey{}) {
			ids = append(ids, namedIDs(c)...)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	w.homes = map[string]int64{}
	return s.use(ctx, opApply, func(ctx context.Context, conn *pgxpool.Conn) error {
		rows, err := conn.Query(ctx, `select id, home from attempts where id = any ($1)`, ids)
		if err != nil {
			return err
		}
		var (
			id string
			at int64
		)
		_, err = pgx.ForEachRow(rows, []any{&id, &at}, func() error {
			w.homes[id] = at
			return nil
		})
		return err
	})
}

// namedIDs are the attempts that a commit is about, besides its Puts.
func namedIDs(c *store.Commit) []string {
	var ids []string
	add := func(id string) {
		if id != "" && !hasPut(c, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range c.Drop {
		add(id)
	}
	for i := range c.Events {
		add(c.Events[i].Attempt)
	}
	for i := range c.Deliveries {
		add(c.Deliveries[i].Attempt)
	}
	for i := range c.Acks {
		add(c.Acks[i].Attempt)
	}
	return ids
}

func hasPut(c *store.Commit, id string) bool {
	for i := range c.Put { // by index: an attempt is large to copy
		if c.Put[i].ID == id {
			return true
		}
	}
	return false
}

func (w *writer) all(err error) {
	for i := range w.errs {
		if w.errs[i] == nil {
			w.errs[i] = err
		}
	}
}

// plan divides the call into steps, in order. A step is a run of simple commits, or one
// commit that is not simple. A commit without a User begins a new step if it is about
// an attempt that the current step puts.
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
			if c.User == (store.UserKey{}) && r.puts(namedIDs(c)) {
				flush()
			}
			r.add(i, c)
			continue
		}
		flush()
		w.steps = append(w.steps, group{alone: i})
	}
	flush()
	for _, g := range w.steps {
		for _, level := range g.levels {
			// All instances lock rows in the same order, so they do not deadlock.
			slices.SortFunc(level, func(i, j int) int { return strings.Compare(w.shapes[i].id, w.shapes[j].id) })
		}
	}
}

// run is a sequence of simple commits. Each goes to a level after those of the commits
// that it may depend on.
type run struct {
	levels  [][]int
	last    map[uint64]int // from the name of a touched thing to the last level that touches it
	names   []uint64       // of the commit that is added
	orphans int            // level of the last line without an attempt: these keep their order
	put     []string       // attempts that are put
}

// puts reports whether the run puts one of the attempts.
func (r *run) puts(ids []string) bool {
	return slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(r.put, id) })
}

func (r *run) add(i int, c *store.Commit) {
	if r.last == nil {
		r.last = map[uint64]int{}
	}
	for j := range c.Put {
		r.put = append(r.put, c.Put[j].ID)
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

// validate refuses commits that are malformed or have an id that Postgres cannot store.
func validate(c *store.Commit) error {
	if err := c.Validate(); err != nil {
		return err
	}
	ok := !slices.ContainsFunc(namedIDs(c), func(id string) bool { return clean(id) != id })
	for i := range c.Put {
		ok = ok && clean(c.Put[i].ID) == c.Put[i].ID
	}
	if !ok {
		return fmt.Errorf("attempt id is no text: %w", store.ErrInvalid)
	}
	return nil
}

var seed = maphash.MakeSeed()

// name is the hash of something that one statement must not touch twice: an attempt, a
// key, an exchange id or a mark. On a collision two commits only go one after the
// other.
func name(parts ...string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, part := range parts {
		_, _ = h.WriteString(part)
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

// touched appends the names of what a commit touches.
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
	for _, id := range namedIDs(c) {
		add(name("attempt", id))
	}
	for _, m := range c.Marks {
		add(name("mark", m.Name))
	}
	return names
}

// shapeOf finds out whether one statement can write the commit. It can if the commit is
// one ack, or if it touches one attempt, its Puts amount to the last of them, it writes
// no delivery twice, and a Drop comes with a Put and without deliveries.
func shapeOf(c *store.Commit) shape {
	beside := len(c.Put) + len(c.Events) + len(c.Deliveries) + len(c.Drop)
	switch {
	case len(c.Marks) > 0, len(c.Acks) > 1, len(c.Acks) == 1 && beside > 0, len(c.Drop) > 0 && (len(c.Put) == 0 || len(c.Deliveries) > 0):
		return shape{}
	case len(c.Acks) == 1:
		return shape{simple: true, acks: true, id: c.Acks[0].Attempt}
	}
	s := shape{simple: true, prev: prevNone}
	for i := range c.Put {
		a := &c.Put[i]
		if i == 0 {
			s.prev = a.Version - 1
		} else if b := &c.Put[i-1]; b.State.Terminal() || a.ID != b.ID || a.Version != b.Version+1 || a.Key != b.Key ||
			b.ExchangeID != "" && b.ExchangeID != a.ExchangeID {
			return shape{}
		}
		s.claims = s.claims || !a.State.Terminal()
		s.put, s.id = a, a.ID
	}
	for _, id := range namedIDs(c) {
		if s.id == "" {
			s.id = id
		}
		if s.id != id {
			return shape{}
		}
	}
	for i := range c.Deliveries {
		if hasDelivery(c.Deliveries[:i], c.Deliveries[i].DeliveryKey) {
			return shape{}
		}
	}
	return s
}

func hasDelivery(deliveries []store.Delivery, k store.DeliveryKey) bool {
	return slices.ContainsFunc(deliveries, func(d store.Delivery) bool { return d.DeliveryKey == k })
}

// refusal is the reason why the commit wrote nothing.
func (s *shape) refusal(found stored) error {
	switch {
	case s.prev == prevInsert && found.there:
		return fmt.Errorf("attempt %s: id taken: %w", s.id, store.ErrExists)
	case s.prev == prevInsert:
		return fmt.Errorf("attempt %s: %w", s.id, store.ErrExists)
	case !found.there:
		return fmt.Errorf("attempt %s: %w", s.id, store.ErrNotFound)
	case s.prev > 0 && s.prev != found.version:
		return fmt.Errorf("attempt %s: stored version %d, wanted %d: %w", s.id, found.version, s.prev, store.ErrConflict)
	case s.claims && found.taken:
		return fmt.Errorf("attempt %s: %w", s.id, store.ErrExists)
	default:
		return fmt.Errorf("attempt %s is no longer as it was read: %w", s.id, store.ErrConflict)
	}
}

// run executes one step of the plan.
func (s *Store) run(ctx context.Context, w *writer, g group) {
	if g.levels == nil {
		w.errs[g.alone] = s.applyAlone(ctx, w, g.alone)
		return
	}
	err := s.use(ctx, opApply, func(ctx context.Context, conn *pgxpool.Conn) error { return w.together(ctx, conn, g.levels) })
	if err == nil {
		s.tell(ctx, w.written(g.levels)...)
		return
	}
	all := g.commits()
	for _, i := range all {
		w.errs[i] = err
	}
	// One of the commits made the statement fail, by a value or by a locked row. Find out
	// which.
	switch {
	case poisoned(err):
		for _, i := range all {
			w.errs[i] = s.applyAlone(ctx, w, i)
		}
	case sqlState(err) == codeLocked && len(all) > 1:
		for _, level := range g.levels {
			s.eachAlone(ctx, w, level)
		}
	}
}

// eachAlone writes independent commits concurrently, so that one that waits for a lock
// does not delay the others.
func (s *Store) eachAlone(ctx context.Context, w *writer, level []int) {
	var left errgroup.Group
	left.SetLimit(aloneAtOnce)
	for _, i := range level {
		left.Go(func() error {
			w.errs[i] = s.applyAlone(ctx, w, i)
			return nil
		})
	}
	_ = left.Wait() // each has its own error
}

// aloneAtOnce is small enough to leave a connection for readers.
const aloneAtOnce = 3

// together sends the statements of all levels in one batch; the server runs it as one
// transaction.
func (w *writer) together(ctx context.Context, to sender, levels [][]int) error {
	refused := map[int64]error{}
	b, t := &pgx.Batch{}, touches{}
	for _, level := range levels {
		var k acks
		t.grow(w.commits, level)
		for _, i := range level {
			if w.shapes[i].acks {
				k.add(int64(i), w.home(&w.commits[i], w.shapes[i].id), &w.commits[i].Acks[0])
			} else {
				w.collect(&t, i)
			}
		}
		// Rows are in the order of ids, lines in the order of the commits.
		slices.SortStableFunc(t.lines, func(a, b eventRow) int { return cmp.Compare(a.commit, b.commit) })
		t.queue(b, func(n int64, found stored) { refused[n] = w.shapes[n].refusal(found) })
		k.queue(b, func(n int64) { refused[n] = notHeld(w.commits[n].Acks[0].DeliveryKey) })
	}
	if err := send(ctx, to, b); err != nil {
		return err
	}
	for i, err := range refused {
		w.errs[i] = fmt.Errorf("pgstore: apply: %w", err)
	}
	return nil
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

// collect adds a simple commit to a statement.
func (w *writer) collect(t *touches, i int) {
	c, s, n := &w.commits[i], &w.shapes[i], int64(i)
	switch {
	case s.put != nil:
		t.put(n, s.prev, s.claims, s.put)
	case s.id != "":
		t.add(n, w.home(c, s.id), s.id)
	default:
		n = -1 // lines without an attempt cannot be refused
	}
	for j := range c.Events {
		t.line(n, &c.Events[j])
		t.lines[len(t.lines)-1].commit = i
	}
	for j := range c.Deliveries {
		t.owed = append(t.owed, newDeliveryRow(n, t.rows[len(t.rows)-1].home, &c.Deliveries[j]))
	}
	if len(c.Drop) > 0 {
		t.drop()
	}
}

func hasOrphans(c *store.Commit) bool {
	return slices.ContainsFunc(c.Events, func(e store.Event) bool { return e.Attempt == "" })
}
