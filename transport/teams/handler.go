package teams

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// Ways to know that a request comes from the Bot Connector, as in
// [Config.InboundAuth].
const (
	// InboundAuthNone accepts every request. Loopback listeners only.
	InboundAuthNone = "none"
	// InboundAuthJWT checks the connector's token (docs/protocol.md §1) with
	// [Config.Authenticator].
	InboundAuthJWT = "jwt"
	// InboundAuthCustom uses [Config.Authenticate].
	InboundAuthCustom = "custom"
)

const (
	// MaxBody is the largest incoming activity in bytes, unless [Limits] say otherwise.
	// A longer one is answered 413.
	MaxBody = 1 << 20
	// DefaultTurnTimeout is the limit of one turn of the bot.
	DefaultTurnTimeout = 2 * time.Minute

	composePrefix = "composeExtension/"
	signInPrefix  = "signin/"
)

// Engine is the part of the machine that the handler uses; *machine.Engine implements
// it.
type Engine interface {
	// HandleInvoke answers the signin/* invokes; false = not one of them.
	HandleInvoke(ctx context.Context, a *machine.Activity) (machine.Answer, bool)
	// Turn gives the bot's own code its view of an activity.
	Turn(a *machine.Activity) *machine.Turn
	// Before handles an activity before the bot; true = the bot does not see it.
	Before(ctx context.Context, turn *machine.Turn) bool
}

// Bot is the bot's own code. It gets every activity that the engine does not
// answer.
//
// For an invoke the answer is sent unchanged; nil means that the bot does not know this
// invoke. An error or a panic is logged and answered 500, or 503 if the store is
// unavailable. For every other activity the answer is ignored, and the status is 200
// even after an error or a panic: on 5xx Teams would send the message again, and the
// bot would repeat what it did before the error.
//
// ctx ends after [Config.TurnTimeout], not when Teams closes the connection.
type Bot interface {
	OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error)
}

// BotFunc makes a function a [Bot].
type BotFunc func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error)

// OnActivity calls f.
func (f BotFunc) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	return f(ctx, turn)
}

// Config of a handler.
type Config struct {
	// InboundAuth is "jwt", "none" or "custom". Required: the absence of authentication
	// must be explicit.
	InboundAuth string
	// Authenticator checks the connector's tokens, for "jwt" only.
	Authenticator *Authenticator
	// Authenticate is the bot's own authentication, for "custom" only. It passes
	// requests to next, or answers them itself. next must still be able to read their
	// body.
	Authenticate func(next http.Handler) http.Handler
	// Listener is the address of the handler's listener. Without inbound authentication
	// it must be a loopback address; see [CheckListener].
	Listener string
	// ServiceURLs are the allowed service URLs of activities. nil = the connector's own
	// hosts.
	ServiceURLs *AllowList
	// TurnTimeout is the limit of one turn of the bot and of one invoke of the
	// engine. 0 = 2 min.
	TurnTimeout time.Duration
	// Limits of incoming requests. The zero value means the defaults.
	Limits Limits
	// Refusals counts and logs refused requests. nil = those of Authenticator, or
	// a count of its own.
	Refusals *Refusals
	// Log gets errors of the bot, a warning for each kind of refusal, and at debug
	// level one line per request without its content. The context of a turn has this
	// logger with the fields activity and ms_cv: see [zerolog.Ctx].
	Log zerolog.Logger
}

// NewHandler returns the bot's endpoint, POST /api/messages (docs/protocol.md §1). It
// answers:
//
//   - 200 to HEAD, 405 to any other method than POST;
//   - 401 without a reason to an unauthenticated request, and 503 with Retry-After
//     while there are no keys to check it;
//   - 413 to a body over [Limits.Body], 408 to one that did not arrive in time;
//   - 400 to a body that is no activity, and to an activity without from.id,
//     conversation.id or serviceUrl (the queries of message extensions need
//     from.id only [S 003]);
//   - 403 to a service URL that is not on the list, and to a browser's request from a
//     page of another origin: without inbound authentication every page that the user
//     visits could reach a loopback listener;
//   - 429 with Retry-After to a user who is over [Limits.SignInsPerMinute], and
//     503 with Retry-After when the queue of [Limits.Queue] is full;
//   - an invoke with the status and body of the engine, else of the bot, else
//     501; and any other activity with 200 and no body (see [Bot]);
//   - an activity whose deliveryMode is expectReplies with 200 and the bot's activities
//     of that turn: {"activities": […]}. The answer to an invoke is the last of them,
//     of type invokeResponse.
//
// The error names what is wrong with cfg.
func NewHandler(eng Engine, cfg Config, bot Bot) (http.Handler, error) {
	if eng == nil || bot == nil {
		return nil, errors.New("teams: handler: an engine and a bot are required")
	}
	if err := cfg.checkAuth(); err != nil {
		return nil, err
	}
	if cfg.TurnTimeout < 0 {
		return nil, errors.New("teams: handler: turn timeout is negative")
	}
	if cfg.TurnTimeout == 0 {
		cfg.TurnTimeout = DefaultTurnTimeout
	}
	if cfg.ServiceURLs == nil {
		cfg.ServiceURLs = &AllowList{rules: builtinRules()}
	}
	limits, err := cfg.Limits.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Refusals == nil && cfg.Authenticator != nil {
		cfg.Refusals = cfg.Authenticator.refusals
	}
	if cfg.Refusals == nil {
		cfg.Refusals = NewRefusals(cfg.Log)
	}
	h := &handler{
		engine:   eng,
		bot:      bot,
		auth:     cfg.Authenticator,
		allowed:  cfg.ServiceURLs,
		origins:  http.NewCrossOriginProtection(),
		intake:   newIntake(limits),
		users:    newUserLimits(limits.SignInsPerMinute),
		gate:     newGate(limits),
		refusals: cfg.Refusals,
		timeout:  cfg.TurnTimeout,
		log:      cfg.Log,
		logs:     cfg.Log.Log().Enabled(), //nolint:zerologlint // writes nothing; only asks whether it could
	}
	h.post = http.HandlerFunc(h.serve)
	if cfg.Authenticate != nil {
		h.post = cfg.Authenticate(h.post)
	}
	return h, nil
}

// checkAuth returns an error unless the kind of authentication is explicit and
// complete.
func (cfg *Config) checkAuth() error {
	jwt, custom := cfg.InboundAuth == InboundAuthJWT, cfg.InboundAuth == InboundAuthCustom
	switch {
	case !jwt && !custom && cfg.InboundAuth != InboundAuthNone:
		return fmt.Errorf("teams: inbound_auth: %q is not one of %q, %q, %q",
			cfg.InboundAuth, InboundAuthJWT, InboundAuthNone, InboundAuthCustom)
	case jwt != (cfg.Authenticator != nil):
		return fmt.Errorf("teams: inbound_auth: %q and an Authenticator need each other", InboundAuthJWT)
	case custom != (cfg.Authenticate != nil):
		return fmt.Errorf("teams: inbound_auth: %q and Authenticate need each other", InboundAuthCustom)
	case jwt, custom:
		return nil
	default:
		return CheckListener(cfg.Listener)
	}
}

type handler struct {
	engine   Engine
	bot      Bot
	auth     *Authenticator // nil: the handler checks no tokens
	post     http.Handler   // serve, behind Config.Authenticate if that is set
	allowed  *AllowList
	origins  *http.CrossOriginProtection
	intake   *intake
	users    *userLimits
	gate     *gate
	refusals *Refusals
	timeout  time.Duration
	log      zerolog.Logger
	logs     bool // the log is written somewhere
}

// ServeHTTP implements http.Handler; see [NewHandler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		h.post.ServeHTTP(w, r)
	case http.MethodHead:
		w.WriteHeader(http.StatusOK)
	default:
		w.Header().Set("Allow", "HEAD, POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// serve receives one activity and answers it.
func (h *handler) serve(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	in, f := h.receive(w, r)
	if f != nil {
		h.refuse(w, r, f, begun)
		return
	}
	defer in.release()
	if !h.gate.enter(r.Context()) {
		h.refuse(w, r, &refusal{why: WhyBusy, status: http.StatusServiceUnavailable, retryAfter: busyRetryAfter}, begun)
		return
	}
	defer h.gate.leave()
	// A caller who hangs up sends the activity again. Work on it continues
	// nevertheless, so that the repeat finds a result.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(in.context), h.timeout)
	defer cancel()
	a := in.activity
	a.Waited = time.Since(begun)
	ctx = h.logged(ctx, r, a)
	var expected *replies
	if a.ExpectReplies {
		ctx, expected = expecting(ctx, a)
	}
	answer := h.answer(ctx, a) //nolint:contextcheck // the request's context, except that it does not end with the request
	if expected != nil {
		answer = expected.answer(a, answer)
	}
	status := h.write(ctx, w, answer) //nolint:contextcheck // the same
	said := zerolog.Ctx(ctx)          //nolint:contextcheck // the same
	said.Debug().Str("type", a.Type).Str("name", a.Name).Int("status", status).
		Dur("duration", time.Since(begun)).Msg("activity")
}

// maxCorrelation bounds the length, in bytes, of a correlation id that is logged.
const maxCorrelation = 128

// logged returns ctx with a logger whose lines have the id of the activity, and
// the MS-CV header, by which Teams and its support identify the request.
func (h *handler) logged(ctx context.Context, r *http.Request, a *machine.Activity) context.Context {
	if !h.logs {
		return ctx // the engine uses its own log
	}
	with := h.log.With()
	if a.ID != "" {
		with = with.Str("activity", a.ID)
	}
	if cv := r.Header.Get("MS-CV"); cv != "" && len(cv) <= maxCorrelation {
		with = with.Str("ms_cv", cv)
	}
	return with.Logger().WithContext(ctx)
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, f *refusal, begun time.Time) {
	h.refusals.add(f)
	h.log.Debug().Err(f).Int("status", f.status).Dur("duration", time.Since(begun)).Msg("activity refused")
	f.answer(w, r)
}

// received is an activity that passed all checks.
type received struct {
	activity *machine.Activity
	context  context.Context //nolint:containedctx // of the request, with its caller
	release  func()
}

// receive reads and checks an activity. It checks the token before it reads any
// of the body.
func (h *handler) receive(w http.ResponseWriter, r *http.Request) (*received, *refusal) {
	var p *pass
	if h.auth != nil {
		var f *refusal
		if p, f = h.auth.authenticate(r); f != nil {
			return nil, f
		}
	}
	if err := h.origins.Check(r); err != nil {
		return nil, &refusal{why: WhyOrigin, status: http.StatusForbidden, err: err, unread: true}
	}
	body, release, f := h.intake.read(w, r)
	if f != nil {
		return nil, f
	}
	in := &received{context: r.Context(), release: release}
	if f = h.decode(in, body, p); f != nil {
		release()
		return nil, f
	}
	return in, nil
}

func (h *handler) decode(in *received, body []byte, p *pass) *refusal {
	a, err := DecodeActivity(body)
	if err != nil {
		return malformed(err)
	}
	if p != nil {
		caller, f := p.admit(a.Conversation.Channel, a.Conversation.ServiceURL)
		if f != nil {
			return f
		}
		in.context, a.Agentic = withCaller(in.context, caller), caller.Agentic
	}
	if a.Conversation.ServiceURL != "" || p != nil {
		if err := h.allowed.Check(a.Conversation.ServiceURL); err != nil {
			return unlisted(err)
		}
	}
	if missing := missingMember(a); missing != "" {
		return malformed(fmt.Errorf("%w: no %s", ErrMalformed, missing))
	}
	if asksUpstream(a) {
		if wait, ok := h.users.take(a.Conversation.UserID, time.Now()); !ok {
			return &refusal{why: WhyTooManyOfOneUser, status: http.StatusTooManyRequests, retryAfter: wait}
		}
	}
	in.activity = a
	return nil
}

// asksUpstream reports whether an activity may cause a call to the Token Service.
func asksUpstream(a *machine.Activity) bool {
	switch a.Type {
	case typeMessage:
		return true
	case typeInvoke:
		return strings.HasPrefix(strings.ToLower(a.Name), signInPrefix)
	case typeEvent:
		return a.Name == machine.EventTokensResponse
	default:
		return false
	}
}

func malformed(err error) *refusal {
	return &refusal{why: WhyBodyMalformed, status: http.StatusBadRequest, err: err}
}

// missingMember names the first missing member that is required. Without from.id
// one user's attempt could become another's, and without the other two no message
// can be sent.
func missingMember(a *machine.Activity) string {
	if a.Conversation.UserID == "" {
		return "from.id"
	}
	if a.Type == typeInvoke && strings.HasPrefix(a.Name, composePrefix) {
		return "" // its answer goes into the response only
	}
	if a.Conversation.ID == "" {
		return "conversation.id"
	}
	if a.Conversation.ServiceURL == "" {
		return "serviceUrl"
	}
	return ""
}

// answer passes an activity to the engine and then to the bot.
func (h *handler) answer(ctx context.Context, a *machine.Activity) machine.Answer {
	answer, err := h.route(ctx, a)
	if err == nil {
		return answer
	}
	zerolog.Ctx(ctx).Error().Err(err).Str("type", a.Type).Str("name", a.Name).Msg("activity failed")
	if a.Type != typeInvoke {
		return machine.Answer{Status: http.StatusOK}
	}
	return answerTo(err)
}

func (h *handler) route(ctx context.Context, a *machine.Activity) (answer machine.Answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			zerolog.Ctx(ctx).Error().Bytes("stack", debug.Stack()).Msg("panic")
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	if a.Type == typeInvoke {
		if answer, ours := h.engine.HandleInvoke(ctx, a); ours {
			return answer, nil
		}
	}
	turn := h.engine.Turn(a)
	if h.engine.Before(ctx, turn) {
		return machine.Answer{Status: http.StatusOK}, nil
	}
	given, err := h.bot.OnActivity(ctx, turn)
	switch {
	case err != nil:
		return machine.Answer{}, fmt.Errorf("bot: %w", err)
	case a.Type != typeInvoke:
		return machine.Answer{Status: http.StatusOK}, nil
	case given == nil:
		return machine.Answer{Status: http.StatusNotImplemented}, nil
	default:
		return *given, nil
	}
}

// answerTo returns the answer to an invoke that failed with err.
func answerTo(err error) machine.Answer {
	if errors.Is(err, store.ErrUnavailable) {
		return machine.Answer{Status: http.StatusServiceUnavailable, RetryAfter: time.Second} // row S
	}
	return machine.Answer{Status: http.StatusInternalServerError}
}

func statusOf(answer machine.Answer) int {
	if answer.Status == 0 {
		return http.StatusOK
	}
	return answer.Status
}

// write sends an answer and returns the status that was sent.
func (h *handler) write(ctx context.Context, w http.ResponseWriter, answer machine.Answer) int {
	status := statusOf(answer)
	var body []byte
	var err error
	if answer.Body != nil {
		body, err = encodeJSON(answer.Body)
	}
	if err == nil && (status < 200 || status > 599) {
		err = fmt.Errorf("%d is no status of an answer", status)
	}
	if err != nil {
		zerolog.Ctx(ctx).Error().Err(err).Msg("answer cannot be sent")
		w.WriteHeader(http.StatusInternalServerError)
		return http.StatusInternalServerError
	}
	if answer.RetryAfter > 0 {
		w.Header().Set("Retry-After", wholeSeconds(answer.RetryAfter))
	}
	if len(body) == 0 || string(body) == "null" {
		w.WriteHeader(status)
		return status
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		zerolog.Ctx(ctx).Debug().Err(err).Msg("answer was not taken")
	}
	return status
}
