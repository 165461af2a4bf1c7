package machine_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// answerless keeps a commit that completes an attempt, and loses the answer of the
// first one, as a server does that dies at that moment.
type answerless struct {
	store.Store
	lost *int
}

func (f answerless) Apply(ctx context.Context, commits []store.Commit) []error {
	errs := f.Store.Apply(ctx, commits)
	for i, c := range commits {
		if *f.lost == 0 && errs[i] == nil && len(c.Put) > 0 && c.Put[0].State == store.Complete {
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
				sc := setScene(t, standing{state: store.CardSent}, a, func(s store.Store) store.Store { return answerless{s, &lost} }, false)
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
