package machine

import (
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

func BenchmarkStep(b *testing.B) {
	def, err := define(Table())
	if err != nil {
		b.Fatal(err)
	}
	policy, timeouts := DefaultPolicy(), DefaultTimeouts()
	now := time.Now()
	a := &store.Attempt{ID: "01JSD4K2Q800000000000000AA", Version: 3, State: store.CardSent, Expires: now.Add(time.Minute)}
	in := &Input{Attempt: a, Event: Event{Kind: TokenExchange, ExchangeID: "x"}, Now: now, Policy: &policy, Timeouts: &timeouts}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := def.step(in); err != nil {
			b.Fatal(err)
		}
	}
}
