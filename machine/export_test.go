package machine

import (
	"context"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// NewWith is [New] with another table. It may serve many engines: to check one
// costs more than a whole simulated run.
func NewWith(cfg Config, t *table.Table) (*Engine, error) { return build(cfg, t) }

// Flush writes what nobody waits for, as Run does all the time.
func (e *Engine) Flush(ctx context.Context) error { return e.store.Flush(ctx) }

// MarksBy puts other marks in the place of the engine's own.
func (e *Engine) MarksBy(mark func(kind string, user store.UserKey, secret tokensvc.Secret) []byte) {
	e.mark = func(kind string, user store.UserKey, secret tokensvc.Secret) [][]byte {
		return [][]byte{mark(kind, user, secret)}
	}
}

// LoadKeys reads the keys, as Run does with each sweep.
func (e *Engine) LoadKeys(ctx context.Context) error { return e.loadKeys(ctx) }

// ForgetKeys drops the keys that are of no use any more, as Run does.
func (e *Engine) ForgetKeys(ctx context.Context) error { return e.forgetKeys(ctx) }
