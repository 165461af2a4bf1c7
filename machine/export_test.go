package machine

import (
	"context"
	"fmt"

	"github.com/signin-engine/signin-engine/store"
)

// Definition is a checked table that simulated engines share: to check it
// costs more than a whole simulated run.
type Definition struct{ def *definition }

// Faults are what a mutation puts in the place of the engine's own rules,
// guards and ops.
type Faults struct {
	Table  func([]Rule) []Rule
	Guards map[Guard]func(*Input) bool
	Ops    map[Op]func(*Input, *store.Attempt)
}

// Define builds the definition of the table, changed by f.
func Define(f Faults) (*Definition, error) {
	rules := Table()
	if f.Table != nil {
		rules = f.Table(rules)
	}
	def, err := define(rules)
	if err != nil {
		return nil, fmt.Errorf("faulty table: %w", err)
	}
	for _, r := range def.rules {
		for i, g := range r.If {
			if own := f.Guards[g]; own != nil {
				r.guards[i] = own
			}
		}
		for i, o := range r.Do {
			if own := f.Ops[o]; own != nil {
				r.ops[i] = own
			}
		}
	}
	return &Definition{def: def}, nil
}

// New is the package's New with this definition.
func (d *Definition) New(cfg Config) (*Engine, error) { return build(cfg, d.def) }

// OwnOp is the engine's own meaning of an op.
func OwnOp(o Op) func(*Input, *store.Attempt) { return ops()[o] }

// Flush writes what nobody waits for, as Run does all the time.
func (e *Engine) Flush(ctx context.Context) error { return e.store.Flush(ctx) }
