package operator

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// HandlerConfig configures [NewHandler].
type HandlerConfig struct {
	Reader   Reader                      // answers the queries; required
	Actor    Actor                       // takes the actions; nil: they are refused with ErrUnsupported
	Ready    func(context.Context) error // answers GET /readyz; nil: always ready
	Snapshot Snapshotter                 // answers GET /snapshot; nil: refused with ErrUnsupported
	Metrics  http.Handler                // answers GET /metrics, which needs read access; nil: 404
	// Token is the bearer token that may act. A TCP endpoint needs one; a unix
	// socket is protected by its file mode.
	Token tokensvc.Secret
	// ReadToken is the bearer token that may only read. If both tokens are empty,
	// every request may act.
	ReadToken tokensvc.Secret
	// TrustHeader is the header in which a proxy names the person who acts. If it
	// is empty, no header is trusted, and people name themselves as they log in.
	TrustHeader string
	// LinkLogin allows a login by link, /login?token=…, for a link that is printed
	// on the operator's own machine. Browsers keep such addresses in their history.
	LinkLogin bool
	OnRefused func(Refusal)    // called for every refused token; nil = not called
	Clock     func() time.Time // for relative times in queries and for sessions; nil = time.Now
	Log       zerolog.Logger
}

// Limits of a request to the operator endpoint.
const (
	maxBody      = 64 << 10
	maxPurgeStep = 10_000
)

// NewHandler serves the operator API and the console. It compares tokens in
// constant time and limits guesses: one address may send ten wrong tokens, then
// one every 6 s; all addresses together may send a hundred, then one every 0.6 s.
// More are answered 429 with Retry-After. The limit for all addresses does not
// apply to an address that has sent a right token.
func NewHandler(cfg HandlerConfig) http.Handler {
	h := &handler{HandlerConfig: cfg, origin: http.NewCrossOriginProtection(), seed: []byte(rand.Text())}
	if h.Clock == nil {
		h.Clock = time.Now
	}
	if h.OnRefused == nil {
		h.OnRefused = func(Refusal) {}
	}
	h.brake = newBrake(h.Clock)
	api := http.NewServeMux()
	for pattern, answer := range map[string]http.Handler{
		"GET /info":                     h.reply(h.info),
		"GET /overview":                 h.reply(h.overview),
		"GET /attempts":                 h.or(h.attemptsPage, h.attempts),
		"GET /attempts/{id}":            h.or(h.attemptPage, h.attempt),
		"GET /search":                   h.or(h.search, anyOf(h.find)),
		"POST /attempts/{id}/reconcile": h.formOr("reconcile", h.reconcile),
		"POST /attempts/{id}/cancel":    h.formOr("cancel", h.cancel),
		"POST /attempts/{id}/redeliver": h.formOr("redeliver", h.redeliver),
		"POST /purge":                   h.reply(h.purge),
		"POST /rotate-key":              h.reply(h.rotateKey),
		"GET /{$}":                      h.or(h.overviewPage, h.overview),
		"GET /users/{id}":               h.or(h.userPage, anyOf(h.user)),
		"GET /connections/{name}":       h.or(h.connectionPage, anyOf(h.connection)),
		"GET /diagram":                  h.pageFunc(h.diagramPage),
		"GET /attempts/act":             h.or(h.bulkPage, nothing),
		"POST /attempts/act":            h.pageFunc(h.actOnMany),
		"POST /logout":                  http.HandlerFunc(h.logout),
	} {
		api.Handle(pattern, answer)
	}
	api.HandleFunc("GET /snapshot", h.snapshot)
	if h.Metrics != nil {
		api.Handle("GET /metrics", h.Metrics)
	}
	events := h.reply(h.events)
	api.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		if accepts(r, "text/event-stream") {
			h.stream(w, r)
			return
		}
		events.ServeHTTP(w, r)
	})
	api.Handle("/", h.reply(nothing))

	mux := http.NewServeMux()
	mux.Handle("GET /healthz", h.reply(func(*http.Request) (any, error) { return status{"ok"}, nil }))
	mux.Handle("GET /readyz", h.reply(h.ready))
	mux.HandleFunc("GET /login", h.loginPage)
	mux.HandleFunc("POST /login", h.login)
	mux.Handle("GET /assets/", Assets())
	mux.Handle("/", h.guard(api))
	return mux
}

type handler struct {
	HandlerConfig
	origin *http.CrossOriginProtection
	seed   []byte // key of form tokens if the endpoint has no tokens
	pulse  pulse
	brake  *brake
}

// nothing answers 404.
func nothing(*http.Request) (any, error) { return nil, errNoPage }

type status struct {
	Status string `json:"status"`
}

// reply writes the value that answer returns as JSON, or its error with refuse.
func (h *handler) reply(answer func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := answer(r)
		if err != nil {
			h.refuse(w, r, err)
			return
		}
		h.write(w, http.StatusOK, v)
	})
}

func (h *handler) write(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		h.Log.Debug().Err(err).Msg("operator answer not written")
	}
}

func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	code, body := describe(err)
	if code >= http.StatusInternalServerError {
		h.Log.Error().Err(err).Str("method", r.Method).Str("route", r.Pattern).Msg("operator request failed")
	}
	if wantsPage(r) {
		h.problemPage(w, r, code, body)
		return
	}
	h.write(w, code, body)
}

func (h *handler) ready(r *http.Request) (any, error) {
	if h.Ready != nil {
		if err := h.Ready(r.Context()); err != nil {
			return nil, err
		}
	}
	return status{"ready"}, nil
}

func (h *handler) info(r *http.Request) (any, error) { return h.Reader.Info(r.Context()) }

func (h *handler) overview(r *http.Request) (any, error) { return h.Reader.Overview(r.Context()) }

func (h *handler) attempts(r *http.Request) (any, error) {
	q, err := ParseQuery(r.URL.Query(), h.Clock())
	if err != nil {
		return nil, err
	}
	return h.Reader.List(r.Context(), q)
}

func (h *handler) attempt(r *http.Request) (any, error) {
	return h.Reader.Get(r.Context(), r.PathValue("id"))
}

func (h *handler) events(r *http.Request) (any, error) {
	q, err := ParseEventQuery(r.URL.Query(), h.Clock())
	if err != nil {
		return nil, err
	}
	return h.Reader.Events(r.Context(), q)
}

// order is the body of an operator's action.
type order struct {
	Actor  string `json:"actor"`
	Reason string `json:"reason"`
}

// redelivered is the answer to a redelivery.
type redelivered struct {
	Redelivered int `json:"redelivered"`
}

// purgeOrder is the body of a purge.
type purgeOrder struct {
	OlderThan string `json:"older_than"` // a Go duration, "720h"
	Limit     int    `json:"limit"`
	DryRun    bool   `json:"dry_run"`
}

// purged is the answer to a purge.
type purged struct {
	Purged int `json:"purged"`
}

func (h *handler) reconcile(r *http.Request) (any, error) {
	op, err := h.order(r)
	if err != nil {
		return nil, err
	}
	return h.Actor.Reconcile(r.Context(), r.PathValue("id"), op)
}

func (h *handler) cancel(r *http.Request) (any, error) {
	op, err := h.order(r)
	if err != nil {
		return nil, err
	}
	return h.Actor.Cancel(r.Context(), r.PathValue("id"), op)
}

func (h *handler) redeliver(r *http.Request) (any, error) {
	op, err := h.order(r)
	if err != nil {
		return nil, err
	}
	n, err := h.Actor.Redeliver(r.Context(), r.PathValue("id"), op)
	return redelivered{n}, err
}

func (h *handler) rotateKey(r *http.Request) (any, error) {
	op, err := h.order(r)
	if err != nil {
		return nil, err
	}
	return h.Actor.RotateKey(r.Context(), op)
}

// order reads who acts and why. Both are required. A proxy's name for the actor
// replaces the one in the body.
func (h *handler) order(r *http.Request) (machine.Operator, error) {
	var o order
	if err := h.body(r, &o); err != nil {
		return machine.Operator{}, err
	}
	if o.Actor = cleanActor(o.Actor); h.TrustHeader != "" {
		if said := visitorOf(r).Actor; said != "" {
			o.Actor = said
		}
	}
	if o.Actor == "" || o.Reason == "" {
		return machine.Operator{}, fmt.Errorf("%w: actor and reason are required", ErrBadRequest)
	}
	h.Log.Info().Str("route", r.Pattern).Str("attempt", r.PathValue("id")).Str("actor", o.Actor).Msg("operator action")
	return machine.Operator{Actor: o.Actor, Reason: o.Reason}, nil
}

func (h *handler) purge(r *http.Request) (any, error) {
	var o purgeOrder
	if err := h.body(r, &o); err != nil {
		return nil, err
	}
	age, err := time.ParseDuration(o.OlderThan)
	if err != nil || age <= 0 {
		return nil, fmt.Errorf("%w: older_than: %q is no positive duration", ErrBadRequest, o.OlderThan)
	}
	if o.Limit <= 0 || o.Limit > maxPurgeStep {
		return nil, fmt.Errorf("%w: limit: %d is not from 1 to %d", ErrBadRequest, o.Limit, maxPurgeStep)
	}
	n, err := h.Actor.Purge(r.Context(), age, o.Limit, o.DryRun)
	return purged{n}, err
}

func (h *handler) body(r *http.Request, v any) error {
	if h.Actor == nil {
		return fmt.Errorf("%w: this endpoint only reads", ErrUnsupported)
	}
	d := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: body: %w", ErrBadRequest, err)
	}
	return nil
}

// snapshot streams a copy of the store. After the first bytes the status is sent,
// and it can report a failure only by aborting the connection.
func (h *handler) snapshot(w http.ResponseWriter, r *http.Request) {
	if h.Snapshot == nil {
		h.refuse(w, r, fmt.Errorf("%w: only a bbolt store has snapshots", ErrUnsupported))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := &counter{w: w}
	_, err := h.Snapshot.Snapshot(r.Context(), out)
	switch {
	case err == nil:
	case out.n == 0:
		w.Header().Del("Content-Type")
		h.refuse(w, r, fmt.Errorf("snapshot: %w", err))
	default:
		h.Log.Error().Err(err).Msg("snapshot broke off")
		panic(http.ErrAbortHandler)
	}
}

// counter counts the bytes that were written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	if err != nil {
		return n, errors.Join(errClientGone, err)
	}
	return n, nil
}

var errClientGone = errors.New("client gone")
