// Package memstore keeps the sign-in engine's records in memory. It is for tests, and
// is the reference implementation that the other backends are compared with. Nothing
// survives the process.
package memstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Schema is the version of the record layout that [Store.Info] reports.
const Schema = 1

// Store is a [store.Store] in memory.
type Store struct {
	clock  func() time.Time
	secret []byte
	keys   []byte // encoded; nil = only the first key
	notify store.Notifier

	mu         sync.Mutex
	closed     bool
	attempts   map[string]*store.Attempt
	users      map[store.UserKey]map[string]bool // ids of each user's attempts
	open       map[string]string                 // from Key.Index of the non-terminal attempts to id
	due        map[string]time.Time              // when Due returns an attempt next: its due time, or the end of a hold
	exchange   map[exchangeKey]string
	events     map[string][]line // by attempt, "" for orphans
	lines      int64             // lines written so far
	deliveries map[store.DeliveryKey]store.Delivery
	marks      map[string]*mark
	damaged    map[string]bool // ids, see Damage
}

type exchangeKey struct{ app, id string }

// line is an audit line and its position among all.
type line struct {
	store.Event
	pos int64
}

type mark struct {
	store.Mark
	created time.Time
}

func (m *mark) over(now time.Time) bool { return !m.Expires.IsZero() && !now.Before(m.Expires) }

var _ store.Store = (*Store)(nil)

// New makes an empty store. clock is its clock; nil means [time.Now].
func New(clock func() time.Time) *Store {
	if clock == nil {
		clock = time.Now
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails, by its contract
	return &Store{
		clock:      clock,
		secret:     secret,
		attempts:   map[string]*store.Attempt{},
		users:      map[store.UserKey]map[string]bool{},
		open:       map[string]string{},
		due:        map[string]time.Time{},
		exchange:   map[exchangeKey]string{},
		events:     map[string][]line{},
		deliveries: map[store.DeliveryKey]store.Delivery{},
		marks:      map[string]*mark{},
		damaged:    map[string]bool{},
	}
}

// Damage marks an attempt's record as one that cannot be decoded, as a bad disk or a
// newer program may leave one in the other backends. It is for tests of how the store
// and its callers deal with that.
func (s *Store) Damage(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.damaged[id] = true
}

func undecodable(id string) store.Corrupt {
	return store.Corrupt{ID: id, Err: fmt.Errorf("memstore: attempt %s: %w", id, store.ErrCorrupt)}
}

// lock begins every method. It fails if the context is done or the store is closed. If
// the error is nil, the caller must unlock.
func (s *Store) lock(ctx context.Context, op string) (now time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, fmt.Errorf("memstore: %s: %w", op, err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return time.Time{}, fmt.Errorf("memstore: %s: closed: %w", op, store.ErrUnavailable)
	}
	return store.Time(s.clock()), nil
}

// Apply writes the commits; see [store.Store].
func (s *Store) Apply(ctx context.Context, commits []store.Commit) []error {
	errs := make([]error, len(commits))
	now, err := s.lock(ctx, "apply")
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	defer s.mu.Unlock()
	for i := range commits {
		if err := s.check(&commits[i], now); err != nil {
			errs[i] = fmt.Errorf("memstore: apply: %w", err)
			continue
		}
		s.write(&commits[i], now)
	}
	return errs
}

// check tries the commit on an overlay, so that all of it is written or nothing.
func (s *Store) check(c *store.Commit, now time.Time) error {
	if err := c.Validate(); err != nil {
		return err
	}
	staged := map[string]*store.Attempt{}
	opened := map[string]string{}
	openOf := func(index string) string {
		if id, ok := opened[index]; ok {
			return id
		}
		return s.open[index]
	}
	for i := range c.Put {
		a := &c.Put[i]
		old := staged[a.ID]
		if old == nil {
			old = s.attempts[a.ID]
		}
		switch {
		case a.Version == 1 && old != nil:
			return fmt.Errorf("attempt %s: id taken: %w", a.ID, store.ErrExists)
		case s.damaged[a.ID]:
			return undecodable(a.ID).Err
		case a.Version > 1 && (old == nil || !old.Key.Same(a.Key)):
			return fmt.Errorf("attempt %s: %w", a.ID, store.ErrNotFound)
		case a.Version > 1 && old.Version != a.Version-1:
			return fmt.Errorf("attempt %s: stored version %d, wanted %d: %w", a.ID, old.Version, a.Version-1, store.ErrConflict)
		}
		if old != nil && !old.State.Terminal() {
			opened[old.Key.Index()] = ""
		}
		if index := a.Key.Index(); !a.State.Terminal() {
			if other := openOf(index); other != "" {
				return fmt.Errorf("attempt %s: attempt %s: %w", a.ID, other, store.ErrExists)
			}
			opened[index] = a.ID
		}
		staged[a.ID] = a
	}
	known := func(id string) bool { return staged[id] != nil || s.attempts[id] != nil }
	for i := range c.Events {
		if id := c.Events[i].Attempt; id != "" && !known(id) {
			return fmt.Errorf("event of attempt %s: %w", id, store.ErrNotFound)
		}
	}
	for i := range c.Deliveries {
		d := &c.Deliveries[i]
		if !known(d.Attempt) {
			return fmt.Errorf("delivery of attempt %s: %w", d.Attempt, store.ErrNotFound)
		}
		_, taken := s.deliveries[d.DeliveryKey]
		if taken || slices.ContainsFunc(c.Deliveries[:i], func(o store.Delivery) bool { return o.DeliveryKey == d.DeliveryKey }) {
			return fmt.Errorf("delivery %s: %w", d.DeliveryKey, store.ErrConflict)
		}
	}
	for i := range c.Acks {
		a := &c.Acks[i]
		old, ok := s.deliveries[a.DeliveryKey]
		twice := slices.ContainsFunc(c.Acks[:i], func(o store.Ack) bool { return o.DeliveryKey == a.DeliveryKey })
		if !ok || twice || !a.Matches(&old) {
			return fmt.Errorf("delivery %s: %w", a.DeliveryKey, store.ErrConflict)
		}
	}
	for i := range c.Marks {
		m := &c.Marks[i]
		if slices.ContainsFunc(c.Marks[:i], func(o store.Mark) bool { return o.Name == m.Name }) {
			return fmt.Errorf("mark: %w", store.ErrDuplicate)
		}
		old := s.marks[m.Name]
		there := old != nil && !old.over(now)
		switch {
		case m.Version == 1 && there:
			return fmt.Errorf("mark: %w", store.ErrDuplicate)
		case m.Version > 1 && (!there || old.Version != m.Version-1):
			return fmt.Errorf("mark: %w", store.ErrConflict)
		}
	}
	return nil
}

func (s *Store) write(c *store.Commit, now time.Time) {
	for i := range c.Put {
		a := c.Put[i].Clone()
		a.Normalize()
		old := s.attempts[a.ID]
		if old != nil && s.open[old.Key.Index()] == a.ID {
			delete(s.open, old.Key.Index())
		}
		if !a.State.Terminal() {
			s.open[a.Key.Index()] = a.ID
		}
		delete(s.due, a.ID)
		if due := a.Due(); !due.IsZero() {
			s.due[a.ID] = due
		}
		if a.ExchangeID != "" && (old == nil || old.ExchangeID != a.ExchangeID) {
			s.exchange[exchangeKey{a.Key.App, a.ExchangeID}] = a.ID
		}
		if old != nil {
			s.disown(old)
		}
		s.attempts[a.ID] = &a
		s.own(&a)
		s.notify.Wake(a.ID)
	}
	for _, e := range c.Events {
		e.Normalize()
		s.lines++
		if e.Seq = s.lines; e.Attempt != "" {
			e.Seq = int64(len(s.events[e.Attempt])) + 1
		}
		s.events[e.Attempt] = append(s.events[e.Attempt], line{e, s.lines})
	}
	for i := range c.Deliveries {
		d := c.Deliveries[i].Clone()
		d.Normalize()
		s.deliveries[d.DeliveryKey] = d
	}
	for i := range c.Acks {
		d := c.Acks[i].Clone()
		d.Normalize()
		s.deliveries[d.DeliveryKey] = d
	}
	for _, id := range c.Drop {
		for k, d := range s.deliveries {
			if k.Attempt == id && d.Dropped() {
				s.deliveries[k] = d
			}
		}
	}
	for _, m := range c.Marks {
		if m.Wakes {
			s.notify.Wake(m.Name)
		}
		if m.Gone {
			delete(s.marks, m.Name)
			continue
		}
		created := now
		if old := s.marks[m.Name]; m.Version > 1 && old != nil {
			created = old.created
		}
		m.Value, m.Expires = slices.Clone(m.Value), store.Time(m.Expires)
		s.marks[m.Name] = &mark{Mark: m, created: created}
	}
}

// Mark returns a mark that has not expired; see [store.Store].
func (s *Store) Mark(ctx context.Context, name string) (store.Mark, error) {
	now, err := s.lock(ctx, "mark")
	if err != nil {
		return store.Mark{}, err
	}
	defer s.mu.Unlock()
	m := s.marks[name]
	if m == nil || m.over(now) {
		return store.Mark{}, fmt.Errorf("memstore: mark: %w", store.ErrNotFound)
	}
	out := m.Mark
	out.Value = slices.Clone(out.Value)
	return out, nil
}

// Find is the engine's read; see [store.Store].
func (s *Store) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	now, err := s.lock(ctx, "find")
	if err != nil {
		return store.Snapshot{}, err
	}
	defer s.mu.Unlock()
	snap := store.Snapshot{Now: now}
	if id := s.exchange[exchangeKey{q.User.App, q.ExchangeID}]; id != "" && q.ExchangeID != "" {
		if s.damaged[id] {
			return store.Snapshot{}, undecodable(id).Err
		}
		a := s.attempts[id].Clone()
		snap.ByExchangeID = &a
	}
	found, corrupt := s.ofUser(&q)
	for _, a := range corrupt {
		if q.Connection != "" && !a.State.Terminal() {
			return store.Snapshot{}, undecodable(a.ID).Err
		}
		snap.Corrupt = append(snap.Corrupt, undecodable(a.ID))
	}
	for _, a := range found {
		snap.Attempts = append(snap.Attempts, a.Clone())
	}
	return snap, nil
}

// ofUser returns the attempts that the query asks for, first the open ones, then the
// others, newest first. corrupt are those that cannot be decoded.
func (s *Store) ofUser(q *store.Query) (found, corrupt []*store.Attempt) {
	ids := s.users[q.User]
	if len(ids) == 0 {
		return nil, nil
	}
	open, key := 0, q.Key()
	for id := range ids {
		a := s.attempts[id]
		if q.Connection != "" && !a.Key.Same(key) {
			continue
		}
		if s.damaged[id] {
			corrupt = append(corrupt, a)
			continue
		}
		found = append(found, a)
		if !a.State.Terminal() {
			open++
		}
	}
	slices.SortFunc(found, func(a, b *store.Attempt) int {
		if a.State.Terminal() != b.State.Terminal() {
			if a.State.Terminal() {
				return 1
			}
			return -1
		}
		return strings.Compare(b.ID, a.ID)
	})
	return found[:min(len(found), max(open, q.Max()))], corrupt
}

// Get returns one attempt; see [store.Store].
func (s *Store) Get(ctx context.Context, id string) (store.Snapshot, error) {
	now, err := s.lock(ctx, "get")
	if err != nil {
		return store.Snapshot{}, err
	}
	defer s.mu.Unlock()
	a := s.attempts[id]
	if s.damaged[id] {
		return store.Snapshot{Now: now}, undecodable(id).Err
	}
	if a == nil {
		return store.Snapshot{Now: now}, fmt.Errorf("memstore: get: attempt %q: %w", id, store.ErrNotFound)
	}
	return store.Snapshot{Now: now, Attempts: []store.Attempt{a.Clone()}}, nil
}

// Due takes attempts whose time has come; see [store.Store].
func (s *Store) Due(ctx context.Context, limit int, hold time.Duration) (store.Snapshot, error) {
	now, err := s.lock(ctx, "due")
	if err != nil {
		return store.Snapshot{}, err
	}
	defer s.mu.Unlock()
	var ids []string
	for id, at := range s.due {
		if !at.After(now) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b string) int {
		if c := s.due[a].Compare(s.due[b]); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	snap := store.Snapshot{Now: now}
	for _, id := range ids[:min(len(ids), max(limit, 0))] {
		s.due[id] = store.Time(now.Add(hold))
		if s.damaged[id] {
			snap.Corrupt = append(snap.Corrupt, undecodable(id))
			continue
		}
		snap.Attempts = append(snap.Attempts, s.attempts[id].Clone())
	}
	return snap, nil
}

// Claim takes deliveries whose time has come; see [store.Store].
func (s *Store) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	now, err := s.lock(ctx, "claim")
	if err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var out []store.Delivery
	for _, d := range s.deliveries {
		if d.Status == store.DeliveryPending && !d.NextAt.After(now) && (q.Attempt == "" || d.Attempt == q.Attempt) && !s.waits(&d) {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b store.Delivery) int {
		if c := a.NextAt.Compare(b.NextAt); c != 0 {
			return c
		}
		return a.Compare(b.DeliveryKey)
	})
	out = out[:min(len(out), max(q.Limit, 0))]
	for i := range out {
		out[i].Owner = q.Owner
		out[i].Tries++
		out[i].NextAt = store.Time(now.Add(q.Hold))
		s.deliveries[out[i].DeliveryKey] = out[i].Clone()
		out[i] = out[i].Clone()
	}
	return out, nil
}

// waits reports whether an earlier delivery of the attempt is pending.
func (s *Store) waits(d *store.Delivery) bool {
	for k, o := range s.deliveries {
		if k.Attempt == d.Attempt && k.Round < d.Round && o.Status == store.DeliveryPending {
			return true
		}
	}
	return false
}

// Changed waits for a newer version; see [store.Store].
func (s *Store) Changed(ctx context.Context, id string, version int64) error {
	err := s.notify.Wait(ctx, id, func() (bool, error) {
		_, err := s.lock(ctx, "changed")
		if err != nil {
			return false, err
		}
		defer s.mu.Unlock()
		a := s.attempts[id]
		if a == nil {
			return version > 0, nil
		}
		return a.Version > version, nil
	})
	if err != nil {
		return fmt.Errorf("memstore: changed: %w", err)
	}
	return nil
}

// Purge deletes old attempts, lines and marks; see [store.Store].
func (s *Store) Purge(ctx context.Context, before time.Time, limit int, dry bool) (int, error) {
	now, err := s.lock(ctx, "purge")
	if err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	before = store.Time(before)
	var ids []string
	for id, a := range s.attempts {
		if !s.damaged[id] && a.State.Terminal() && a.Entered.Before(before) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if limit > 0 {
		ids = ids[:min(len(ids), limit)]
	}
	if dry {
		return len(ids), nil
	}
	for _, id := range ids {
		s.remove(id)
	}
	s.events[""] = slices.DeleteFunc(s.events[""], func(e line) bool { return e.Time.Before(before) })
	for name, m := range s.marks {
		if m.over(now) || m.created.Before(before) {
			delete(s.marks, name)
		}
	}
	return len(ids), nil
}

func (s *Store) own(a *store.Attempt) {
	user := a.Key.UserKey()
	if s.users[user] == nil {
		s.users[user] = map[string]bool{}
	}
	s.users[user][a.ID] = true
}

func (s *Store) disown(a *store.Attempt) {
	user := a.Key.UserKey()
	if delete(s.users[user], a.ID); len(s.users[user]) == 0 {
		delete(s.users, user)
	}
}

func (s *Store) remove(id string) {
	if a := s.attempts[id]; a != nil {
		s.disown(a)
	}
	delete(s.attempts, id)
	delete(s.events, id)
	for k := range s.deliveries {
		if k.Attempt == id {
			delete(s.deliveries, k)
		}
	}
	for k, to := range s.exchange {
		if to == id {
			delete(s.exchange, k)
		}
	}
	s.notify.Wake(id)
}

// Secret returns the store's random key; see [store.Store].
func (s *Store) Secret() []byte { return slices.Clone(s.secret) }

// Keys returns the keys for marks and seals; see [store.Store].
func (s *Store) Keys(ctx context.Context) (store.KeyRing, error) {
	now, err := s.lock(ctx, "keys")
	if err != nil {
		return store.KeyRing{}, err
	}
	defer s.mu.Unlock()
	keys, err := store.DecodeKeys(s.keys, s.Secret())
	return store.KeyRing{Now: now, Keys: keys}, err
}

// SwapKeys replaces the keys; see [store.Store].
func (s *Store) SwapKeys(ctx context.Context, old, next []store.SecretKey) error {
	if _, err := s.lock(ctx, "swap keys"); err != nil {
		return err
	}
	defer s.mu.Unlock()
	have, err := store.DecodeKeys(s.keys, s.secret)
	if err != nil {
		return err
	}
	if !bytes.Equal(store.EncodeKeys(have), store.EncodeKeys(old)) {
		return fmt.Errorf("memstore: swap keys: %w", store.ErrConflict)
	}
	s.keys = store.EncodeKeys(next)
	return nil
}

// Info describes the store; see [store.Store].
func (s *Store) Info(ctx context.Context) (store.Info, error) {
	now, err := s.lock(ctx, "info")
	if err != nil {
		return store.Info{}, err
	}
	defer s.mu.Unlock()
	return store.Info{Backend: "memory", Where: "this process", Schema: Schema, Now: now}, nil
}

// Probe reports whether the store is open; see [store.Store].
func (s *Store) Probe(ctx context.Context) error {
	if _, err := s.lock(ctx, "probe"); err != nil {
		return err
	}
	s.mu.Unlock()
	return nil
}

// Close makes all further calls fail and wakes callers of Changed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.notify.Close()
	return nil
}
