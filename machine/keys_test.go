package machine_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// twoEngines are two engines on one store, whose clock a test moves.
type twoEngines struct {
	mem  *memstore.Store
	late atomic.Int64 // ns
	a, b *desk
}

func newTwoEngines(t *testing.T) *twoEngines {
	t.Helper()
	s := &twoEngines{}
	s.mem = memstore.New(func() time.Time { return time.Now().Add(time.Duration(s.late.Load())) })
	engine := func(instance string) *desk {
		d := newDesk(t, func(cfg *machine.Config) {
			cfg.Store, cfg.Instance = s.mem, instance
		})
		d.mem = s.mem
		return d
	}
	s.a, s.b = engine("a"), engine("b")
	return s
}

func (s *twoEngines) later(d time.Duration) { s.late.Add(int64(d)) }

func (s *twoEngines) newest(t *testing.T, user string) store.Attempt {
	t.Helper()
	page, err := s.mem.List(t.Context(), store.Filter{User: user, Limit: 1})
	if err != nil || len(page.Attempts) != 1 {
		t.Fatalf("%d attempts of %s, %v", len(page.Attempts), user, err)
	}
	return page.Attempts[0]
}

func (s *twoEngines) keys(t *testing.T) []store.SecretKey {
	t.Helper()
	ring, err := s.mem.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ring.Keys
}

// by reports whether a mark or a seal was made with a key.
func by(k store.SecretKey, made []byte) bool {
	id := k.ID()
	return slices.Equal(id[:], made[:min(len(id), len(made))])
}

func (d *desk) asks(user string) {
	d.t.Helper()
	act := message("hello")
	act.Conversation.UserID = user
	if _, err := d.eng.Turn(act).SignIn(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) sendsCode(user, code string) int {
	d.t.Helper()
	act := activity("invoke", machine.InvokeVerifyState, "", `{"state":"`+code+`"}`)
	act.Conversation.UserID = user
	a, _ := d.eng.HandleInvoke(d.t.Context(), act)
	return a.Status
}

// TestRotateKey: what was made with a key is read after it was replaced, on any
// instance; a new key is used once every instance has it; it is on record who
// asked for it and why; an old key is forgotten when all that was made with it is
// past its retention.
func TestRotateKey(t *testing.T) {
	t.Parallel()
	s := newTwoEngines(t)
	first := s.keys(t)[0]
	s.a.asks("29:alice")
	s.a.tokens.IssueCode("111111", "29:alice", "graph")
	if status := s.a.sendsCode("29:alice", "111111"); status != http.StatusOK {
		t.Fatalf("code: %d", status)
	}
	old := s.newest(t, "29:alice")
	if !by(first, old.CodeMark) || !by(first, old.Request) {
		t.Errorf("mark %x and seal %x do not name the key %s", old.CodeMark, old.Request[:4], first.ID())
	}

	made, err := s.a.eng.RotateKey(t.Context(), machine.Operator{Actor: "eve", Reason: "ticket 7"})
	if err != nil {
		t.Fatal(err)
	}
	second := s.keys(t)[1]
	if made.ID != second.ID() || made.Older != 1 || made.ID == first.ID() {
		t.Errorf("%+v, want %s", made, second.ID())
	}
	lines, err := s.mem.Events(t.Context(), store.EventFilter{Orphans: true})
	if err != nil || !slices.ContainsFunc(lines, func(e store.Event) bool {
		return e.Kind == store.EventOperator && e.Invoke == "rotate-key" && e.Actor == "eve" && strings.HasSuffix(e.Detail, "ticket 7")
	}) {
		t.Errorf("no line of it: %+v, %v", lines, err)
	}

	// Until every instance has it, it makes nothing.
	s.a.asks("29:bob")
	if got := s.newest(t, "29:bob"); !by(first, got.Request) {
		t.Error("a key is used that another instance may not have")
	}
	s.later(16 * time.Second) // three sweeps
	if err := s.a.eng.LoadKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.a.asks("29:carol")
	if got := s.newest(t, "29:carol"); !by(second, got.Request) {
		t.Error("the new key is not used")
	}

	// The other instance has not looked yet, and opens it all the same.
	var kept json.RawMessage
	s.b.flow().OnSignInComplete(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
		kept = turn.Request()
		return nil
	})
	s.b.tokens.IssueCode("333333", "29:carol", "graph")
	if status := s.b.sendsCode("29:carol", "333333"); status != http.StatusOK {
		t.Errorf("code: %d", status)
	}
	if kept == nil {
		t.Error("the kept activity was not opened")
	}
	// A code that was used before the rotation is known: no second call.
	before := s.b.said("29:alice")
	if status := s.b.sendsCode("29:alice", "111111"); status != http.StatusOK || s.b.said("29:alice") != before {
		t.Errorf("a used code: %d, and %d calls", status, s.b.said("29:alice")-before)
	}

	timeouts := machine.DefaultTimeouts()
	for _, step := range []struct {
		wait time.Duration
		keys int
	}{{timeouts.Retention, 2}, {48 * time.Hour, 1}} {
		s.later(step.wait)
		if err := s.b.eng.ForgetKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := s.keys(t); len(got) != step.keys || got[len(got)-1].ID() != second.ID() {
			t.Errorf("after %s more: %d keys, want %d", step.wait, len(got), step.keys)
		}
	}
}

// TestKeysElsewhere: keys that are kept outside of the store make what is new, and
// those of the store are still read. They are asked for again, and when they
// cannot be had the last ones serve.
func TestKeysElsewhere(t *testing.T) {
	t.Parallel()
	s := newTwoEngines(t)
	s.a.asks("29:alice")
	s.a.tokens.IssueCode("111111", "29:alice", "graph")
	s.a.sendsCode("29:alice", "111111")

	own, next := store.NewSecretKey(time.Now()), store.NewSecretKey(time.Now())
	keys, wrong := []store.SecretKey{own}, error(nil)
	d := newDesk(t, func(cfg *machine.Config) {
		cfg.Store, cfg.Keys = s.mem, func() ([]store.SecretKey, error) { return keys, wrong }
	})
	d.asks("29:bob")
	if got := s.newest(t, "29:bob"); !by(own, got.Request) {
		t.Error("the store's key was used")
	}
	calls := d.said("29:alice")
	if status := d.sendsCode("29:alice", "111111"); status != http.StatusOK || d.said("29:alice") != calls {
		t.Errorf("what the store's key has marked is not known: %d", status)
	}
	if _, err := d.eng.RotateKey(t.Context(), machine.Operator{Actor: "eve", Reason: "r"}); !errors.Is(err, machine.ErrKeysElsewhere) {
		t.Errorf("rotate: %v", err)
	}

	keys = []store.SecretKey{next, own}
	if err := d.eng.LoadKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.asks("29:carol")
	if got := s.newest(t, "29:carol"); !by(next, got.Request) {
		t.Error("the first key was not used")
	}
	keys = nil
	if err := d.eng.LoadKeys(t.Context()); err == nil {
		t.Error("loaded without a key")
	}
	wrong = errors.New("no such file")
	if err := d.eng.LoadKeys(t.Context()); !errors.Is(err, wrong) {
		t.Errorf("load: %v", err)
	}
	d.asks("29:dave")
	if _, err := machine.New(machine.Config{
		AppID: "app", Store: s.mem, Tokens: d.tokens, Messenger: unsent{}, Connections: []machine.Connection{{Name: "graph"}},
		Keys: func() ([]store.SecretKey, error) { return keys, wrong },
	}); !errors.Is(err, wrong) {
		t.Errorf("new: %v", err)
	}
}

// A callback whose activities cannot be opened yet, since the keys cannot be read, is
// made when they can be: no handler takes one for an activity that was not kept.
func TestKeptActivityWaitsForItsKey(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		asks []string // by which instance, one message after the other
		want []string
	}{
		{"its own activity", []string{"a"}, []string{`{"text":"by a"}`}},
		{"one of a superseded attempt", []string{"a", "b"}, []string{`{"text":"by a"}`, `{"text":"by b"}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newTwoEngines(t)
			keyless := &keyless{Store: s.mem}
			s.b = newDesk(t, func(cfg *machine.Config) { cfg.Store, cfg.Instance = keyless, "b" })
			var ofAll, ofPurpose []string
			s.b.eng.OnSignIn(func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				ofAll = append(ofAll, turn.Purpose()+string(turn.Request()))
				return nil
			})
			err := s.b.eng.OnSignInFor("report", func(_ context.Context, turn *machine.Turn, _ tokensvc.Token) error {
				ofPurpose = append(ofPurpose, string(turn.Request()))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.a.eng.RotateKey(t.Context(), machine.Operator{Actor: "eve", Reason: "r"}); err != nil {
				t.Fatal(err)
			}
			s.later(16 * time.Second) // three sweeps
			if err := s.a.eng.LoadKeys(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, instance := range tt.asks { // b has not read the new key
				act := message("by " + instance)
				act.ID = instance
				if _, err := map[string]*desk{"a": s.a, "b": s.b}[instance].eng.Turn(act).SignIn(t.Context(), machine.WithPurpose("report")); err != nil {
					t.Fatal(err)
				}
			}
			s.b.tokens.IssueCode("111111", "29:alice", "graph")
			keyless.down.Store(true)
			if status := s.b.sendsCode("29:alice", "111111"); status != http.StatusOK {
				t.Fatalf("code: %d", status)
			}
			s.b.drain()
			if len(ofAll)+len(ofPurpose) > 0 {
				t.Fatalf("called without the key: %q, %q", ofAll, ofPurpose)
			}
			keyless.down.Store(false)
			s.later(2 * time.Second)
			if err := s.b.eng.DeliverDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			if want := "report" + tt.want[len(tt.want)-1]; !slices.Equal(ofAll, []string{want}) {
				t.Errorf("the handler of every sign-in got %q, want %q", ofAll, want)
			}
			if !slices.Equal(ofPurpose, tt.want) {
				t.Errorf("the handler of the purpose got %q, want %q", ofPurpose, tt.want)
			}
		})
	}
}

// keyless is a store whose keys cannot be read while it is down.
type keyless struct {
	store.Store
	down atomic.Bool
}

func (k *keyless) Keys(ctx context.Context) (store.KeyRing, error) {
	if k.down.Load() {
		return store.KeyRing{}, store.ErrUnavailable
	}
	return k.Store.Keys(ctx)
}
