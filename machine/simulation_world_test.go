package machine_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/machine/machinetest"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
)

// world is one simulated run: engines over one store, a token service, users
// and their clients, and a scheduler that decides everything by its seed.
type world struct {
	rng  *rand.Rand
	fate fate
	mut  *mutation

	mem         *memstore.Store
	model       *model
	twin        *twin
	policy      machine.Policy
	timeouts    machine.Timeouts
	table       *table.Table
	users       []string
	connections []string
	home        map[string]string // user -> type of the chat with the bot
	room        string            // type of a conversation that all users share, "" for none
	noSSO       map[string]bool   // connections for which the token service offers no SSO
	plain       map[string]bool   // connections that are set to offer none
	once        bool              // the handlers use Once
	stubborn    bool              // the handlers of connections never succeed

	ext *extension // nil for a world without message extensions

	nodes    []*node
	born     int // instances so far
	mailbox  []func(*world)
	storeOff bool
	tokenOff bool
	region   int // service URLs move
	steps    int
	tracing  bool
	lines    []string
	hash     uint64

	mu         sync.Mutex
	free       bool // the gates stand open
	parked     []*parked
	tasks      []*task
	active     int
	byActivity map[string][]*task
	cards      []card
	inChat     map[string]int // cards of a conversation
	violations []string
}

// fate is how hard a run is: each seed has another mixture.
type fate struct {
	store, tokens, connector, callback float64 // chance of a fault at a gate
	kill, outage, wait                 float64 // chance per step
}

// node is one instance of the engine.
type node struct {
	w           *world
	name        string
	eng         *machine.Engine
	dead        bool
	storeFaults int
	errors      map[string]int // reported, by what is said of them

	popup              *popup.Popup // nil for a world without message extensions
	ofPopup, ofService *composeext.Extension
}

// card is what a user sees. Its activity's id is unique in its conversation
// only.
type card struct {
	user, connection, exchange, activity, chat string
	last                                       string // SSO token that its clients sent last
}

func newWorld(seed uint64, mut *mutation, on *table.Table) *world {
	w := &world{
		rng: rand.New(rand.NewPCG(seed, 0x5163696e)), mut: mut, table: on, byActivity: map[string][]*task{},
		home: map[string]string{}, noSSO: map[string]bool{}, plain: map[string]bool{}, inChat: map[string]int{},
		policy: machine.DefaultPolicy(), timeouts: machine.DefaultTimeouts(),
	}
	w.mem = memstore.New(time.Now)
	w.model, w.twin = newModel(w), newTwin(w)
	r := w.rng
	for i := range 1 + r.IntN(3) {
		user := "29:" + string(rune('a'+i))
		w.users = append(w.users, user)
		w.home[user] = "personal"
		if r.IntN(8) == 0 {
			w.home[user] = []string{"groupChat", "channel"}[r.IntN(2)]
		}
	}
	if r.IntN(2) == 0 {
		w.room = []string{"groupChat", "groupChat", "channel"}[r.IntN(3)]
	}
	for i := range 1 + r.IntN(3) {
		c := "Conn" + strconv.Itoa(i)
		w.connections = append(w.connections, c)
		w.noSSO[c] = r.IntN(5) == 0
		w.plain[c] = r.IntN(12) == 0
	}
	// Swarm testing: a run without kills goes deeper than one with all of it.
	some := func(p float64) float64 { return p * float64(r.IntN(3)) / 2 }
	w.fate = fate{
		store: some(0.06), tokens: some(0.2), connector: some(0.3), callback: some(0.3),
		kill: some(0.02), outage: some(0.01), wait: 0.02 + some(0.12),
	}
	w.once, w.stubborn = r.IntN(4) == 0, r.IntN(12) == 0
	if r.IntN(3) == 0 {
		w.bend(r)
	}
	if r.IntN(2) == 0 {
		w.ext = newExtension(w)
	}
	if mut != nil && mut.policy != nil {
		mut.policy(&w.policy)
	}
	for range 1 + r.IntN(3) {
		w.boot()
	}
	return w
}

// bend turns a policy or two away from its default.
func (w *world) bend(r *rand.Rand) {
	p := &w.policy
	for range 1 + r.IntN(2) {
		switch r.IntN(14) {
		case 0:
			p.DuplicateWait = 0
		case 1:
			p.FailedDuplicate = machine.Noop
		case 2:
			p.LateInvoke = machine.Reject
		case 3:
			p.ResendCooldown = 20 * time.Second
		case 4:
			p.MaxCodeTries = 2
		case 5:
			p.OnSilentError = machine.CardAnyway
		case 6:
			p.CombinedLookup = true
		case 7:
			p.PopupClosed = machine.Fail
		case 8:
			p.FailureFanout = machine.All
		case 9:
			p.IdentityMismatch = machine.Reject
		case 10:
			p.GroupChat = machine.OneToOne
		case 11:
			p.GroupCard = machine.Everyone
		case 12:
			p.GroupSSO = false
		case 13:
			p.SuccessBody = machine.Echo
		}
	}
}

// boot starts an instance.
func (w *world) boot() {
	w.born++
	n := &node{w: w, name: "bot-" + strconv.Itoa(w.born), errors: map[string]int{}}
	gate := &gateStore{Store: w.mem, n: n}
	var st store.Store = gate
	var tokens machine.TokenService = &gateTokens{n: n}
	if w.mut != nil && w.mut.store != nil {
		st = w.mut.store(gate)
	}
	if w.mut != nil && w.mut.tokens != nil {
		tokens = w.mut.tokens(tokens)
	}
	cfg := machine.Config{
		AppID: "app", Store: st, Tokens: tokens, Messenger: &gateMessenger{n: n},
		Policy: &w.policy, Timeouts: &w.timeouts, Instance: n.name,
		Log: zerolog.New(logWriter{n}), Hooks: machine.Hooks{
			OnEvent: func(_ context.Context, e store.Event) {
				if e.Kind != store.EventTransition {
					return
				}
				n.enter(context.Background(), atHook, "OnTransition", w.number(e.Attempt)+" v"+strconv.FormatInt(e.Version, 10)+" "+e.Row+" "+string(e.To))
			},
			OnError: func(ctx context.Context, _ *machine.Activity, err error) {
				about := taskOf(ctx) + " " + w.renumber(err.Error())
				w.mu.Lock()
				n.errors[about]++
				about += " #" + strconv.Itoa(n.errors[about])
				w.mu.Unlock()
				n.enter(ctx, atHook, "OnError", about)
			},
		},
	}
	for _, c := range w.connections {
		cfg.Connections = append(cfg.Connections, machine.Connection{Name: c, NoSSO: w.plain[c]})
	}
	if w.ext != nil {
		cfg.Connections = append(cfg.Connections, machine.Connection{Name: own, Tokens: n.extend()})
	}
	eng, err := machine.NewWith(cfg, w.table)
	if err != nil {
		panic(err)
	}
	if w.mut != nil && w.mut.engine != nil {
		w.mut.engine(eng)
	}
	n.eng = eng
	eng.OnSignIn(func(ctx context.Context, turn *machine.Turn, tok tokensvc.Token) error {
		return n.callback(ctx, turn, "", &tok)
	})
	eng.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, _ *machine.Failure) error {
		return n.callback(ctx, turn, "", nil)
	})
	if w.ext != nil {
		n.attach()
	}
	for _, c := range cfg.Connections {
		c := c.Name
		f, err := eng.Flow(c)
		if err != nil {
			panic(err)
		}
		f.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, tok tokensvc.Token) error {
			return n.callback(ctx, turn, c, &tok)
		})
		f.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, _ *machine.Failure) error {
			return n.callback(ctx, turn, c, nil)
		})
	}
	w.nodes = append(w.nodes, n)
}

// logWriter looks for secrets in the engine's log.
type logWriter struct{ n *node }

func (l logWriter) Write(b []byte) (int, error) {
	l.n.w.mu.Lock()
	defer l.n.w.mu.Unlock()
	l.n.w.model.secret("the log", b)
	return len(b), nil
}

// kill ends an instance for good: where its goroutines stand they stay, but
// for their deferred functions.
func (w *world) kill(n *node) {
	w.mu.Lock()
	n.dead = true
	var left []*parked
	for _, p := range w.parked {
		if p.node == n {
			p.resume <- verdict{kill: true}
		} else {
			left = append(left, p)
		}
	}
	w.parked = left
	for _, t := range w.tasks {
		if t.node == n && !t.done {
			t.done = true
			w.active--
		}
	}
	w.nodes = slices.DeleteFunc(w.nodes, func(o *node) bool { return o == n })
	w.mu.Unlock()
}

// number is the attempt's number in the order of insertion.
func (w *world) number(id string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.model.name(id)
}

// renumber writes #n for an attempt's id, which is another in every run.
func (w *world) renumber(s string) string { return ulids.ReplaceAllStringFunc(s, w.number) }

// renumberHeld is renumber where w.mu is held.
func (w *world) renumberHeld(s string) string { return ulids.ReplaceAllStringFunc(s, w.model.name) }

var ulids = regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{26}`)

// blame is violate where w.mu is not held.
func (w *world) blame(invariant, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violate(invariant, format, args...)
}

// broken says whether an invariant is broken.
func (w *world) broken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

// violate notes a broken invariant. w.mu is held.
func (w *world) violate(invariant, format string, args ...any) {
	line := invariant + ": " + fmt.Sprintf(format, args...)
	w.violations = append(w.violations, line)
	w.trace("!!! invariant %s", line)
}

func (w *world) trace(format string, args ...any) {
	if w.tracing {
		w.lines = append(w.lines, fmt.Sprintf(format, args...))
	}
}

// did is a line of the trace that counts for its hash.
func (w *world) did(parts ...string) {
	h := fnv.New64a()
	_, _ = h.Write(strconv.AppendUint(nil, w.hash, 16))
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	w.hash = h.Sum64()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tracing {
		at := time.Since(epoch).Truncate(time.Millisecond)
		w.lines = append(w.lines, fmt.Sprintf("%4d %12s  %s", w.steps, at, strings.Join(parts, " ")))
	}
}

// epoch is when every bubble of testing/synctest begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// maxActive bounds how much goes on at once.
const maxActive = 6

// chaos runs the scheduler for so many steps.
func (w *world) chaos(steps int) {
	for range steps {
		w.settle()
		if len(w.violations) > 0 {
			return
		}
		w.steps++
		w.choose()
	}
}

// settle lets a moment pass, so that no two steps share an instant, and waits
// until every goroutine stands still.
func (w *world) settle() {
	time.Sleep(time.Millisecond + time.Duration(w.rng.Int64N(int64(time.Millisecond))))
	synctest.Wait()
}

func (w *world) choose() {
	r := w.rng
	w.mu.Lock()
	slices.SortFunc(w.parked, func(a, b *parked) int { return strings.Compare(a.key, b.key) })
	for i := 1; i < len(w.parked); i++ {
		if w.parked[i].key == w.parked[i-1].key {
			w.violate("replay", "two goroutines at %s: the seed cannot tell them apart", w.parked[i].key)
		}
	}
	waiting, active := len(w.parked), w.active
	w.mu.Unlock()
	switch dice := r.Float64(); {
	case dice < w.fate.kill && len(w.nodes) > 0:
		n := w.nodes[r.IntN(len(w.nodes))]
		w.did("kill", n.name)
		w.kill(n)
	case dice < w.fate.kill+w.fate.outage:
		w.outage()
	case len(w.nodes) == 0 || len(w.nodes) < 3 && r.IntN(40) == 0:
		w.boot()
		w.did("boot", w.nodes[len(w.nodes)-1].name)
	case r.Float64() < w.fate.wait:
		w.pass()
	case waiting > 0 && (active >= maxActive || r.IntN(100) < 78):
		w.mu.Lock()
		p := w.parked[r.IntN(len(w.parked))]
		w.mu.Unlock()
		w.release(p, w.verdictOn(p))
	case active < maxActive:
		w.act()
	default:
		w.pass()
	}
}

// pass lets time go by, mostly little, sometimes past every lease and expiry.
func (w *world) pass() {
	d := []time.Duration{
		50 * time.Millisecond, time.Second, time.Second, 3500 * time.Millisecond, 3500 * time.Millisecond,
		11 * time.Second, 11 * time.Second, 31 * time.Second, 31 * time.Second, 65 * time.Second, 5 * time.Minute, 16 * time.Minute,
	}[w.rng.IntN(12)]
	w.did("pass", d.String())
	time.Sleep(d)
}

func (w *world) outage() {
	if w.rng.IntN(2) == 0 {
		w.storeOff = !w.storeOff
		w.did("store off", strconv.FormatBool(w.storeOff))
		return
	}
	w.tokenOff = !w.tokenOff
	w.did("token service off", strconv.FormatBool(w.tokenOff))
}

// upstreamStatuses are what a token service in trouble answers; 0 is nothing.
var upstreamStatuses = []int{0, 0, 400, 401, 403, 404, 409, 412, 429, 500, 502, 503, 503}

// verdictOn decides what a call comes to.
func (w *world) verdictOn(p *parked) verdict {
	r := w.rng
	v := verdict{}
	if p.late {
		v.fault = []fault{failed, lost}[r.IntN(2)]
		return v
	}
	switch p.at {
	case atRead:
		if w.storeOff || r.Float64() < w.fate.store {
			v.fault = failed
		}
	case atWrite:
		switch {
		case p.alone:
		case w.storeOff:
			v.fault = failed
		case r.Float64() < w.fate.store:
			v.fault = []fault{failed, lost}[r.IntN(2)]
		}
	case atTokens:
		switch {
		case w.tokenOff:
			v.fault, v.status = failed, []int{0, 503}[r.IntN(2)]
		case r.Float64() < w.fate.tokens:
			v.fault = []fault{failed, failed, lost}[r.IntN(3)]
			v.status = upstreamStatuses[r.IntN(len(upstreamStatuses))]
		}
	case atConnector:
		if r.Float64() < w.fate.connector {
			v.fault = []fault{failed, lost}[r.IntN(2)]
			v.status = []int{0, 400, 403, 412, 429, 500, 502}[r.IntN(7)]
		}
	case atCallback:
		if r.Float64() < w.fate.callback {
			v.fault = []fault{failed, lost}[r.IntN(2)]
			v.status = []int{0, 0, 0, http.StatusForbidden, http.StatusTooManyRequests}[r.IntN(5)]
		}
	case atHook:
	}
	return v
}

// release lets one goroutine go on.
func (w *world) release(p *parked, v verdict) {
	what := ""
	if v.fault != sound || p.late {
		what = fmt.Sprintf("fault=%d status=%d late=%v", v.fault, v.status, p.late)
	}
	w.did(p.key, what)
	w.mu.Lock()
	w.parked = slices.DeleteFunc(w.parked, func(o *parked) bool { return o == p })
	w.mu.Unlock()
	p.resume <- v
}

// showCard puts a card on the user's screen. w.mu is held.
func (w *world) showCard(t *task, to store.Conversation, m *machine.Message) string {
	c := m.Card
	w.inChat[to.ID]++
	k := card{user: to.UserID, connection: c.Connection, activity: fmt.Sprintf("card-%d", w.inChat[to.ID]), chat: to.ID}
	if res := c.Resource.TokenExchangeResource; res != nil {
		k.exchange = res.ID
	}
	t.shown++
	w.judgeCard(t, to, m, k.exchange)
	w.cards = append(w.cards, k)
	return k.activity
}

// callback is the bot's own code: the handler of a connection, or that of all of
// them.
func (n *node) callback(ctx context.Context, turn *machine.Turn, connection string, tok *tokensvc.Token) error {
	w := n.w
	key := w.deliveryKey(turn.DeliveryKey())
	w.mu.Lock()
	nth := w.model.started(n, w.task(ctx), turn, key, connection)
	ctx = context.WithValue(ctx, runKey{}, fmt.Sprintf("%s run %d", w.model.key(key), nth))
	w.mu.Unlock()
	about := connection + " " + w.number(key.Attempt) + " " + string(key.Kind) + strconv.Itoa(key.Round)
	v := n.enter(ctx, atCallback, "callback", taskOf(ctx)+" "+about)
	w.judgeToken(turn, connection, tok)
	if w.stubborn && connection != "" {
		return errors.New("the handler never succeeds")
	}
	if err := w.mishap(key, v); err != nil {
		return err
	}
	if w.once && key.Attempt != "" && connection != "" {
		if err := n.onlyOnce(ctx, key, connection, about); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.model.ended(turn, key)
	return nil
}

// mishap is how a handler fails.
func (w *world) mishap(key store.DeliveryKey, v verdict) error {
	switch {
	case v.fault == sound:
		return nil
	case v.fault == lost:
		panic("the handler panics")
	case v.status == http.StatusTooManyRequests:
		return fmt.Errorf("send: %w", &machinetest.Refusal{Op: "Send", With: v.status, After: 5 * time.Second})
	case v.status == http.StatusForbidden:
		w.mu.Lock()
		defer w.mu.Unlock()
		if o := w.model.owed[key]; o != nil {
			o.final = true
		}
		return machine.Permanent(errors.New("the user has blocked the bot"))
	default:
		return errors.New("the handler failed")
	}
}

// onlyOnce is a handler that must not have its effect twice.
func (n *node) onlyOnce(ctx context.Context, key store.DeliveryKey, connection, about string) error {
	w := n.w
	name := key.String() + "/" + connection
	return n.eng.Once(ctx, name, func(ctx context.Context) error {
		w.mu.Lock()
		w.model.onceBegins(name)
		w.mu.Unlock()
		return w.mishap(key, n.enter(ctx, atCallback, "once", taskOf(ctx)+" "+about))
	})
}

// judgeToken looks at the token that a handler got.
func (w *world) judgeToken(turn *machine.Turn, connection string, tok *tokensvc.Token) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case tok == nil:
	case tok.Token.Empty():
		if !turn.Proactive() {
			w.violate("callback", "a live callback without a token")
		}
	case strings.HasPrefix(tok.Token.Reveal(), staleToken):
		w.violate("token", "a callback with a token that has expired")
	case !strings.HasPrefix(tok.Token.Reveal(), tokenOf(owner(turn.Conversation().UserID, connection))),
		connection != "" && tok.Token.Reveal() != tokenOf(owner(turn.Conversation().UserID, connection)):
		w.violate("10", "a callback with another's token")
	}
}

func (w *world) deliveryKey(s string) store.DeliveryKey {
	parts := strings.Split(s, "/")
	if len(parts) != 3 {
		return store.DeliveryKey{}
	}
	round, _ := strconv.Atoi(parts[2])
	return store.DeliveryKey{Attempt: parts[0], Kind: store.DeliveryKind(parts[1]), Round: round}
}
