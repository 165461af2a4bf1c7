package teams

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
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
	// InboundAuthNone believes every request. Loopback listeners only.
	InboundAuthNone = "none"
	// InboundAuthJWT checks the connector's token (wire.md §1).
	InboundAuthJWT = "jwt"
)

const (
	// MaxBody bounds an incoming activity, in bytes; a longer one is answered
	// 413.
	MaxBody = 1 << 20
	// DefaultTurnTimeout bounds one turn of the bot.
	DefaultTurnTimeout = 2 * time.Minute

	composePrefix = "composeExtension/"
)

// Engine is what the handler asks of the machine; *machine.Engine is one.
type Engine interface {
	// HandleInvoke answers the signin/* invokes; false = not one of them.
	HandleInvoke(ctx context.Context, a *machine.Activity) (machine.Answer, bool)
	// Turn gives the bot's own code its view of an activity.
	Turn(a *machine.Activity) *machine.Turn
	// Before does what comes before the bot; true = the bot need not see it.
	Before(ctx context.Context, turn *machine.Turn) bool
}

// Bot is the bot's own code. It gets every activity that the engine does not
// answer.
//
// For an invoke the answer is sent as it is; nil means that the bot does not
// know this invoke. An error or a panic is logged and answered 500, or 503 if
// the store is unavailable. For every other activity the answer does not
// count, and 200 is sent even after an error or a panic: Teams would send the
// message again on 5xx, and what the bot did before it failed would be done
// twice.
//
// ctx ends after [Config.TurnTimeout] and not when Teams hangs up.
type Bot interface {
	OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error)
}

// BotFunc is a function as a [Bot].
type BotFunc func(ctx context.Context, turn *machine.Turn) (*machine.Answer, error)

// OnActivity calls f.
func (f BotFunc) OnActivity(ctx context.Context, turn *machine.Turn) (*machine.Answer, error) {
	return f(ctx, turn)
}

// Config of a handler.
type Config struct {
	// InboundAuth is "none" or "jwt". Required: no authentication must be
	// asked for by name.
	InboundAuth string
	// Listener is the address that the handler is served on. Without inbound
	// authentication it must be a loopback address; see [CheckListener].
	Listener string
	// ServiceURLs are where activities may come from. nil = the connector's
	// own hosts.
	ServiceURLs *AllowList
	// TurnTimeout bounds one turn of the bot and one invoke of the engine.
	// 0 = [DefaultTurnTimeout].
	TurnTimeout time.Duration
	// Log gets errors of the bot, and at debug level one line per request
	// without its content.
	Log zerolog.Logger
}

// NewHandler returns the bot's endpoint, POST /api/messages (wire.md §1). It
// answers:
//
//   - 200 to HEAD, 405 to any other method than POST;
//   - 413 to a body over [MaxBody], 408 to one that did not arrive in time;
//   - 400 to a body that is no activity, and to an activity without from.id,
//     conversation.id or serviceUrl (the queries of message extensions need
//     from.id only [S 003]);
//   - 403 to a service URL that is not on the list, and to what a page of
//     another origin made a browser send: without inbound authentication a
//     loopback listener is open to every page that its user visits;
//   - an invoke with the status and body of the engine, else of the bot, else
//     501; and any other activity with 200 and no body (see [Bot]).
//
// The error names what is wrong with cfg.
func NewHandler(eng Engine, cfg Config, bot Bot) (http.Handler, error) {
	if eng == nil || bot == nil {
		return nil, errors.New("teams: handler: an engine and a bot are required")
	}
	switch cfg.InboundAuth {
	case InboundAuthNone:
		if err := CheckListener(cfg.Listener); err != nil {
			return nil, err
		}
	case InboundAuthJWT:
		return nil, errors.New("teams: inbound JWT validation is not in this version, and inbound_auth: none works on a loopback listener only")
	default:
		return nil, fmt.Errorf("teams: inbound_auth: %q is neither %q nor %q", cfg.InboundAuth, InboundAuthJWT, InboundAuthNone)
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
	return &handler{
		engine:  eng,
		bot:     bot,
		allowed: cfg.ServiceURLs,
		origins: http.NewCrossOriginProtection(),
		timeout: cfg.TurnTimeout,
		log:     cfg.Log,
	}, nil
}

type handler struct {
	engine  Engine
	bot     Bot
	allowed *AllowList
	origins *http.CrossOriginProtection
	timeout time.Duration
	log     zerolog.Logger
}

// ServeHTTP does what [NewHandler] says.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
	case http.MethodHead:
		w.WriteHeader(http.StatusOK)
		return
	default:
		w.Header().Set("Allow", "HEAD, POST")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	begun := time.Now()
	a, status, err := h.receive(w, r)
	if err != nil {
		h.log.Debug().Err(err).Int("status", status).Dur("duration", time.Since(begun)).Msg("activity refused")
		w.WriteHeader(status)
		return
	}
	// A caller who hangs up sends again. What was begun goes on, so that the
	// repeat finds an outcome.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.timeout)
	defer cancel()
	status = h.write(w, h.answer(ctx, a))
	h.log.Debug().Str("type", a.Type).Str("name", a.Name).Int("status", status).
		Dur("duration", time.Since(begun)).Msg("activity")
}

// receive reads and checks an activity; with an error comes its status.
func (h *handler) receive(w http.ResponseWriter, r *http.Request) (*machine.Activity, int, error) {
	if err := h.origins.Check(r); err != nil {
		return nil, http.StatusForbidden, err
	}
	body, err := readBody(w, r)
	if err != nil {
		var tooLong *http.MaxBytesError
		switch {
		case errors.As(err, &tooLong):
			return nil, http.StatusRequestEntityTooLarge, err
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, http.StatusRequestTimeout, err
		default:
			return nil, http.StatusBadRequest, err
		}
	}
	a, err := DecodeActivity(body)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	if a.Conversation.ServiceURL != "" {
		if err := h.allowed.Check(a.Conversation.ServiceURL); err != nil {
			return nil, http.StatusForbidden, err
		}
	}
	if missing := missingMember(a); missing != "" {
		return nil, http.StatusBadRequest, fmt.Errorf("%w: no %s", ErrMalformed, missing)
	}
	return a, 0, nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	const trusted = 64 << 10 // a larger length has to be proven by sending it
	switch {
	case r.ContentLength > MaxBody:
		return nil, &http.MaxBytesError{Limit: MaxBody}
	case r.ContentLength > 0 && r.ContentLength <= trusted:
		body := make([]byte, r.ContentLength) // the server lets nobody send more
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	var buf bytes.Buffer
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, MaxBody))
	return buf.Bytes(), err
}

// missingMember names the first member without which nothing can be done: no
// user's row may be another's, and no answer can be sent to nowhere.
func missingMember(a *machine.Activity) string {
	if a.Conversation.UserID == "" {
		return "from.id"
	}
	if a.Type == typeInvoke && strings.HasPrefix(a.Name, composePrefix) {
		return "" // answered in the response alone
	}
	if a.Conversation.ID == "" {
		return "conversation.id"
	}
	if a.Conversation.ServiceURL == "" {
		return "serviceUrl"
	}
	return ""
}

// answer routes an activity: the engine first, then the bot.
func (h *handler) answer(ctx context.Context, a *machine.Activity) machine.Answer {
	answer, err := h.route(ctx, a)
	if err == nil {
		return answer
	}
	h.log.Error().Err(err).Str("type", a.Type).Str("name", a.Name).Str("activity", a.ID).Msg("activity failed")
	if a.Type != typeInvoke {
		return machine.Answer{Status: http.StatusOK}
	}
	return answerTo(err)
}

func (h *handler) route(ctx context.Context, a *machine.Activity) (answer machine.Answer, err error) {
	defer func() {
		if v := recover(); v != nil {
			h.log.Error().Bytes("stack", debug.Stack()).Msg("panic")
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

// answerTo is the invoke answer to an error.
func answerTo(err error) machine.Answer {
	if errors.Is(err, store.ErrUnavailable) {
		return machine.Answer{Status: http.StatusServiceUnavailable, RetryAfter: time.Second} // S
	}
	return machine.Answer{Status: http.StatusInternalServerError}
}

// write sends an answer and returns the status that was sent.
func (h *handler) write(w http.ResponseWriter, answer machine.Answer) int {
	status := answer.Status
	if status == 0 {
		status = http.StatusOK
	}
	var body []byte
	var err error
	if answer.Body != nil {
		body, err = encodeJSON(answer.Body)
	}
	if err == nil && (status < 200 || status > 599) {
		err = fmt.Errorf("%d is no status of an answer", status)
	}
	if err != nil {
		h.log.Error().Err(err).Msg("answer cannot be sent")
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
		h.log.Debug().Err(err).Msg("answer was not taken")
	}
	return status
}
