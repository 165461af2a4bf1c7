package machine_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// task is one thing that an engine was asked to do: an invoke, a SignIn, a
// sweep. It remembers what the world did to it, for the oracle.
type task struct {
	id       int
	what     string
	node     *node
	user     string
	began    time.Time
	done     bool
	activity *machine.Activity
	exchange string // the id that a tokenExchange brought
	code     string // what a verifyState brought
	plain    bool   // malformed, or CancelledByUser: no upstream call

	// What was true when it arrived.
	settled   bool   // the chain of the exchange id, or of this code, is complete
	signedOut string // … or ended by a sign-out: that attempt
	repeats   int    // store faults of the node until then

	// What happened to it.
	claim      string
	claimFence int64
	claimUntil time.Time
	claimed    bool // an exchange was announced and not yet made
	exchanges  int
	codes      map[string]int
	granted    string
	deletes    int
	tried      bool // to sign out, in vain
	spends     bool // the code goes to a connection that is complete: its result is ignored (C10)
	faults     int
	statuses   []int // of upstream answers that were no success
	seen       []store.Attempt
	recorded   []int // answers on record that it read
	sawDone    bool  // it read a Complete attempt of this user

	// How it ended.
	answer machine.Answer
	token  tokensvc.Token
	err    error
}

type taskKey struct{}

func taskOf(ctx context.Context) string {
	t, _ := ctx.Value(taskKey{}).(*task)
	if t == nil {
		return "-"
	}
	return "t" + strconv.Itoa(t.id)
}

// task is whose call arrives at a gate; nil for none.
func (w *world) task(ctx context.Context) *task {
	t, _ := ctx.Value(taskKey{}).(*task)
	return t
}

// regret notes that an upstream's answer did not arrive: nobody knows of the
// grant.
func (t *task) regret() {
	if t.granted == "" {
		return
	}
	if r := t.node.w.model.rows[t.claim]; r != nil {
		r.promised = false
	}
	t.granted = ""
}

// saw notes what an engine has read on behalf of a task.
func (n *node) saw(ctx context.Context, snap *store.Snapshot) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	t := n.w.task(ctx)
	if t == nil {
		return
	}
	if snap.ByExchangeID != nil {
		t.reads(snap.ByExchangeID)
	}
	for i := range snap.Attempts {
		t.reads(&snap.Attempts[i])
	}
}

// reads notes an attempt as the task saw it last.
func (t *task) reads(a *store.Attempt) {
	if a.Key.User != t.user {
		return
	}
	t.seen = append(slices.DeleteFunc(t.seen, func(o store.Attempt) bool { return o.ID == a.ID }), *a)
	t.recorded = append(t.recorded, a.AnswerStatus, a.CodeStatus)
	t.sawDone = t.sawDone || a.State == store.Complete
}

// start runs do on an instance as a task.
func (w *world) start(n *node, t *task, do func(context.Context, *task)) {
	w.mu.Lock()
	t.id, t.node, t.began, t.codes, t.repeats = len(w.tasks)+1, n, time.Now(), map[string]int{}, n.storeFaults
	w.tasks = append(w.tasks, t)
	w.active++
	if t.activity != nil {
		t.activity.ID = fmt.Sprintf("activity-%d", t.id)
		w.byActivity[t.activity.ID] = t
	}
	w.arrive(t)
	w.mu.Unlock()
	w.did("start", "t"+strconv.Itoa(t.id), n.name, t.what)
	go func() {
		finished := false
		defer func() {
			p := any(nil)
			if !finished {
				p = recover()
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if p != nil {
				w.violate("panic", "t%d %s: %v", t.id, t.what, p)
			}
			if t.done { // its instance was killed: nobody hears of it
				return
			}
			t.done = true
			w.active--
			if finished {
				w.trace("    t%d ends: %d %v", t.id, t.answer.Status, t.err)
				w.judge(t)
			}
		}()
		do(context.WithValue(context.Background(), taskKey{}, t), t)
		finished = true
	}()
}

// arrive notes what the table will have to go by.
func (w *world) arrive(t *task) {
	m := w.model
	if t.exchange != "" {
		if r := m.rows[m.byExchange[t.exchange]]; r != nil && r.Key.User == t.user {
			head := m.head(r)
			t.settled = head.State == store.Complete
			if head.Reason == store.ReasonSignedOut {
				t.signedOut = head.ID
			}
		}
	}
}

// act begins something new.
func (w *world) act() {
	r := w.rng
	if len(w.mailbox) > 0 && r.IntN(2) == 0 {
		i := r.IntN(len(w.mailbox))
		deliver := w.mailbox[i]
		if r.IntN(5) != 0 { // else it comes once more
			w.mailbox = append(w.mailbox[:i], w.mailbox[i+1:]...)
		}
		if r.IntN(8) != 0 { // else it gets lost
			deliver(w)
		}
		return
	}
	n := w.nodes[r.IntN(len(w.nodes))]
	user := w.users[r.IntN(len(w.users))]
	conn := w.connections[r.IntN(len(w.connections))]
	switch dice := r.IntN(100); {
	case dice < 22:
		w.signIn(n, user, conn)
	case dice < 48:
		w.clientSSO(user)
	case dice < 64:
		w.clientPopup(user)
	case dice < 70:
		codes := []string{"resourcematchfailed", "userconsentrequired", "tokenmissing", "unheardof"}
		w.invoke(n, &task{what: "failure " + user, user: user}, machine.InvokeFailure, w.reply(user), map[string]string{"code": codes[r.IntN(4)], "message": "said the client"})
	case dice < 72:
		w.odd(n, user, conn)
	case dice < 75:
		w.start(n, &task{what: "signout " + user + " " + conn, user: user}, func(ctx context.Context, t *task) {
			t.err = n.eng.Turn(w.message(user)).SignOut(ctx, conn)
		})
	case dice < 77:
		w.start(n, &task{what: "signout all " + user, user: user}, func(ctx context.Context, t *task) {
			t.err = n.eng.Turn(w.message(user)).SignOutAll(ctx)
		})
	case dice < 85:
		w.start(n, &task{what: "sweep"}, func(ctx context.Context, t *task) { t.err = n.eng.Sweep(ctx) })
	case dice < 91:
		w.start(n, &task{what: "deliver"}, func(ctx context.Context, t *task) { t.err = n.eng.DeliverDue(ctx) })
	case dice < 94:
		w.start(n, &task{what: "flush"}, func(ctx context.Context, t *task) { t.err = n.eng.Flush(ctx) })
	case dice < 98:
		w.operate(n)
	default: // the user got a token another way
		w.did("token", user, conn)
		w.mu.Lock()
		w.twin.tokens[owner(user, conn)] = time.Now()
		w.mu.Unlock()
	}
}

func (w *world) conversation(user string) store.Conversation {
	return store.Conversation{
		ServiceURL: "https://smba.example/", Channel: "msteams", ID: "chat-" + user, Type: w.chat[user],
		IsGroup: w.chat[user] == "groupChat", Tenant: "tenant", BotID: "28:app", UserID: user,
	}
}

func (w *world) message(user string) *machine.Activity {
	return &machine.Activity{Type: "message", Conversation: w.conversation(user)}
}

func (w *world) signIn(n *node, user, conn string) {
	w.start(n, &task{what: "signin " + user + " " + conn, user: user}, func(ctx context.Context, t *task) {
		t.token, t.err = n.eng.Turn(w.message(user)).SignIn(ctx, machine.WithConnection(conn))
	})
}

// invoke sends an invoke to an instance.
func (w *world) invoke(n *node, t *task, name, reply string, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	t.activity = &machine.Activity{
		Type: "invoke", Name: name, ReplyToID: reply, Platform: "Web", Conversation: w.conversation(t.user), Value: raw,
	}
	t.what = strings.TrimPrefix(name, "signin/") + " " + t.what
	w.start(n, t, func(ctx context.Context, t *task) {
		t.answer, _ = n.eng.HandleInvoke(ctx, t.activity)
	})
}

func (w *world) anyNode() *node { return w.nodes[w.rng.IntN(len(w.nodes))] }

// pick is one of the user's cards, mostly a new one.
func (w *world) pick(user string, good func(*card) bool) *card {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []*card
	for i := range w.cards {
		if c := &w.cards[i]; c.user == user && good(c) {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return nil
	}
	if w.rng.IntN(3) > 0 {
		return found[len(found)-1]
	}
	return found[w.rng.IntN(len(found))]
}

// reply is the id of a card of the user, sometimes.
func (w *world) reply(user string) string {
	c := w.pick(user, func(*card) bool { return true })
	if c == nil || w.rng.IntN(3) == 0 {
		return ""
	}
	return c.activity
}

// clientSSO is a client that answers a card's offer of SSO, or claims to.
func (w *world) clientSSO(user string) {
	r := w.rng
	id, conn := "", w.connections[r.IntN(len(w.connections))]
	c := w.pick(user, func(c *card) bool { return c.exchange != "" })
	switch dice := r.IntN(20); {
	case dice == 0: // no id at all
	case dice == 1: // a card that the store does not know
		id = "lost-" + strconv.Itoa(r.IntN(3)) + user
	case dice == 2: // another user's card
		w.mu.Lock()
		if len(w.cards) > 0 {
			id = w.cards[r.IntN(len(w.cards))].exchange
		}
		w.mu.Unlock()
	case c == nil:
		w.signIn(w.anyNode(), user, conn)
		return
	default:
		id, conn = c.exchange, c.connection
	}
	var token string
	if c != nil && c.last != "" && r.IntN(3) == 0 {
		token = c.last
	} else {
		status := 0
		if r.IntN(4) == 0 {
			status = []int{400, 403, 404, 412}[r.IntN(4)]
		}
		token = fmt.Sprintf("%s-jwt-%d-%d-%s", canary, status, r.IntN(1000), user)
	}
	if c != nil && c.exchange == id {
		c.last = token
	}
	send := func(w *world) {
		w.invoke(w.anyNode(), &task{what: user + " " + id, user: user, exchange: id}, machine.InvokeTokenExchange, "",
			map[string]string{"id": id, "connectionName": conn, "token": token})
	}
	send(w)
	if r.IntN(2) == 0 { // another device, or the same again
		w.mailbox = append(w.mailbox, send)
	}
}

// clientPopup is a user in the popup: finishes it, mistypes, closes it.
func (w *world) clientPopup(user string) {
	r := w.rng
	c := w.pick(user, func(*card) bool { return true })
	if c == nil {
		w.signIn(w.anyNode(), user, w.connections[r.IntN(len(w.connections))])
		return
	}
	code := fmt.Sprintf("%s-code-%d", canary, r.IntN(1_000_000))
	plain := false
	switch dice := r.IntN(10); {
	case dice == 0:
		code, plain = "CancelledByUser", true
	case dice < 3: // mistyped
	default:
		w.mu.Lock()
		w.twin.codes[code] = owner(user, c.connection)
		w.mu.Unlock()
	}
	reply := c.activity
	if r.IntN(4) == 0 {
		reply = ""
	}
	send := func(w *world) {
		t := &task{what: user + " " + c.connection + " code of " + c.activity, user: user, code: code, plain: plain}
		w.invoke(w.anyNode(), t, machine.InvokeVerifyState, reply, map[string]string{"state": code})
	}
	send(w)
	if r.IntN(3) == 0 {
		w.mailbox = append(w.mailbox, send)
	}
}

// odd sends what no client should.
func (w *world) odd(n *node, user, conn string) {
	switch w.rng.IntN(4) {
	case 0:
		w.invoke(n, &task{what: "null " + user, user: user, plain: true}, machine.InvokeTokenExchange, "", nil)
	case 1:
		w.invoke(n, &task{what: "empty " + user, user: user, plain: true}, machine.InvokeTokenExchange, "", map[string]string{"id": "x-1", "connectionName": conn})
	case 2:
		w.invoke(n, &task{what: "null " + user, user: user, plain: true}, machine.InvokeVerifyState, "", nil)
	case 3:
		w.invoke(n, &task{what: "odd " + user, user: user}, machine.InvokeFailure, "", []int{1})
	}
}

// operate is an operator at work on any attempt.
func (w *world) operate(n *node) {
	r := w.rng
	w.mu.Lock()
	if len(w.model.ids) == 0 {
		w.mu.Unlock()
		return
	}
	row := w.model.rows[w.model.ids[r.IntN(len(w.model.ids))]]
	w.mu.Unlock()
	what := []string{"cancel", "reconcile", "redeliver"}[r.IntN(3)]
	t := &task{what: what + " #" + strconv.Itoa(row.number), user: row.Key.User}
	by := machine.Operator{Actor: "olga", Reason: "ticket"}
	w.start(n, t, func(ctx context.Context, _ *task) {
		// Refusals are the operator's daily bread; what counts is what was written.
		switch what {
		case "cancel":
			_, _ = n.eng.Cancel(ctx, row.ID, by)
		case "reconcile":
			_, _ = n.eng.Reconcile(ctx, row.ID, by)
		default:
			_, _ = n.eng.Redeliver(ctx, row.ID, by)
		}
	})
}
