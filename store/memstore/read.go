package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// List is the operator's list of attempts; see [store.Store].
func (s *Store) List(ctx context.Context, f store.Filter) (store.Page, error) {
	now, err := s.lock(ctx, "list")
	if err != nil {
		return store.Page{}, err
	}
	defer s.mu.Unlock()
	page := store.Page{Now: now}
	for _, a := range s.attempts {
		switch {
		case f.Cursor != "" && a.ID >= f.Cursor:
		case s.damaged[a.ID]:
			page.Corrupt = append(page.Corrupt, undecodable(a.ID))
		case f.Match(a) && (!f.Owed || s.owes(a.ID)):
			page.Attempts = append(page.Attempts, a.Clone())
		}
	}
	slices.SortFunc(page.Attempts, func(a, b store.Attempt) int { return strings.Compare(b.ID, a.ID) })
	if n := f.Max(); len(page.Attempts) > n {
		page.Attempts = page.Attempts[:n]
		page.Next = page.Attempts[n-1].ID
		page.Corrupt = slices.DeleteFunc(page.Corrupt, func(c store.Corrupt) bool { return c.ID < page.Next })
	}
	for i := range page.Attempts {
		page.Deliveries = append(page.Deliveries, s.deliveriesOf(page.Attempts[i].ID)...)
	}
	return page, nil
}

// owes reports whether the attempt has an owed delivery.
func (s *Store) owes(id string) bool {
	for k, d := range s.deliveries {
		if k.Attempt == id && d.Owed() {
			return true
		}
	}
	return false
}

func (s *Store) deliveriesOf(id string) []store.Delivery {
	var out []store.Delivery
	for k, d := range s.deliveries {
		if k.Attempt == id {
			out = append(out, d.Clone())
		}
	}
	slices.SortFunc(out, func(a, b store.Delivery) int { return a.Compare(b.DeliveryKey) })
	return out
}

// Events returns the lines of an attempt, or those without one; see [store.Store].
func (s *Store) Events(ctx context.Context, f store.EventFilter) ([]store.Event, error) {
	if _, err := s.lock(ctx, "events"); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	if f.Attempt == "" && !f.Orphans {
		return nil, fmt.Errorf("memstore: events: of neither an attempt nor none: %w", store.ErrInvalid)
	}
	var out []store.Event
	for _, e := range s.events[f.Attempt] {
		if e.Seq > f.After && !e.Time.Before(f.Since) && len(out) < f.Max() {
			out = append(out, e.Event)
		}
	}
	return out, nil
}

// Trail returns all audit lines, with and without an attempt; see [store.Store].
func (s *Store) Trail(ctx context.Context, q store.TrailQuery) (store.Trail, error) {
	if _, err := s.lock(ctx, "trail"); err != nil {
		return store.Trail{}, err
	}
	defer s.mu.Unlock()
	after, err := strconv.ParseInt(cmp.Or(q.Cursor, "0"), 10, 64)
	if err != nil {
		return store.Trail{}, fmt.Errorf("memstore: trail: cursor %q: %w", q.Cursor, store.ErrInvalid)
	}
	var found []line
	for _, lines := range s.events {
		for _, e := range lines {
			if e.pos > after && !e.Time.Before(q.Since) {
				found = append(found, e)
			}
		}
	}
	slices.SortFunc(found, func(a, b line) int { return cmp.Compare(a.pos, b.pos) })
	out, last := store.Trail{More: len(found) > q.Max()}, s.lines
	if out.More {
		found = found[:q.Max()]
		last = found[q.Max()-1].pos
	}
	for _, e := range found {
		out.Events = append(out.Events, e.Event)
	}
	out.Next = strconv.FormatInt(last, 10)
	return out, nil
}

// Counts is the operator's overview; see [store.Store].
func (s *Store) Counts(ctx context.Context, since time.Time) (store.Counts, error) {
	now, err := s.lock(ctx, "counts")
	if err != nil {
		return store.Counts{}, err
	}
	defer s.mu.Unlock()
	c := store.Counts{
		Now:    now,
		Open:   map[store.State]int{},
		Oldest: map[store.State]time.Time{},
		Ended:  map[string]int{},
	}
	since = since.Truncate(time.Minute)
	for id, a := range s.attempts {
		if s.damaged[id] {
			continue
		}
		if a.State.Terminal() {
			if !a.Entered.Before(since) {
				c.Ended[a.Outcome()]++
			}
			continue
		}
		c.Open[a.State]++
		if old, ok := c.Oldest[a.State]; !ok || a.Entered.Before(old) {
			c.Oldest[a.State] = a.Entered
		}
	}
	for _, d := range s.deliveries {
		switch d.Status {
		case store.DeliveryPending:
			c.Owed++
		case store.DeliveryDead:
			c.Dead++
		case store.DeliveryUndeliverable:
			c.Undeliverable++
		case store.DeliveryDone, store.DeliveryDropped, store.DeliveryNotOwed:
		}
	}
	return c, nil
}
