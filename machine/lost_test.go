package machine_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// answerless keeps a commit that brings an attempt into a state, and loses the answer
// of the first one, as a server does that dies at that moment.
type answerless struct {
	store.Store
	at   store.State
	lost *int
}

func (f answerless) Apply(ctx context.Context, commits []store.Commit) []error {
	errs := f.Store.Apply(ctx, commits)
	for i, c := range commits {
		if *f.lost == 0 && errs[i] == nil && len(c.Put) > 0 && c.Put[0].State == f.at {
			*f.lost++
			errs[i] = fmt.Errorf("%w: the connection is gone", store.ErrUnavailable)
		}
	}
	return errs
}

// TestAnswerOfTheSettlingCommitIsLost: the sign-in is complete in the store, and
// whoever completed it tells the bot at once, not when the lease of the callback
// is over.
func TestAnswerOfTheSettlingCommitIsLost(t *testing.T) {
	for _, a := range []arrival{arrivals()[0], arrivals()[5]} {
		t.Run(a.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lost := 0
				sc := setScene(t, standing{state: store.CardSent}, a, func(s store.Store) store.Store { return answerless{s, store.Complete, &lost} }, false)
				sc.tokens.IssueCode("123456", "29:alice", "graph")
				told := 0
				flow, err := sc.eng.Flow("graph")
				if err != nil {
					t.Fatal(err)
				}
				flow.OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
					told++
					return nil
				})
				began := time.Now()
				answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
				if answer.Status != http.StatusOK || lost != 1 {
					t.Fatalf("answer %+v, %d answers lost, want 200 and one", answer, lost)
				}
				if took := time.Since(began); told != 1 || took > time.Second {
					t.Errorf("told %d times after %s, want once and at once", told, took)
				}
				if err := sc.eng.Flush(t.Context()); err != nil { // the acknowledgement
					t.Fatal(err)
				}
				time.Sleep(2 * machine.DefaultTimeouts().OutboxLease)
				if err := sc.eng.DeliverDue(t.Context()); err != nil {
					t.Fatal(err)
				}
				if told != 1 {
					t.Errorf("told %d times in the end", told)
				}
			})
		})
	}
}

// TestAnswerOfTheClaimIsLost: nothing was begun under the claim, and the store keeps
// it. The process that lost the answer lets go, so the invoke that Teams sends again
// signs the user in, and does not wait for the end of the lease.
func TestAnswerOfTheClaimIsLost(t *testing.T) {
	claims := map[string]store.State{"exchange": store.Exchanging, "code": store.Verifying}
	for i, name := range []string{"exchange", "code"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				lost := 0
				sc := setScene(t, standing{state: store.CardSent}, arrivals()[i*5], func(s store.Store) store.Store {
					return answerless{s, claims[name], &lost}
				}, false)
				sc.tokens.IssueCode("123456", "29:alice", "graph")
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- sc.eng.Run(ctx) }()
				if answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act); answer.Status != http.StatusServiceUnavailable || lost != 1 {
					t.Errorf("answer %+v, %d answers lost, want 503 and one", answer, lost)
				}
				began := time.Now()
				answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
				if took := time.Since(began); answer.Status != http.StatusOK || took > time.Second {
					t.Errorf("sent again: %+v after %s", answer, took)
				}
				page, err := sc.mem.List(t.Context(), store.Filter{})
				if err != nil || len(page.Attempts) != 1 || page.Attempts[0].State != store.Complete {
					t.Errorf("%+v, %v", page.Attempts, err)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// unanswered answers none of the first commits that bring an attempt into a state. It
// keeps those that kept names.
type unanswered struct {
	store.Store
	at   store.State
	kept []bool
	n    *atomic.Int64
}

func (f unanswered) Apply(ctx context.Context, commits []store.Commit) []error {
	c, n := commits[0], int(f.n.Load())
	if len(c.Put) == 0 || c.Put[0].State != f.at || n >= len(f.kept) {
		return f.Store.Apply(ctx, commits)
	}
	if f.kept[n] {
		f.Store.Apply(ctx, commits)
	}
	f.n.Add(1)
	errs := make([]error, len(commits))
	for i := range errs {
		errs[i] = fmt.Errorf("%w: the connection is gone", store.ErrUnavailable)
	}
	return errs
}

// TestAnswersOfTheLooksAreLost: the process that let go of its claim is cut short too,
// before or after the store has kept a claim of its own. It looks again, whichever of
// its claims the store holds.
func TestAnswersOfTheLooksAreLost(t *testing.T) {
	for _, kept := range [][]bool{{true, false}, {true, true}, {true, false, true, false}, {true, true, false, false, true}} {
		t.Run(fmt.Sprint(kept), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int64
				sc := setScene(t, standing{state: store.CardSent}, arrivals()[0], func(s store.Store) store.Store {
					return unanswered{s, store.Exchanging, kept, &n}
				}, false)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- sc.eng.Run(ctx) }()
				if answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act); answer.Status != http.StatusServiceUnavailable {
					t.Errorf("answer %+v, want 503", answer)
				}
				time.Sleep(3 * time.Second) // a look takes place four times a second
				if n.Load() != int64(len(kept)) {
					t.Errorf("%d answers were lost, want %d", n.Load(), len(kept))
				}
				began := time.Now()
				answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act)
				if took := time.Since(began); answer.Status != http.StatusOK || took > time.Second {
					t.Errorf("sent again: %+v after %s", answer, took)
				}
				page, err := sc.mem.List(t.Context(), store.Filter{})
				if err != nil || len(page.Attempts) != 1 || page.Attempts[0].State != store.Complete {
					t.Errorf("%+v, %v", page.Attempts, err)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// claimless takes a callback's claim that is due, and loses the answer of the first one.
type claimless struct {
	store.Store
	lost *int
}

func (f claimless) Claim(ctx context.Context, q store.ClaimQuery) ([]store.Delivery, error) {
	rows, err := f.Store.Claim(ctx, q)
	if *f.lost == 0 && len(rows) > 0 {
		*f.lost++
		return nil, fmt.Errorf("%w: the connection is gone", store.ErrUnavailable)
	}
	return rows, err
}

// TestAnswerOfTheOutboxClaimIsLost: the callback was not begun, so its row is given
// back at once, with the number of its tries.
func TestAnswerOfTheOutboxClaimIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := 0
		sc := setScene(t, standing{state: store.CardSent}, arrivals()[0], func(s store.Store) store.Store { return claimless{s, &lost} }, false)
		flow, err := sc.eng.Flow("graph")
		if err != nil {
			t.Fatal(err)
		}
		var told []time.Time
		flow.OnSignInComplete(func(context.Context, *machine.Turn, tokensvc.Token) error {
			if told = append(told, time.Now()); len(told) == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- sc.eng.Run(ctx) }()
		if answer, _ := sc.eng.HandleInvoke(t.Context(), sc.act); answer.Status != http.StatusOK {
			t.Errorf("answer %+v", answer)
		}
		time.Sleep(10 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if lost != 1 || len(told) != 2 {
			t.Errorf("%d answers lost, told at %s, want one and twice", lost, told)
		}
		page, err := sc.mem.List(t.Context(), store.Filter{})
		if err != nil || len(page.Deliveries) != 1 || page.Deliveries[0].Tries != 2 || page.Deliveries[0].Status != store.DeliveryDone {
			t.Errorf("%+v, %v", page.Deliveries, err)
		}
	})
}
