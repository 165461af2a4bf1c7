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

// Popup signs users in to one connection. It is the machine.Redeemer of the connection
// and the http.Handler of its pages. It may be used from many goroutines.
type Popup struct {
	app, connection string
	public          *url.URL
	store           Store
	macs            []byte // HMAC key of record names
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

// script is a script of another origin, with its subresource integrity hash.
type script struct{ URL, Integrity string }

// New returns a popup, or the error of [Config.Validate]. It does not connect to the
// provider.
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

// url is the address of one of the popup's pages.
func (p *Popup) url(page string) string { return p.public.String() + "/auth/" + page }

// Connection returns the name of the connection.
func (p *Popup) Connection() string { return p.connection }

// who identifies a user of Teams. Teams guarantees both ids [S 002].
type who struct {
	MRI string `json:"mri"`
	AAD string `json:"aad,omitempty"`
}

// ticket is the encrypted content of a link to the start page.
type ticket struct {
	who
	Attempt string    `json:"attempt,omitempty"`
	Expires time.Time `json:"expires"`
}

// Link returns the address of the start page for the turn's user and an attempt.
// Anybody who has the link can begin the popup, but only this user can redeem the code
// that it returns.
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
		// Teams takes the size of its window from the link [S 002].
		"width": {strconv.Itoa(p.width)}, "height": {strconv.Itoa(p.height)},
	}
	return p.url("start") + "?" + query.Encode(), nil
}

func (p *Popup) ticketName() string {
	return "ticket\x00" + p.app + "\x00" + strings.ToLower(p.connection)
}

// open decrypts a ticket. It returns false if the ticket is not valid or has expired.
func (p *Popup) open(text string) (ticket, bool) {
	var t ticket
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || p.ring.Open(p.ticketName(), sealed, &t) != nil {
		return ticket{}, false
	}
	return t, t.MRI != "" && p.clock().Before(t.Expires)
}

// The records of a popup. Each is the value of a mark in the store.

// flow is a popup between its start page and its callback.
type flow struct {
	who
	Attempt  string    `json:"attempt,omitempty"`
	Verifier string    `json:"verifier"` // PKCE
	Nonce    string    `json:"nonce"`    // of the id token
	Cookie   []byte    `json:"cookie"`   // hash of the cookie's value
	Began    time.Time `json:"began"`
}

// issued is a security code with the credentials that it gives.
type issued struct {
	who
	Attempt     string      `json:"attempt,omitempty"`
	Check       []byte      `json:"check"` // a second HMAC of the code
	Expires     time.Time   `json:"expires"`
	Began       time.Time   `json:"began"`
	Credentials credentials `json:"credentials"`
}

// name is the name of a record. It is an HMAC, so that it tells nothing about parts.
func (p *Popup) name(kind string, parts ...string) string {
	all := append([]string{kind, p.app, strings.ToLower(p.connection)}, parts...)
	return "popup " + kind + " " + base64.RawURLEncoding.EncodeToString(vault.MAC(p.macs, all...))
}

// sealed returns the mark of a record, with the encrypted value.
func (p *Popup) sealed(name string, version int64, expires time.Time, v any) (store.Mark, error) {
	value, err := p.ring.Seal(name, v)
	return store.Mark{Name: name, Version: version, Value: value, Expires: expires}, err
}

// read finds and decrypts a record. The error matches store.ErrNotFound if there is
// none. It matches vault.ErrSeal as well if there is one that no key decrypts.
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

// write commits records in one transaction.
func (p *Popup) write(ctx context.Context, marks ...store.Mark) error {
	return p.store.Apply(ctx, []store.Commit{{Marks: marks}})[0]
}
