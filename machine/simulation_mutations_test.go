package machine_test

import (
	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// mutation is a small deliberate fault in an engine.
type mutation struct {
	name   string
	faults machine.Faults
	policy func(*machine.Policy)
	store  func(store.Store) store.Store
	tokens func(machine.TokenService) machine.TokenService
}
