package machine_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
)

// countedFinds counts reads.
type countedFinds struct {
	store.Store
	finds int
}

func (s *countedFinds) Find(ctx context.Context, q store.Query) (store.Snapshot, error) {
	s.finds++
	return s.Store.Find(ctx, q)
}

// TestHint: the exchange of a card that this engine has just sent is claimed
// without a read. What others did to the attempt meanwhile is found all the
// same.
func TestHint(t *testing.T) {
	for _, tc := range []struct {
		name      string
		meanwhile func(t *testing.T, d, other *desk)
		status    int
		calls     int // of the upstream exchange
		finds     int // for the exchange
		rows      string
	}{
		{"nothing", nil, http.StatusOK, 1, 0, "B1 B2"},
		{"an old card", func(*testing.T, *desk, *desk) { time.Sleep(2 * time.Minute) }, http.StatusOK, 1, 1, "B1 B2"},
		{"another engine signed the user in", func(t *testing.T, _, other *desk) {
			t.Helper()
			if got := other.exchange(); got != http.StatusOK {
				t.Fatalf("answered %d", got)
			}
		}, http.StatusOK, 1, 1, "B7 B2"},
		{"another engine signed the user out", func(t *testing.T, _, other *desk) {
			t.Helper()
			if err := other.eng.Turn(activity("message", "", "logout", "")).SignOut(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, http.StatusOK, 0, 1, "E1 B15"},
		{"another engine sent another card", func(_ *testing.T, _, other *desk) { other.signIn("again") }, http.StatusOK, 1, 1, "B13 B2"},
		{"a refusal, then another engine redeemed the code", func(t *testing.T, d, other *desk) {
			t.Helper()
			d.tokens.IssueCode("123456", "29:alice", "graph")
			refused := activity("invoke", machine.InvokeTokenExchange, "", `{"id":"x-1","connectionName":"graph","token":"bad"}`)
			code := activity("invoke", machine.InvokeVerifyState, "", `{"state":"123456"}`)
			first, _ := d.eng.HandleInvoke(t.Context(), refused)
			second, _ := other.eng.HandleInvoke(t.Context(), code)
			third, _ := d.eng.HandleInvoke(t.Context(), refused) // it writes nothing, so it has to ask
			if first.Status != 412 || second.Status != 200 || third.Status != 200 {
				t.Fatalf("answered %d, %d, %d", first.Status, second.Status, third.Status)
			}
		}, http.StatusOK, 1, 1, "B11 C3"},
		{"the row is gone", func(t *testing.T, d, _ *desk) {
			t.Helper()
			page, err := d.mem.List(t.Context(), store.Filter{})
			if err != nil || len(page.Attempts) != 1 {
				t.Fatalf("%d attempts, %v", len(page.Attempts), err)
			}
			a := page.Attempts[0]
			a.Version++
			a.State, a.Entered, a.Reason = store.Failed, a.Entered.Add(-time.Hour), store.ReasonOperator
			if errs := d.mem.Apply(t.Context(), []store.Commit{{Put: []store.Attempt{a}}}); errs[0] != nil {
				t.Fatal(errs[0])
			}
			if n, err := d.mem.Purge(t.Context(), time.Now(), 0, false); n != 1 || err != nil {
				t.Fatalf("purged %d, %v", n, err)
			}
		}, http.StatusOK, 1, 1, "B16 B2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				counted := &countedFinds{Store: memstore.New(time.Now)}
				d := newDesk(t, func(cfg *machine.Config) { cfg.Store = counted })
				d.mem, _ = counted.Store.(*memstore.Store)
				other := &desk{t: t, tokens: d.tokens, mem: d.mem}
				var err error
				other.eng, err = machine.New(machine.Config{
					AppID: "app", Store: d.mem, Tokens: d.tokens, Messenger: machinetest.NewConnector(d.say),
					Connections: []machine.Connection{{Name: "graph"}}, Log: zerolog.Nop(), Instance: "b",
				})
				if err != nil {
					t.Fatal(err)
				}
				d.signIn("login")
				if tc.meanwhile != nil {
					tc.meanwhile(t, d, other)
				}
				before := counted.finds
				if got := d.exchange(); got != tc.status {
					t.Errorf("answered %d, want %d", got, tc.status)
				}
				if got := d.said("exchange"); got != tc.calls {
					t.Errorf("%d exchanges, want %d: %q", got, tc.calls, d.log)
				}
				if got := counted.finds - before; got != tc.finds {
					t.Errorf("%d reads, want %d", got, tc.finds)
				}
				d.drain()
				other.drain()
				if got := d.rows(); !strings.HasSuffix(got, tc.rows) {
					t.Errorf("rows %s, want %s at the end", got, tc.rows)
				}
			})
		})
	}
}

// rows are those of the table that were taken, in order.
func (d *desk) rows() string {
	d.t.Helper()
	lines, err := d.mem.Events(d.t.Context(), store.EventFilter{})
	if err != nil {
		d.t.Fatal(err)
	}
	var rows []string
	for i := range lines {
		row := lines[i].Row
		if row != "" && (len(rows) == 0 || rows[len(rows)-1] != row) {
			rows = append(rows, row)
		}
	}
	return strings.Join(rows, " ")
}
