package machinetest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// world is the environment of one scenario.
type world struct {
	build  Build
	mem    *memstore.Store
	store  *faultStore
	tokens *TokenService
	conn   *Connector
	config machine.Config
	names  []string // of connections
	own    []string // connections whose users the bot signs in itself
	direct []string // connections whose SSO tokens the bot exchanges itself
	engine map[string]*machine.Engine

	mu         sync.Mutex
	procs      map[string]*process // the newest of each instance
	killAt     map[string]string   // instance -> the row after which it dies
	out        []string
	ids        map[string]int // attempt id -> #n
	seq        int            // activities sent
	waiting    map[string]chan string
	fails      map[string]int          // callbacks that fail: name -> how often
	failsWith  map[string]error        // … and how
	appLevel   bool                    // the bot has handlers for all connections
	withoutSSO map[string]bool         // connections with NoSSO
	running    map[string]func() error // ends Run of an instance
	panics     map[string]int          // callbacks that panic: name -> how often
	slow       map[string]time.Duration
	gates      map[string]chan struct{}
}

func newWorld(build Build) *world {
	w := &world{build: build, ids: map[string]int{}, engine: map[string]*machine.Engine{}, panics: map[string]int{}, waiting: map[string]chan string{}, fails: map[string]int{}, failsWith: map[string]error{}, withoutSSO: map[string]bool{}, running: map[string]func() error{}, slow: map[string]time.Duration{}}
	w.procs, w.killAt = map[string]*process{}, map[string]string{}
	w.mem = memstore.New(time.Now)
	w.store = &faultStore{Store: w.mem}
	w.tokens = NewTokenService(w.say)
	w.conn = NewConnector(w.say)
	w.names = []string{"graph"}
	policy, timeouts := machine.DefaultPolicy(), machine.DefaultTimeouts()
	w.config = machine.Config{
		AppID: "app", Store: w.store, Tokens: w.tokens, Messenger: w.conn,
		Policy: &policy, Timeouts: &timeouts, Log: zerolog.Nop(),
		Hooks: machine.Hooks{OnEvent: func(_ context.Context, e store.Event) {
			if e.Kind != store.EventTransition {
				return
			}
			line := fmt.Sprintf("#%d %s → %s  %s", w.number(e.Attempt), stateName(e.From), stateName(e.To), e.Row)
			if e.From == e.To {
				line = fmt.Sprintf("#%d %s, changed in place  %s", w.number(e.Attempt), e.To, e.Row)
			}
			if e.To.Terminal() && e.From != e.To {
				line += "  " + e.Detail
			}
			w.say("%s", line)
			w.dieAt(e.Instance, e.Row)
		}},
	}
	return w
}

func stateName(s store.State) string {
	if s == store.None {
		return "(new)"
	}
	return string(s)
}

func (w *world) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = append(w.out, fmt.Sprintf(format, args...))
}

func (w *world) number(id string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ids[id] == 0 {
		w.ids[id] = len(w.ids) + 1
	}
	return w.ids[id]
}

// on returns the engine of an instance, made at first use.
func (w *world) on(instance string) *machine.Engine {
	if e := w.engine[instance]; e != nil && !w.process(instance).killed() {
		return e
	}
	cfg := w.config
	cfg.Instance = instance
	p := newProcess()
	cfg.Store = processStore{Store: w.store, p: p}
	cfg.Tokens = processTokens{svc: w.tokens, p: p}
	cfg.Messenger = processConnector{conn: w.conn, p: p}
	cfg.Connections = nil
	for _, n := range w.names {
		conn := machine.Connection{Name: n, NoSSO: w.withoutSSO[n]}
		if slices.Contains(w.direct, n) {
			conn.Tokens = direct{cfg.Tokens}
		}
		cfg.Connections = append(cfg.Connections, conn)
	}
	for _, n := range w.own {
		cfg.Connections = append(cfg.Connections, machine.Connection{Name: n, Tokens: &popup{w: w, store: cfg.Store}})
	}
	e, err := w.build(cfg)
	if err != nil {
		w.fail("engine: %v", err)
	}
	for _, n := range w.names {
		f, err := e.Flow(n)
		if err != nil {
			w.fail("flow: %v", err)
		}
		f.OnSignInComplete(func(ctx context.Context, turn *machine.Turn, tok tokensvc.Token) error {
			what := "with the token"
			if tok.Token.Empty() {
				what = "the token is gone"
			}
			return w.callback(ctx, p, turn, "complete", fmt.Sprintf("OnSignInComplete %s, %s", n, what))
		})
		f.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, fail *machine.Failure) error {
			return w.callback(ctx, p, turn, "failure", fmt.Sprintf("OnSignInFailure %s, %s", n, failed(turn, fail)))
		})
	}
	if w.appLevel {
		e.OnSignIn(func(ctx context.Context, turn *machine.Turn, _ tokensvc.Token) error {
			return w.callback(ctx, p, turn, "app", "OnSignIn of the bot")
		})
		e.OnSignInFailure(func(ctx context.Context, turn *machine.Turn, fail *machine.Failure) error {
			return w.callback(ctx, p, turn, "app", "OnSignInFailure of the bot, "+failed(turn, fail))
		})
	}
	w.engine[instance] = e
	w.mu.Lock()
	w.procs[instance] = p
	w.mu.Unlock()
	return e
}

// failed formats the arguments of a failure handler.
func failed(turn *machine.Turn, fail *machine.Failure) string {
	if fail != nil {
		return "client: " + fail.Code
	}
	what := "server side"
	if r := turn.Refusal(); r != nil {
		what += fmt.Sprintf(" (%s: %d", r.Operation, r.Status)
		for _, more := range []string{r.Code, r.Kind} {
			if more != "" {
				what += " " + more
			}
		}
		what += ")"
	}
	if o := turn.Origin(); o == store.OriginCompose || o == store.OriginCardAction {
		what += ", origin " + string(o)
	}
	return what
}

// handlerError is the error of the bot's handlers: callbacks complete fail=1
// status=403 code=ConversationBlockedByUser, or permanent=true.
func handlerError(c command) error {
	status, _ := strconv.Atoi(c.opt("status", "0"))
	wait, _ := time.ParseDuration(c.opt("retry-after", "0s"))
	switch {
	case status != 0:
		return fmt.Errorf("send: %w", &Refusal{Op: "Send", With: status, Code: c.opt("code", ""), After: wait})
	case c.opt("permanent", "") == "true":
		return machine.Permanent(errors.New("the handler gives up"))
	default:
		return errors.New("the handler failed")
	}
}

// runEngine starts Run of an instance; stopEngine ends it and waits.
func (w *world) runEngine(_ context.Context, c command) string {
	instance := c.opt("on", "a")
	e := w.on(instance)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	w.running[instance] = func() error { cancel(); return <-done }
	go func() { done <- e.Run(ctx) }()
	settle()
	return ""
}

func (w *world) stopEngine(_ context.Context, c command) string {
	stop := w.running[c.opt("on", "a")]
	delete(w.running, c.opt("on", "a"))
	if stop == nil {
		return "not running"
	}
	if err := stop(); err != nil {
		return "error: " + w.renumber(err.Error())
	}
	return ""
}

// process is the newest of an instance, nil if there was none yet.
func (w *world) process(instance string) *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[instance]
}

// kill ends a process, at once or right after a row has become durable:
// kill a, kill a at=B2. The next command for the instance starts a new one.
func (w *world) kill(_ context.Context, c command) string {
	if row := c.opt("at", ""); row != "" {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.killAt[c.word(0)] = row
		return ""
	}
	if p := w.process(c.word(0)); p != nil {
		p.kill()
	}
	return ""
}

func (w *world) dieAt(instance, row string) {
	w.mu.Lock()
	p, at := w.procs[instance], w.killAt[instance]
	if at == row {
		delete(w.killAt, instance)
	}
	w.mu.Unlock()
	if at == row && p != nil {
		p.kill()
	}
}

func (w *world) callback(ctx context.Context, p *process, turn *machine.Turn, kind, line string) error {
	if p.killed() {
		return errGone
	}
	if key := turn.DeliveryKey(); key != "" {
		id, rest, _ := strings.Cut(key, "/")
		line += fmt.Sprintf("  [#%d/%s]", w.number(id), rest)
	}
	if asked := turn.Request(); asked != nil {
		line += "  asked with " + string(asked)
	}
	if turn.Proactive() {
		line += "  (no live turn)"
		if url := turn.Conversation().ServiceURL; url != serviceURL {
			line += " by way of " + url
		}
	}
	w.mu.Lock()
	slow := w.slow[kind]
	fail := w.fails[kind] > 0
	if fail {
		w.fails[kind]--
	}
	panics := w.panics[kind] > 0
	if panics {
		w.panics[kind]--
	}
	w.mu.Unlock()
	if slow > 0 {
		w.say("callback %s begins", line)
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			w.say("callback %s: out of time", line)
			return ctx.Err()
		case <-p.gone:
			return errGone
		}
	}
	if panics {
		w.say("callback %s: the handler panics", line)
		panic("the handler panicked")
	}
	if fail {
		w.say("callback %s: the handler fails", line)
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.failsWith[kind]
	}
	w.say("callback %s", line)
	return nil
}

// command is one line of a scenario: a verb, plain words, key=value pairs.
type command struct {
	verb  string
	words []string
	opts  map[string]string
}

func parse(line string) command {
	c := command{opts: map[string]string{}}
	for i, f := range strings.Fields(line) {
		k, v, ok := strings.Cut(f, "=")
		switch {
		case i == 0:
			c.verb = f
		case ok:
			c.opts[k] = v
		default:
			c.words = append(c.words, f)
		}
	}
	return c
}

func (c command) opt(key, fallback string) string {
	if v, ok := c.opts[key]; ok {
		return v
	}
	return fallback
}

func (c command) word(i int) string {
	if i < len(c.words) {
		return c.words[i]
	}
	return ""
}

// run runs one command and returns its final output.
func (w *world) run(ctx context.Context, line string) string {
	c := parse(line)
	if c.verb == "start" { // start NAME verb …: goes on in the background
		name := c.word(0)
		_, rest, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "start")), " ")
		done := make(chan string, 1)
		w.waiting[name] = done
		w.on(parse(rest).opt("on", "a"))
		go func() {
			said := ""
			if err := playing(func() { said = w.run(ctx, rest) }); err != nil {
				said = err.Error()
			}
			done <- said
		}()
		settle()
		return ""
	}
	do, ok := verbs()[c.verb]
	if !ok {
		w.fail("unknown verb %q", c.verb)
	}
	instance := c.opt("on", "a")
	p := w.process(instance)
	ran := p != nil && !p.killed()
	said := do(w, ctx, c)
	if !ran {
		p = w.process(instance)
	}
	if said != "" && p != nil && p.killed() {
		return "no answer: " + errGone.Error()
	}
	return said
}

func verbs() map[string]func(*world, context.Context, command) string {
	return map[string]func(*world, context.Context, command) string{
		"connections": func(w *world, _ context.Context, c command) string { w.names = c.words; return "" },
		"nosso": func(w *world, _ context.Context, c command) string {
			for _, n := range c.words {
				w.tokens.noSSO[strings.ToLower(n)] = true
			}
			return ""
		},
		"prefetch":    func(w *world, _ context.Context, c command) string { w.config.Prefetch = c.words; return "" },
		"policy":      (*world).policy,
		"upstream":    (*world).upstream,
		"card":        (*world).card,
		"chat":        (*world).card,
		"exclusive":   func(w *world, _ context.Context, _ command) string { w.store.exclusive = true; return "" },
		"run":         (*world).runEngine,
		"stop":        (*world).stopEngine,
		"apphandlers": func(w *world, _ context.Context, _ command) string { w.appLevel = true; return "" },
		"connection": func(w *world, _ context.Context, c command) string { // connection graph sso=false
			w.withoutSSO[c.word(0)] = c.opt("sso", "true") == "false"
			return ""
		},
		"damage":  func(w *world, _ context.Context, c command) string { w.mem.Damage(w.id(c.word(0))); return "" },
		"hold":    (*world).hold,
		"release": (*world).release,
		"token": func(w *world, _ context.Context, c command) string { // the user got a token in another way
			w.tokens.tokens[owner(user(c), c.word(0))] = true
			return ""
		},
		"code": func(w *world, _ context.Context, c command) string { // the popup handed out a code
			w.tokens.codes[c.word(0)] = owner(user(c), c.opt("for", w.names[0]))
			return ""
		},
		"down":  func(w *world, _ context.Context, _ command) string { w.tokens.down = true; return "" },
		"up":    func(w *world, _ context.Context, _ command) string { w.tokens.down = false; return "" },
		"store": (*world).disturb,
		"ready": func(w *world, ctx context.Context, c command) string {
			if err := w.on(c.opt("on", "a")).Ready(ctx); err != nil {
				return "not ready: " + err.Error()
			}
			return "ready"
		},
		"callbacks": func(w *world, _ context.Context, c command) string { // callbacks complete fail=2 panic=1 slow=7s
			w.mu.Lock()
			defer w.mu.Unlock()
			w.fails[c.word(0)], _ = strconv.Atoi(c.opt("fail", "0"))
			w.failsWith[c.word(0)] = handlerError(c)
			w.panics[c.word(0)], _ = strconv.Atoi(c.opt("panic", "0"))
			w.slow[c.word(0)], _ = time.ParseDuration(c.opt("slow", "0s"))
			return ""
		},
		"kill":     (*world).kill,
		"signin":   (*world).signIn,
		"signout":  (*world).signOut,
		"rejected": (*world).rejected,
		"exchange": (*world).exchange,
		"verify":   (*world).verify,
		"failure":  (*world).failure,
		"invoke":   (*world).invoke,
		"wait":     (*world).wait,
		"message":  (*world).message,
		"event":    (*world).event,
		"ask":      (*world).ask,
		"issue":    (*world).issue,
		"own": func(w *world, _ context.Context, c command) string { // own wiki: the bot signs its users in itself
			w.own = c.words
			return ""
		},
		"direct": func(w *world, _ context.Context, c command) string { // direct graph: the bot exchanges its SSO tokens itself
			w.direct = c.words
			return ""
		},
		"advance":   (*world).advance,
		"sweep":     (*world).sweep,
		"deliver":   (*world).deliver,
		"reconcile": (*world).operate,
		"cancel":    (*world).operate,
		"redeliver": (*world).operate,
		"purge":     (*world).purge,
		"show":      (*world).show,
		"outbox":    (*world).outbox,
		"watch":     (*world).watch,
		"answers":   (*world).answers,
		"audit":     (*world).audit,
	}
}

// serviceURL is the default service URL of activities.
const serviceURL = "https://smba.example/"

func user(c command) string { return "29:" + c.opt("as", "alice") }

// activity is one that a user's client sends.
func (w *world) activity(c command, kind, name string, value any) *machine.Activity {
	w.mu.Lock()
	w.seq++
	n := w.seq
	w.mu.Unlock()
	a := &machine.Activity{
		Type: kind, Name: name, ID: c.opt("message", fmt.Sprintf("activity-%d", n)), ReplyToID: c.opt("reply", ""), Platform: c.opt("device", "Web"),
		Conversation: store.Conversation{
			ServiceURL: c.opt("url", serviceURL), Channel: c.opt("channel", "msteams"), ID: c.opt("chat", "chat-"+c.opt("as", "alice")),
			Type: c.opt("type", "personal"), Tenant: "tenant", BotID: "28:app", UserID: user(c), UserAAD: "aad-" + c.opt("as", "alice"),
		},
	}
	if text := c.opt("text", ""); text != "" {
		a.Text = text
		a.Raw = json.RawMessage(`{"text":"` + text + `"}`)
	}
	if value != nil {
		raw, err := json.Marshal(value)
		if err != nil {
			w.fail("%v", err)
		}
		a.Value = raw
	}
	return a
}

func (w *world) signIn(ctx context.Context, c command) string {
	e := w.on(c.opt("on", "a"))
	turn := e.Turn(w.activity(c, "message", "", nil))
	tok, err := turn.SignIn(ctx, machine.WithConnection(c.word(0)))
	switch {
	case err != nil:
		return "error: " + w.renumber(err.Error())
	case !tok.SignedIn():
		return "pending: " + string(tok.Pending)
	default:
		return "token"
	}
}

// message is a message that the user types. The engine may treat it as a code.
func (w *world) message(ctx context.Context, c command) string {
	e := w.on(c.opt("on", "a"))
	act := w.activity(c, "message", "", nil)
	act.Text = c.word(0)
	return before(ctx, e, act)
}

// event is an event from the channel: event tokens/response {"connectionName":"graph"}.
func (w *world) event(ctx context.Context, c command) string {
	return before(ctx, w.on(c.opt("on", "a")), w.activity(c, "event", c.word(0), json.RawMessage(c.word(1))))
}

func before(ctx context.Context, e *machine.Engine, act *machine.Activity) string {
	turn := e.Turn(act)
	if e.Before(ctx, turn) {
		return "taken"
	}
	said := "the bot sees it"
	for _, c := range e.Connections() {
		if _, ok := turn.UserToken(c.Name); ok {
			said += ", with the token of " + c.Name
		}
	}
	return said
}

func (w *world) signOut(ctx context.Context, c command) string {
	turn := w.on(c.opt("on", "a")).Turn(w.activity(c, "message", "", nil))
	var err error
	if c.word(0) == "all" {
		err = turn.SignOutAll(ctx)
	} else {
		err = turn.SignOut(ctx, c.word(0))
	}
	if err != nil {
		return "error: " + w.renumber(err.Error())
	}
	return "signed out"
}

// rejected reports that an API answered 401 to the user's token.
func (w *world) rejected(ctx context.Context, c command) string {
	turn := w.on(c.opt("on", "a")).Turn(w.activity(c, "message", "", nil))
	if err := turn.TokenRejected(ctx, c.word(0)); err != nil {
		return "error: " + err.Error()
	}
	return ""
}

func (w *world) exchange(ctx context.Context, c command) string {
	return w.send(ctx, c, machine.InvokeTokenExchange, map[string]string{
		"id": c.opt("id", ""), "connectionName": c.opt("connection", w.names[0]), "token": ssoToken(c),
	})
}

// ssoToken is what the client sends: token=WORD or, if a claim is named, an
// unsigned JWT: aud=api://bot ver=1.0 oid=aad-bob tid=other azp=client exp=-1h.
func ssoToken(c command) string {
	claims := map[string]any{}
	for _, name := range []string{"aud", "ver", "oid", "tid", "azp"} {
		if v, ok := c.opts[name]; ok {
			claims[name] = v
		}
	}
	if d, err := time.ParseDuration(c.opt("exp", "")); err == nil {
		claims["exp"] = time.Now().Add(d).Unix()
	}
	if len(claims) == 0 {
		return c.opt("token", "jwt")
	}
	raw, _ := json.Marshal(claims)
	return "header." + base64.RawURLEncoding.EncodeToString(raw) + ".signature"
}

func (w *world) verify(ctx context.Context, c command) string {
	return w.send(ctx, c, machine.InvokeVerifyState, map[string]string{"state": c.word(0)})
}

func (w *world) failure(ctx context.Context, c command) string {
	return w.send(ctx, c, machine.InvokeFailure, map[string]string{"code": c.word(0), "message": "said the client"})
}

// invoke sends any value: invoke signin/verifyState {"state":null}.
func (w *world) invoke(ctx context.Context, c command) string {
	return w.send(ctx, c, c.word(0), json.RawMessage(c.word(1)))
}

func (w *world) send(ctx context.Context, c command, name string, value any) string {
	e, began := w.on(c.opt("on", "a")), time.Now()
	answer, ok := e.HandleInvoke(ctx, w.activity(c, "invoke", name, value))
	if !ok {
		return "not handled"
	}
	line := strconv.Itoa(answer.Status)
	if answer.RetryAfter > 0 {
		line += ", Retry-After " + answer.RetryAfter.String()
	}
	if answer.Body != nil {
		raw, err := json.Marshal(answer.Body)
		if err != nil {
			w.fail("%v", err)
		}
		line += " " + string(raw)
	}
	if took := time.Since(began).Truncate(time.Second); took > 0 {
		line += ", after " + took.String()
	}
	return line
}

func (w *world) wait(_ context.Context, c command) string {
	select {
	case said := <-w.waiting[c.word(0)]:
		return said
	case <-time.After(time.Hour):
		w.fail("%s does not end", c.word(0))
		return ""
	}
}

func (w *world) advance(_ context.Context, c command) string {
	d, err := time.ParseDuration(c.word(0))
	if err != nil {
		w.fail("%v", err)
	}
	time.Sleep(d)
	synctest.Wait()
	return ""
}

func (w *world) sweep(ctx context.Context, c command) string {
	if err := w.on(c.opt("on", "a")).Sweep(ctx); err != nil {
		return "error: " + err.Error()
	}
	return ""
}

func (w *world) deliver(ctx context.Context, c command) string {
	e := w.on(c.opt("on", "a"))
	// Run would already have flushed the deferred writes of the other instances.
	for _, name := range slices.Sorted(maps.Keys(w.engine)) {
		if other := w.engine[name]; !w.process(name).killed() {
			brief, cancel := context.WithTimeout(ctx, time.Microsecond) // does not wait for running callbacks
			_ = other.Drain(brief)
			cancel()
		}
	}
	if err := e.DeliverDue(ctx); err != nil {
		return "error: " + err.Error()
	}
	return ""
}

func (w *world) operate(ctx context.Context, c command) string {
	e := w.on(c.opt("on", "a"))
	id, op := w.id(c.word(0)), machine.Operator{Actor: "olga", Reason: "ticket-7"}
	var err error
	switch c.verb {
	case "reconcile":
		_, err = e.Reconcile(ctx, id, op)
	case "cancel":
		_, err = e.Cancel(ctx, id, op)
	case "redeliver":
		var n int
		n, err = e.Redeliver(ctx, id, op)
		if err == nil {
			return fmt.Sprintf("%d due again", n)
		}
	}
	if err != nil {
		return "error: " + w.renumber(err.Error())
	}
	return "done"
}

func (w *world) purge(ctx context.Context, c command) string {
	age, err := time.ParseDuration(c.word(0))
	if err != nil {
		w.fail("%v", err)
	}
	n, err := w.store.Purge(ctx, time.Now().Add(-age), 1000, false)
	if err != nil {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("%d purged", n)
}

// show prints every stored attempt.
func (w *world) show(ctx context.Context, _ command) string {
	w.flush(ctx)
	page, err := w.mem.List(ctx, store.Filter{Limit: 1000})
	if err != nil {
		w.fail("%v", err)
	}
	slices.SortFunc(page.Attempts, func(a, b store.Attempt) int { return w.number(a.ID) - w.number(b.ID) })
	for _, a := range page.Attempts {
		line := fmt.Sprintf("#%d %s %s %s, version %d", w.number(a.ID), strings.TrimPrefix(a.Key.User, "29:"), a.Key.Connection, a.State, a.Version)
		for _, part := range []string{string(a.Method), string(a.Reason)} {
			if part != "" {
				line += ", " + part
			}
		}
		if a.Origin != store.OriginSignIn {
			line += ", origin " + string(a.Origin)
		}
		if a.SSOOutcome != "" {
			line += ", SSO " + a.SSOOutcome
		}
		if f := a.Failure; f != nil {
			line += fmt.Sprintf(", last failure %s %s", f.Source, f.Operation)
			for _, more := range []string{status(f.Status), f.Code, f.Kind} {
				if more != "" {
					line += " " + more
				}
			}
		}
		if a.Diagnosis != (store.Diagnosis{}) {
			line += ", token " + diagnosis(a.Diagnosis)
		}
		if !a.NoSSOUntil.IsZero() {
			line += ", no SSO for " + time.Until(a.NoSSOUntil).Round(time.Hour).String()
		}
		if a.VerifyTries > 0 {
			line += fmt.Sprintf(", %d wrong codes", a.VerifyTries)
		}
		if a.DeliveryUnknown {
			line += ", delivery unknown"
		}
		if a.PopupClosed {
			line += ", popup closed"
		}
		if a.CardActivityID != "" {
			line += ", card " + a.CardActivityID
		}
		if a.Supersedes != "" {
			line += fmt.Sprintf(", after #%d", w.number(a.Supersedes))
		}
		if a.Generation > 0 {
			line += fmt.Sprintf(", generation %d", a.Generation)
		}
		for _, d := range page.Deliveries {
			if d.Attempt == a.ID {
				line += fmt.Sprintf(", %s/%d %s", d.Kind, d.Round, d.Status)
			}
		}
		w.say("%s", line)
	}
	return ""
}

func status(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// diagnosis names the checks that a token's claims fail.
func diagnosis(d store.Diagnosis) string {
	var bad []string
	for _, v := range []struct {
		name string
		v    store.Verdict
	}{{"audience", d.Audience}, {"version", d.Version}, {"tenant", d.Tenant}, {"user", d.User}, {"client", d.Client}, {"expiry", d.Fresh}} {
		if v.v == store.Fails {
			bad = append(bad, v.name)
		}
	}
	if len(bad) == 0 {
		return "as it should be"
	}
	return "fails on " + strings.Join(bad, ", ")
}

// audit prints the trail of one attempt, or the lines without an attempt.
func (w *world) audit(ctx context.Context, c command) string {
	w.flush(ctx)
	f := store.EventFilter{Orphans: true}
	if c.word(0) != "orphans" {
		f = store.EventFilter{Attempt: w.id(c.word(0))}
	}
	events, err := w.mem.Events(ctx, f)
	if err != nil {
		w.fail("%v", err)
	}
	for _, e := range events {
		parts := []string{string(e.Kind)}
		if e.From != e.To || e.Kind == store.EventTransition {
			parts = append(parts, stateName(e.From)+" → "+stateName(e.To))
		}
		for _, p := range []string{e.Invoke, e.Row} {
			if p != "" {
				parts = append(parts, w.renumber(p))
			}
		}
		if e.Status != 0 {
			parts = append(parts, strconv.Itoa(e.Status))
		}
		if e.Actor != "" {
			parts = append(parts, "by "+e.Actor)
		}
		if e.Detail != "" {
			parts = append(parts, "("+w.renumber(e.Detail)+")")
		}
		w.say("  %s", strings.Join(parts, " "))
	}
	return ""
}

func (w *world) flush(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(w.engine)) {
		if w.process(name).killed() {
			continue
		}
		if err := w.engine[name].Drain(ctx); err != nil {
			w.fail("%v", err)
		}
	}
}

func (w *world) id(number string) string {
	for id, n := range w.ids {
		if "#"+strconv.Itoa(n) == number {
			return id
		}
	}
	return "no-such-attempt"
}

// renumber replaces attempt ids by #n.
func (w *world) renumber(s string) string {
	return regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{26}`).ReplaceAllStringFunc(s, func(id string) string {
		return "#" + strconv.Itoa(w.number(id))
	})
}
