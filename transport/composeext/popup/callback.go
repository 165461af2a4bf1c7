package popup

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"golang.org/x/oauth2"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/internal/vault"
)

const (
	stateBytes  = 32
	cookieBytes = 32
	codeBytes   = 16 // 128 bits: its text is longer than a code of the Token Service
)

// start begins a popup: it stores what the callback needs, and sends the browser to
// the provider.
func (p *Popup) start(w http.ResponseWriter, r *http.Request) {
	link, ok := p.open(r.URL.Query().Get("ticket"))
	if !ok {
		p.show(w, p.failed(http.StatusBadRequest, reasonLink))
		return
	}
	at, err := p.provider.find(r.Context())
	if err != nil {
		p.log.Error().Err(err).Str("attempt", link.Attempt).Msg("popup: the provider cannot be found")
		p.show(w, p.failed(http.StatusBadGateway, reasonDown))
		return
	}
	state, secret := vault.RandomText(stateBytes), vault.RandomText(cookieBytes)
	f := flow{
		who: link.who, Attempt: link.Attempt, Verifier: oauth2.GenerateVerifier(), Nonce: vault.RandomText(stateBytes),
		Cookie: hashed(secret), Began: p.clock().UTC(),
	}
	m, err := p.sealed(p.stateName(state), 1, p.clock().Add(p.popupLife), f)
	if err == nil {
		err = p.write(r.Context(), m)
	}
	if err != nil {
		p.log.Error().Err(err).Str("attempt", link.Attempt).Msg("popup: cannot be begun")
		p.show(w, p.failed(http.StatusServiceUnavailable, reasonStore))
		return
	}
	http.SetCookie(w, p.cookie(state, secret, int(p.popupLife.Seconds())))
	p.log.Debug().Str("attempt", link.Attempt).Str("connection", p.connection).Msg("popup: begun")
	http.Redirect(w, r, p.provider.authorize(at, state, f.Verifier, f.Nonce), http.StatusFound)
}

func (p *Popup) stateName(state string) string { return p.name("state", state) }

func hashed(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// cookie is the cookie that marks the browser in which a popup began. SameSite is
// Lax, because the provider sends the popup, which is a window, back to this site. On
// loopback http the cookie is not Secure, because browsers would drop it. Each popup
// has a cookie of its own, because several may be open.
func (p *Popup) cookie(state, secret string, maxAge int) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // Secure is set if the bot's own address has https
		Name: p.cookieName(state), Value: secret, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: p.public.Scheme == "https",
	}
}

func (p *Popup) cookieName(state string) string {
	name := "signin-" + hex.EncodeToString(hashed(state)[:8])
	if p.public.Scheme == "https" {
		return "__Host-" + name // no other host of the domain can set it
	}
	return name
}

// callback ends a popup: it redeems the provider's code and issues a security code.
func (p *Popup) callback(w http.ResponseWriter, r *http.Request) ending {
	query := r.URL.Query()
	state := query.Get("state")
	f, m, end := p.begun(r, state)
	if end.Status != 0 {
		return end
	}
	log := p.log.With().Str("attempt", f.Attempt).Str("connection", p.connection).Logger()
	// A state can be used once, whether the sign-in succeeds or not.
	err := p.write(r.Context(), store.Mark{Name: m.Name, Version: m.Version + 1, Gone: true})
	switch {
	case errors.Is(err, store.ErrConflict):
		return p.failed(http.StatusBadRequest, reasonState)
	case err != nil:
		log.Error().Err(err).Msg("popup: cannot be ended")
		return p.failed(http.StatusServiceUnavailable, reasonStore)
	}
	http.SetCookie(w, p.cookie(state, "", -1))
	at, err := p.provider.find(r.Context())
	if err != nil {
		log.Error().Err(err).Msg("popup: the provider cannot be found")
		return p.failed(http.StatusBadGateway, reasonDown)
	}
	if iss := query.Get("iss"); !at.sent(iss) {
		log.Warn().Bool("iss", iss != "").Msg("popup: the answer does not name this provider (RFC 9207)")
		return p.failed(http.StatusBadRequest, reasonOther)
	}
	if code := query.Get("error"); code != "" {
		log.Info().Str("error", bounded(code)).Msg("popup: the provider refuses")
		return p.refused(http.StatusOK, code, query.Get("error_description"))
	}
	// Redeem the code even if the browser disconnects: the code can be used once.
	ctx := context.WithoutCancel(r.Context())
	got, err := p.provider.redeem(ctx, query.Get("code"), f.Verifier, f.Nonce)
	if err != nil {
		return p.notRedeemed(&f, err)
	}
	code, err := p.issue(ctx, &f, got)
	if err != nil {
		log.Error().Err(err).Msg("popup: the credentials cannot be kept")
		p.forgetAtProvider(ctx, got)
		return p.failed(http.StatusServiceUnavailable, reasonStore)
	}
	log.Debug().Msg("popup: ended with a code")
	return ending{Status: http.StatusOK, Code: code, User: f.AAD}
}

// begun finds the popup that a state belongs to. It fails if another browser began the
// popup; the state then stays valid for that browser.
func (p *Popup) begun(r *http.Request, state string) (flow, store.Mark, ending) {
	var f flow
	m, err := p.read(r.Context(), p.stateName(state), &f)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return f, m, p.failed(http.StatusBadRequest, reasonState)
	case err != nil:
		p.log.Error().Err(err).Msg("popup: cannot be found")
		return f, m, p.failed(http.StatusServiceUnavailable, reasonStore)
	}
	secret := ""
	if c, err := r.Cookie(p.cookieName(state)); err == nil {
		secret = c.Value
	}
	if subtle.ConstantTimeCompare(hashed(secret), f.Cookie) != 1 {
		p.log.Warn().Str("attempt", f.Attempt).Msg("popup: the state of another browser")
		return f, m, p.failed(http.StatusForbidden, reasonBrowser)
	}
	return f, m, ending{}
}

// issue stores the credentials under a new security code, and returns the code.
func (p *Popup) issue(ctx context.Context, f *flow, c credentials) (string, error) {
	code := vault.RandomText(codeBytes)
	expires := p.clock().Add(p.codeLife)
	m, err := p.sealed(p.codeName(code), 1, expires, issued{
		who: f.who, Attempt: f.Attempt, Check: p.codeCheck(code), Expires: expires.UTC(), Began: f.Began, Credentials: c,
	})
	if err != nil {
		return "", err
	}
	return code, p.persist(ctx, m)
}

// refused is the ending of a popup with an error of the provider.
func (p *Popup) refused(status int, code, description string) ending {
	reason := reasonProvider
	if code == "access_denied" {
		reason = reasonDenied
	}
	end := p.failed(status, reason)
	end.Said = bounded(strings.TrimSpace(code + "  " + description))
	return end
}

func (p *Popup) notRedeemed(f *flow, err error) ending {
	log := p.log.Warn().Str("attempt", f.Attempt).Str("connection", p.connection)
	var said *oauth2.RetrieveError
	if errors.As(err, &said) {
		// Do not log the error's text: it quotes the provider's body, which may contain
		// anything.
		log.Int("status", said.Response.StatusCode).Str("error", bounded(said.ErrorCode)).Msg("popup: the provider refuses the code")
		if said.Response.StatusCode >= http.StatusInternalServerError {
			return p.failed(http.StatusBadGateway, reasonDown)
		}
		return p.refused(http.StatusBadGateway, said.ErrorCode, said.ErrorDescription)
	}
	log.Str("error", bounded(withoutURL(err).Error())).Msg("popup: the code could not be redeemed")
	if errors.Is(err, errIDToken) {
		return p.failed(http.StatusBadGateway, reasonOther)
	}
	return p.failed(http.StatusBadGateway, reasonDown)
}
