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
	from     store.Conversation // where its activity came from
	message  string             // id of the activity
	activity *machine.Activity  // of an invoke
	exchange string             // the id that a tokenExchange brought
	name     string             // … and the connection's name
	foreign  bool               // … and its token is another user's
	code     string             // what a verifyState brought
	failure  string             // the code of a signin/failure
	plain    bool               // malformed, or CancelledByUser: no upstream call

	// Of a message extension, or an Adaptive Card.
	asks     bool
	card     bool          // an Adaptive Card
	cancels  bool          // the popup was closed
	brings   *popupRun     // whose security code it brings
	sure     bool          // … which has to be taken
	served   bool          // the handler ran
	popup    *popupRun     // of which this is the callback
	mayIssue bool          // … and may end with a code
	issued   bool          // … and did
	life     time.Duration // … of what the provider granted

	// What was true when it arrived.
	settled   bool   // the chain of the exchange id, or of this code, is complete
	signedOut string // … or ended by a sign-out: that attempt
	failed    string // … or ended by an outage: that attempt
	unknown   bool   // the exchange id is nobody's, or another user's
	repeats   int    // store faults of the node until then

	// What happened to it.
	claim       string
	claimFence  int64
	claimUntil  time.Time
	claimed     bool // an exchange was announced and not yet made
	exchanges   int
	codes       map[string]int
	granted     string
	deletes     int
	tried       bool // to sign out, in vain
	spends      bool // the code goes to a connection that is complete: its result is ignored (C10)
	faults      int
	statuses    []int // of upstream answers that were no success
	refusals    []int // … to an exchange
	seen        []sighting
	survey      []store.Attempt // the user's attempts, as it read them last without a connection
	candidates  []store.Attempt // … and first
	surveyed    time.Time
	sawDone     bool            // it read a Complete attempt of this user
	waited      map[string]bool // attempts that it saw while somebody was at it
	passed      map[string]bool // connections that it saw complete
	commits     int             // that changed an attempt
	mayCommit   int
	posts       int      // cards that it sent
	shown       int      // … and that arrived
	undelivered bool     // the last one certainly did not
	told        []string // handlers that it told without a row: connections, "" for that of all

	// How it ended.
	answer machine.Answer
	result machine.SignInResult
	err    error
}

// sighting is an attempt as a task has read it last.
type sighting struct {
	store.Attempt
	at time.Time
}

type taskKey struct{}

func taskOf(ctx context.Context) string {
	t, _ := ctx.Value(taskKey{}).(*task)
	if t == nil {
		return "-"
	}
	name := "t" + strconv.Itoa(t.id)
	if run, ok := ctx.Value(runKey{}).(string); ok {
		name += " " + run
	}
	return name
}

// taskName is what the task of a call does.
func taskName(ctx context.Context) string {
	if t, _ := ctx.Value(taskKey{}).(*task); t != nil {
		return t.what
	}
	return ""
}

// runKey tells the runs of a callback's handlers apart, of which a task may have
// several under way.
type runKey struct{}

// task is whose call arrives at a gate; nil for none.
func (w *world) task(ctx context.Context) *task {
	t, _ := ctx.Value(taskKey{}).(*task)
	return t
}

// author is the task that has written a line; nil if none or no single one can
// have: a message that was sent again may reach the same instance.
func (w *world) author(line *store.Event) *task {
	var found *task
	for _, t := range w.byActivity[line.Activity] {
		switch {
		case t.node.name != line.Instance:
		case found != nil:
			return nil
		default:
			found = t
		}
	}
	return found
}

// regret notes that an upstream's answer did not arrive: nobody knows of the
// grant.
func (t *task) regret() {
	if t.granted == "" {
		return
	}
	if r := t.node.w.model.rows[t.claim]; r != nil {
		r.promised = time.Time{}
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

// surveyed notes all attempts of a user, as a task has read them.
func (n *node) surveyed(ctx context.Context, attempts []store.Attempt) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if t := n.w.task(ctx); t != nil {
		t.survey, t.surveyed = attempts, time.Now()
		if t.candidates == nil {
			t.candidates = append([]store.Attempt{}, attempts...)
		}
	}
}

// passes notes that a candidate of a code has become complete since the task
// began: a code that is offered around passes it over.
func (n *node) passes(ctx context.Context, snap *store.Snapshot) {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	if t := n.w.task(ctx); t != nil && len(snap.Attempts) > 0 && snap.Attempts[0].State == store.Complete {
		t.passed[strings.ToLower(snap.Attempts[0].Key.Connection)] = true
	}
}

// reads notes an attempt as the task saw it last.
func (t *task) reads(a *store.Attempt) {
	if a.Key.User != t.user {
		return
	}
	t.seen = append(slices.DeleteFunc(t.seen, func(o sighting) bool { return o.ID == a.ID }), sighting{*a, time.Now()})
	t.sawDone = t.sawDone || a.State == store.Complete
	if a.State == store.Exchanging || a.State == store.Verifying {
		t.waited[a.ID] = true
	}
}

// start runs do on an instance as a task.
func (w *world) start(n *node, t *task, do func(context.Context, *task)) {
	w.mu.Lock()
	t.id, t.node, t.began, t.repeats = len(w.tasks)+1, n, time.Now(), n.storeFaults
	t.codes, t.waited, t.passed = map[string]int{}, map[string]bool{}, map[string]bool{}
	w.tasks = append(w.tasks, t)
	w.active++
	if t.activity != nil {
		t.activity.ID = fmt.Sprintf("activity-%d", t.id)
		t.message = t.activity.ID
	}
	if t.message != "" {
		w.byActivity[t.message] = append(w.byActivity[t.message], t)
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
				w.trace("    t%d ends: %d %s %v", t.id, t.answer.Status, t.result.Pending, t.err)
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
	r := m.rows[m.byExchange[t.exchange]]
	if r == nil || r.Key.User != t.user {
		t.unknown = true
		return
	}
	head := m.head(r)
	t.settled = head.State == store.Complete
	since := m.anyOf(owner(t.user, r.Key.Connection), func(o *row) bool {
		return o.number > head.number && signedOutSince(&head.Attempt, &o.Attempt)
	})
	switch {
	case since, signedOut(&head.Attempt):
		t.signedOut = head.ID
	case head.Reason == store.ReasonUpstreamRejected, head.Reason == store.ReasonUpstreamUnavailable:
		t.failed = head.ID
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
	if w.ext != nil && r.IntN(2) == 0 {
		w.clientExtension(user)
		return
	}
	switch dice := r.IntN(100); {
	case dice < 22:
		w.signIn(n, user, conn)
	case dice < 48:
		w.clientSSO(user)
	case dice < 64:
		w.clientPopup(user)
	case dice < 70:
		w.clientFailure(n, user)
	case dice < 72:
		w.odd(n, user, conn)
	case dice < 75:
		names := []string{conn}
		if other := w.connections[r.IntN(len(w.connections))]; other != conn && r.IntN(2) == 0 {
			names = append(names, other)
		}
		turn := n.eng.Turn(w.message(w.anyChat(user)))
		if w.ext != nil && r.IntN(2) == 0 {
			names = append(names, own)
		}
		w.start(n, &task{what: "signout " + user + " " + strings.Join(names, " "), user: user}, func(ctx context.Context, t *task) {
			t.err = turn.SignOut(ctx, names...)
		})
	case dice < 77:
		turn := n.eng.Turn(w.message(w.anyChat(user)))
		w.start(n, &task{what: "signout all " + user, user: user}, func(ctx context.Context, t *task) {
			t.err = turn.SignOutAll(ctx)
		})
	case dice < 85:
		w.start(n, &task{what: "sweep"}, func(ctx context.Context, t *task) { t.err = n.eng.Sweep(ctx) })
	case dice < 91:
		w.start(n, &task{what: "deliver"}, func(ctx context.Context, t *task) { t.err = n.eng.DeliverDue(ctx) })
	case dice < 94:
		w.start(n, &task{what: "flush"}, func(ctx context.Context, t *task) { t.err = n.eng.Flush(ctx) })
	case dice < 97:
		w.operate(n)
	case dice < 98: // service URLs move
		w.region++
		w.did("region", strconv.Itoa(w.region))
	default: // the user got a token another way
		w.did("token", user, conn)
		life := []time.Duration{time.Hour, time.Hour, time.Minute, -time.Second}[r.IntN(4)]
		w.mu.Lock()
		w.twin.keep(owner(user, conn), life)
		w.mu.Unlock()
	}
}

// The conversations: a user's own with the bot, the one that all share, and the
// chat that the bot opens for a card.
const (
	home   = "home"
	shared = "shared"
)

// chat is a conversation of a user by its id, or by one of the names above.
func (w *world) chat(user, id string) store.Conversation {
	c := store.Conversation{
		ServiceURL: fmt.Sprintf("https://smba.example/%d/", w.region), Channel: "msteams", ID: id, Type: "personal",
		Tenant: "tenant", BotID: "28:app", UserID: user, UserAAD: "aad-" + user,
	}
	switch id {
	case home, "chat-" + user:
		c.ID, c.Type = "chat-"+user, w.home[user]
	case shared:
		c.Type = w.room
	}
	c.IsGroup = c.Type == "groupChat"
	return c
}

// anyChat is one of a user's conversations, mostly his own with the bot.
func (w *world) anyChat(user string) store.Conversation {
	if w.room != "" && w.rng.IntN(3) == 0 {
		return w.chat(user, shared)
	}
	return w.chat(user, home)
}

func (w *world) message(from store.Conversation) *machine.Activity {
	return &machine.Activity{Type: "message", Conversation: from}
}

// signIn is a message that makes the bot call SignIn. Teams sends it again when
// the bot takes its time.
func (w *world) signIn(n *node, user, conn string) {
	act := w.message(w.anyChat(user))
	act.ID = fmt.Sprintf("message-%d", len(w.tasks)+1)
	say := func(n *node, again string) {
		t := &task{what: "signin" + again + " " + user + " " + conn + " in " + act.Conversation.ID, user: user, from: act.Conversation, message: act.ID, mayCommit: 2}
		w.start(n, t, func(ctx context.Context, t *task) {
			t.result, t.err = n.eng.Turn(act).SignIn(ctx, machine.WithConnection(conn))
		})
	}
	say(n, "")
	if w.rng.IntN(8) == 0 {
		w.mailbox = append(w.mailbox, func(w *world) { say(w.anyNode(), " again") })
	}
}

// invoke sends an invoke to an instance.
func (w *world) invoke(n *node, t *task, name, reply string, from store.Conversation, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	t.from = from
	t.activity = &machine.Activity{
		Type: "invoke", Name: name, ReplyToID: reply, Platform: "Web", Conversation: from, Value: raw,
	}
	t.what = strings.TrimPrefix(name, "signin/") + " " + t.what + " from " + from.ID
	switch name {
	case machine.InvokeTokenExchange:
		t.mayCommit = 2
	case machine.InvokeVerifyState:
		t.mayCommit = 3*len(w.connections) + 1
	default:
		t.mayCommit = 1
	}
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

// clientFailure is a client that cannot sign in silently.
func (w *world) clientFailure(n *node, user string) {
	r := w.rng
	code := []string{"resourcematchfailed", "userconsentrequired", "tokenmissing", "unheardof"}[r.IntN(4)]
	from, reply := w.anyChat(user), ""
	if c := w.pick(user, func(*card) bool { return true }); c != nil && r.IntN(3) > 0 {
		reply = c.activity
		if r.IntN(4) > 0 {
			from = w.chat(user, c.chat)
		}
	}
	t := &task{what: code + " " + user + " at " + reply, user: user, failure: code}
	w.invoke(n, t, machine.InvokeFailure, reply, from, map[string]string{"code": code, "message": "said the client"})
}

// clientSSO is a client that answers a card's offer of SSO, or claims to.
func (w *world) clientSSO(user string) {
	r := w.rng
	id, conn, from := "", w.connections[r.IntN(len(w.connections))], w.chat(user, home)
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
		id, conn, from = c.exchange, c.connection, w.chat(user, c.chat)
	}
	if r.IntN(16) == 0 {
		conn = "Gone"
	}
	t := &task{user: user, exchange: id, name: conn}
	token := w.tokenFor(c, t)
	if c != nil && c.exchange == id {
		c.last = token
	}
	t.what = user + " " + id
	send := func(w *world) {
		t := *t
		w.invoke(w.anyNode(), &t, machine.InvokeTokenExchange, "", from,
			map[string]string{"id": id, "connectionName": conn, "token": token})
	}
	send(w)
	if r.IntN(2) == 0 { // another device, or the same again
		w.mailbox = append(w.mailbox, send)
	}
}

// tokenFor is the SSO token of a client: mostly good, sometimes one that is
// refused, now and then the one that another user sends too, or is another
// user's.
func (w *world) tokenFor(c *card, t *task) string {
	r := w.rng
	if c != nil && c.last != "" && r.IntN(3) == 0 {
		t.foreign = strings.HasPrefix(c.last, "header.")
		return c.last
	}
	outcome := ssoTaken
	if r.IntN(4) == 0 {
		outcome = []int{400, 403, 404, 412, ssoEmpty, ssoExpired}[r.IntN(6)]
	}
	switch r.IntN(24) {
	case 0:
		t.foreign = true
		return ssoToken(outcome, r.IntN(1000), t.user, "aad-somebody-else")
	case 1:
		return ssoToken(outcome, 0, "everybody", "")
	default:
		return ssoToken(outcome, r.IntN(1000), t.user, "")
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
	case dice < 3: // mistyped, perhaps as somebody else does
		if r.IntN(2) == 0 {
			code = canary + "-code-123456"
		}
	default:
		w.mu.Lock()
		w.twin.codes[code] = owner(user, c.connection)
		w.mu.Unlock()
	}
	reply, from := c.activity, w.chat(user, c.chat)
	if r.IntN(4) == 0 {
		reply = ""
	}
	if r.IntN(6) == 0 { // from a conversation in which the same id is another card's
		from = w.anyChat(user)
	}
	send := func(w *world) {
		t := &task{what: user + " " + c.connection + " code of " + c.activity + " in " + c.chat + " to " + reply, user: user, code: code, plain: plain}
		w.invoke(w.anyNode(), t, machine.InvokeVerifyState, reply, from, map[string]string{"state": code})
	}
	send(w)
	if r.IntN(3) == 0 {
		w.mailbox = append(w.mailbox, send)
	}
}

// odd sends what no client should.
func (w *world) odd(n *node, user, conn string) {
	from := w.anyChat(user)
	switch w.rng.IntN(4) {
	case 0:
		w.invoke(n, &task{what: "null " + user, user: user, plain: true}, machine.InvokeTokenExchange, "", from, nil)
	case 1:
		w.invoke(n, &task{what: "empty " + user, user: user, plain: true}, machine.InvokeTokenExchange, "", from, map[string]string{"id": "x-1", "connectionName": conn})
	case 2:
		w.invoke(n, &task{what: "null " + user, user: user, plain: true}, machine.InvokeVerifyState, "", from, nil)
	case 3:
		w.invoke(n, &task{what: "odd " + user, user: user}, machine.InvokeFailure, "", from, []int{1})
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
