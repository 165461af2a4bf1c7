package popup

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/internal/vault"
)

// Popup signs users in to one connection. It is a machine.Redeemer, and the
// http.Handler of its own pages. It may be used from many goroutines.
type Popup struct {
	app, connection string
	public          *url.URL
	store           Store
	macs            []byte // key of the names of records
	ring            *vault.Ring
	provider        *provider
	page            *template.Template
	policy          string // Content-Security-Policy
	teamsJS         script
	words           Words
	width, height   int
	limits          *limiter
	onRefused       func(why string)

	codeLife, popupLife, linkLife time.Duration

	clock func() time.Time
	log   zerolog.Logger
}

var (
	_ machine.Redeemer = (*Popup)(nil)
	_ http.Handler     = (*Popup)(nil)
)

// script is a script of another origin.
type script struct{ URL, Integrity string }

// New checks cfg. It does not connect to the provider.
func New(cfg Config) (*Popup, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("popup: %w", err)
	}
	ring, err := vault.New(cfg.Keys)
	if err != nil {
		return nil, fmt.Errorf("popup: %w", err)
	}
	public, err := publicURL(cfg.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("popup: public_url: %w", err)
	}
	p := &Popup{
		app: cfg.AppID, connection: cfg.Connection, public: public, store: cfg.Store,
		macs: vault.MAC(cfg.Store.Secret(), "signin-engine popup"), ring: ring,
		page: pageTemplate(), words: cfg.Words.orDefault(),
		teamsJS: script{or(cfg.TeamsJSURL, DefaultTeamsJSURL), or(cfg.TeamsJSIntegrity, DefaultTeamsJSIntegrity)},
		width:   or(cfg.Width, DefaultWidth), height: or(cfg.Height, DefaultHeight),
		codeLife:  or(cfg.CodeLifetime, DefaultCodeLifetime),
		popupLife: or(cfg.PopupLifetime, DefaultPopupLifetime),
		linkLife:  or(cfg.LinkLifetime, DefaultLinkLifetime),
		clock:     cfg.Clock, log: cfg.Log, onRefused: cfg.OnRefused,
	}
	if p.clock == nil {
		p.clock = time.Now
	}
	if p.policy, err = contentPolicy(p.teamsJS.URL); err != nil {
		return nil, fmt.Errorf("popup: teamsjs_url: %w", err)
	}
	if p.limits, err = newLimiter(cfg.Limits); err != nil {
		return nil, fmt.Errorf("popup: limits: %w", err)
	}
	p.provider = newProvider(cfg.Provider, p.url("callback"), cfg.HTTPClient, p.clock)
	return p, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// url is the address of one of our pages.
func (p *Popup) url(page string) string { return p.public.String() + "/auth/" + page }

// Connection is the name of the connection.
func (p *Popup) Connection() string { return p.connection }

// who is a user of Teams. Both ids are guaranteed by Teams [S 002].
type who struct {
	MRI string `json:"mri"`
	AAD string `json:"aad,omitempty"`
}

// ticket is what a link to the start page carries, sealed.
type ticket struct {
	who
	Attempt string    `json:"attempt,omitempty"`
	Expires time.Time `json:"expires"`
}

// Link is the address of the start page for the turn's user and an attempt. Who
// has it may begin a popup, whose code is then of use to that user only.
func (p *Popup) Link(turn *machine.Turn, attempt string) (string, error) {
	to := turn.Conversation()
	return p.link(who{to.UserID, to.UserAAD}, attempt)
}

func (p *Popup) link(user who, attempt string) (string, error) {
	sealed, err := p.ring.Seal(p.ticketName(), ticket{user, attempt, p.clock().Add(p.linkLife)})
	if err != nil {
		return "", err
	}
	query := url.Values{
		"ticket": {base64.RawURLEncoding.EncodeToString(sealed)},
		// Teams sizes its window by these [S 002].
		"width": {strconv.Itoa(p.width)}, "height": {strconv.Itoa(p.height)},
	}
	return p.url("start") + "?" + query.Encode(), nil
}

func (p *Popup) ticketName() string {
	return "ticket\x00" + p.app + "\x00" + strings.ToLower(p.connection)
}

// open reads a ticket that is not over.
func (p *Popup) open(text string) (ticket, bool) {
	var t ticket
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || p.ring.Open(p.ticketName(), sealed, &t) != nil {
		return ticket{}, false
	}
	return t, t.MRI != "" && p.clock().Before(t.Expires)
}

// The records of a popup. Each is a mark of the store.

// flow is a popup between its start and its callback.
type flow struct {
	who
	Attempt  string    `json:"attempt,omitempty"`
	Verifier string    `json:"verifier"`
	Nonce    string    `json:"nonce"`
	Cookie   []byte    `json:"cookie"` // hash of the browser's
	Began    time.Time `json:"began"`
}

// issued is a security code with what it stands for.
type issued struct {
	who
	Attempt     string      `json:"attempt,omitempty"`
	Check       []byte      `json:"check"` // of the code once more
	Expires     time.Time   `json:"expires"`
	Began       time.Time   `json:"began"`
	Credentials credentials `json:"credentials"`
}

// name is what a record stands under: it tells nothing about what it was made
// from.
func (p *Popup) name(kind string, parts ...string) string {
	all := append([]string{kind, p.app, strings.ToLower(p.connection)}, parts...)
	return "popup " + kind + " " + base64.RawURLEncoding.EncodeToString(vault.MAC(p.macs, all...))
}

// sealed is a record as it is written.
func (p *Popup) sealed(name string, version int64, expires time.Time, v any) (store.Mark, error) {
	value, err := p.ring.Seal(name, v)
	return store.Mark{Name: name, Version: version, Value: value, Expires: expires}, err
}

// read finds a record; ErrNotFound of package store if there is none, and vault.ErrSeal
// too if there is one that does not open.
func (p *Popup) read(ctx context.Context, name string, v any) (store.Mark, error) {
	m, err := p.store.Mark(ctx, name)
	if err != nil {
		return m, err
	}
	if len(m.Value) == 0 {
		return m, nil
	}
	if err := p.ring.Open(name, m.Value, v); err != nil {
		p.log.Error().Err(err).Msg("popup: a record cannot be read")
		return m, errors.Join(store.ErrNotFound, err)
	}
	return m, nil
}

// write commits records: all or none.
func (p *Popup) write(ctx context.Context, marks ...store.Mark) error {
	return p.store.Apply(ctx, []store.Commit{{Marks: marks}})[0]
}
