package store

import (
	"fmt"
	"math"
	"strings"
)

// MaxID is the longest attempt id in bytes; a ULID has 26.
const MaxID = 128

// Validate refuses what no backend can store: an attempt without an id, version or
// valid state, a delivery without a valid kind or status, a mark without a name. The
// error is ErrInvalid.
func (c *Commit) Validate() error {
	for i := range c.Put {
		a := &c.Put[i]
		switch {
		case !validID(a.ID):
			return fmt.Errorf("attempt id %q: %w", a.ID, ErrInvalid)
		case a.Version < 1:
			return fmt.Errorf("attempt %s: version %d: %w", a.ID, a.Version, ErrInvalid)
		case !a.State.Valid():
			return fmt.Errorf("attempt %s: state %q: %w", a.ID, a.State, ErrInvalid)
		}
	}
	for i := range c.Events {
		if e := &c.Events[i]; e.Attempt != "" && !validID(e.Attempt) {
			return fmt.Errorf("event of attempt id %q: %w", e.Attempt, ErrInvalid)
		}
	}
	for i := range c.Deliveries {
		if err := c.Deliveries[i].validate(); err != nil {
			return err
		}
	}
	for i := range c.Acks {
		if err := c.Acks[i].validate(); err != nil {
			return err
		}
	}
	for _, id := range c.Drop {
		if !validID(id) {
			return fmt.Errorf("drop of attempt id %q: %w", id, ErrInvalid)
		}
	}
	for i := range c.Marks {
		switch m := &c.Marks[i]; {
		case m.Name == "":
			return fmt.Errorf("mark without a name: %w", ErrInvalid)
		case m.Version < 1, m.Version == 1 && m.Gone:
			return fmt.Errorf("mark of version %d: %w", m.Version, ErrInvalid)
		case len(m.Value) > MaxMark:
			return fmt.Errorf("mark of %d bytes: %w", len(m.Value), ErrInvalid)
		}
	}
	return nil
}

func validID(id string) bool {
	return id != "" && len(id) <= MaxID && strings.IndexByte(id, 0) < 0
}

func (d *Delivery) validate() error {
	if !validID(d.Attempt) || !d.Kind.Valid() || !d.Status.Valid() || d.Round < 0 || d.Round > math.MaxInt32 {
		return fmt.Errorf("delivery %s, status %q: %w", d.DeliveryKey, d.Status, ErrInvalid)
	}
	return nil
}
