package operator

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/signin-engine/signin-engine/tokensvc"
)

// access is what a visitor may do.
type access string

const (
	mayLook access = "look"
	mayAct  access = "act"
)

// visitor is the sender of a request.
type visitor struct {
	access access
	Actor  string // name for the audit trail; "" = not known, and forms ask for it
	bound  string // value that form tokens are bound to; "" = forms need no token (bearer)
	cookie bool   // the session cookie gave the access
}

// Known reports whether the visitor may read.
func (v visitor) Known() bool { return v.access != "" }

// Acts reports whether the visitor may take actions.
func (v visitor) Acts() bool { return v.access == mayAct }

type visitorKey struct{}

func visitorOf(r *http.Request) visitor {
	v, _ := r.Context().Value(visitorKey{}).(visitor)
	return v
}

const (
	sessionLife = 12 * time.Hour
	maxActor    = 80 // runes
)

// guard lets only visitors with access reach next: reading needs mayLook, actions
// and snapshots need mayAct. A browser without access is sent to the login page.
func (h *handler) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h.fromElsewhere(r); err != nil {
			h.refuse(w, r, err)
			return
		}
		v, err := h.visitor(w, r)
		switch {
		case errors.Is(err, ErrUnauthorized) && wantsPage(r) && r.Method == http.MethodGet:
			http.Redirect(w, r, loginFor(r), http.StatusSeeOther)
			return
		case err != nil:
			w.Header().Set("WWW-Authenticate", `Bearer realm="signin-engine operator"`)
			h.refuse(w, r, err)
			return
		case (changes(r) || r.URL.Path == "/snapshot") && r.URL.Path != "/logout":
			if err := h.mayChange(r, v); err != nil {
				h.refuse(w, r, err)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, v)))
	})
}

func changes(r *http.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }

// fromElsewhere refuses requests that another web site makes a browser send. An
// endpoint without a token also refuses host names with a dot: a foreign site could
// let its own name resolve to this address (DNS rebinding).
func (h *handler) fromElsewhere(r *http.Request) error {
	if err := h.origin.Check(r); err != nil {
		return fmt.Errorf("%w: the request comes from another site", ErrForbidden)
	}
	if !h.Token.Empty() || !h.ReadToken.Empty() {
		return nil
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && ip.IsLoopback() || !strings.Contains(host, ".") {
		return nil
	}
	return fmt.Errorf("%w: an endpoint without a token answers only to a loopback address or a host name without a dot", ErrForbidden)
}

// mayChange checks that the visitor may act. Browsers send cookies by themselves,
// so a cookie is not enough: a form also needs its form token, and JSON needs the
// bearer token.
func (h *handler) mayChange(r *http.Request, v visitor) error {
	if !v.Acts() {
		return fmt.Errorf("%w: this token may only look", ErrForbidden)
	}
	if !isForm(r) {
		if v.cookie && changes(r) {
			return fmt.Errorf("%w: JSON needs the bearer token", ErrForbidden)
		}
		return nil
	}
	if v.bound == "" {
		return nil
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return fmt.Errorf("%w: the form cannot be read", ErrBadRequest)
	}
	if !hmac.Equal([]byte(r.PostForm.Get("form")), []byte(h.formToken(v))) {
		return fmt.Errorf("%w: the form is too old: go back, load the page again and repeat", ErrForbidden)
	}
	return nil
}

// visitor identifies the sender of a request: by its bearer token, by its session
// cookie, or, at an endpoint without tokens, as anybody. The actor's name comes from
// TrustHeader if that is set.
func (h *handler) visitor(w http.ResponseWriter, r *http.Request) (visitor, error) {
	v, err := h.identify(w, r)
	if err == nil && h.TrustHeader != "" {
		v.Actor = cleanActor(r.Header.Get(h.TrustHeader))
	}
	return v, err
}

func (h *handler) identify(w http.ResponseWriter, r *http.Request) (visitor, error) {
	if h.Token.Empty() && h.ReadToken.Empty() {
		return visitor{access: mayAct, bound: h.openSession(w, r)}, nil
	}
	// Other schemes are ignored: a proxy may pass on its own credentials.
	if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		level, err := h.levelOf(w, r, token)
		return visitor{access: level}, err
	}
	c, err := r.Cookie(h.cookieName())
	if err != nil {
		return visitor{}, ErrUnauthorized
	}
	s, err := h.readSession(c.Value)
	if err != nil {
		return visitor{}, ErrUnauthorized
	}
	return visitor{access: s.Access, Actor: s.Actor, bound: c.Value, cookie: true}, nil
}

// match finds the access level of a token. It compares hashes in constant time, so
// that the time tells nothing about the token, not even its length.
func (h *handler) match(token string) (access, bool) {
	got := sha256.Sum256([]byte(token))
	level, ok := mayLook, false
	for _, known := range []struct {
		token tokensvc.Secret
		level access
	}{{h.ReadToken, mayLook}, {h.Token, mayAct}} {
		want := sha256.Sum256([]byte(known.token.Reveal()))
		if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && !known.token.Empty() {
			level, ok = known.level, true
		}
	}
	return level, ok
}

// session is the content of the session cookie. It is signed with a key made of the
// token that opened it, so the server stores nothing, and a changed token ends all
// its sessions.
type session struct {
	Access  access    `json:"a"`
	Actor   string    `json:"n"`
	Expires time.Time `json:"e"`
	Nonce   string    `json:"r"`
}

var errNoSession = errors.New("no session")

func (h *handler) key(level access, purpose string) []byte {
	token := h.Token
	if level == mayLook {
		token = h.ReadToken
	}
	if token.Empty() {
		return nil
	}
	m := hmac.New(sha256.New, []byte(token.Reveal()))
	m.Write([]byte("signin-engine console " + purpose))
	return m.Sum(nil)
}

func (h *handler) sign(s session) (string, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	m := hmac.New(sha256.New, h.key(s.Access, "session"))
	m.Write(body)
	enc := base64.RawURLEncoding
	return enc.EncodeToString(body) + "." + enc.EncodeToString(m.Sum(nil)), nil
}

func (h *handler) readSession(value string) (session, error) {
	enc := base64.RawURLEncoding
	left, right, _ := strings.Cut(value, ".")
	body, err := enc.DecodeString(left)
	if err != nil {
		return session{}, errNoSession
	}
	mac, err := enc.DecodeString(right)
	if err != nil {
		return session{}, errNoSession
	}
	var s session
	if json.Unmarshal(body, &s) != nil || s.Access != mayLook && s.Access != mayAct {
		return session{}, errNoSession
	}
	key := h.key(s.Access, "session")
	m := hmac.New(sha256.New, key)
	m.Write(body)
	if key == nil || !hmac.Equal(mac, m.Sum(nil)) || !h.Clock().Before(s.Expires) {
		return session{}, errNoSession
	}
	return s, nil
}

// formToken is the token that the visitor's forms send. It is bound to the
// visitor's cookie, so no other site can know it.
func (h *handler) formToken(v visitor) string {
	m := hmac.New(sha256.New, h.formKey(v.access))
	m.Write([]byte(v.bound))
	return hex.EncodeToString(m.Sum(nil))
}

// formKey is the key of form tokens. It is made of the visitor's own endpoint token:
// it is then the same on every instance, and a visitor who may only read learns
// nothing about the other token. An endpoint without tokens uses a random key, which
// lasts as long as the process.
func (h *handler) formKey(level access) []byte {
	if key := h.key(level, "form"); key != nil {
		return key
	}
	return h.seed
}

// cookieName is the name of the session cookie. It differs between endpoints,
// because cookies ignore ports: several endpoints on one host would otherwise log
// each other out.
func (h *handler) cookieName() string {
	level := mayLook
	if h.ReadToken.Empty() {
		level = mayAct
	}
	sum := sha256.Sum256(h.formKey(level))
	return "signin_engine_" + hex.EncodeToString(sum[:4])
}

// openSession returns the cookie value that forms are bound to at an endpoint where
// nobody logs in. It sets the cookie if the browser has none yet.
func (h *handler) openSession(w http.ResponseWriter, r *http.Request) string {
	if c, err := r.Cookie(h.cookieName()); err == nil && c.Value != "" {
		return c.Value
	}
	if !wantsPage(r) && !isForm(r) {
		return ""
	}
	value := rand.Text()
	h.setCookie(w, r, value, 0)
	return value
}

func (h *handler) setCookie(w http.ResponseWriter, r *http.Request, value string, life time.Duration) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure is set if the browser uses https
		Name: h.cookieName(), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: h.secure(r), MaxAge: int(life / time.Second),
	})
}

// secure reports whether the browser uses https. X-Forwarded-Proto counts only
// behind a proxy that is trusted to name the actor.
func (h *handler) secure(r *http.Request) bool {
	return r.TLS != nil || h.TrustHeader != "" && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// cleanActor prepares a name for the audit trail: it drops control and format
// characters, and cuts the name to maxActor runes.
func cleanActor(name string) string {
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, name))
	if runes := []rune(name); len(runes) > maxActor {
		name = string(runes[:maxActor])
	}
	return name
}

// loginFor is the address of the login page that leads back to the requested page.
func loginFor(r *http.Request) string {
	if r.URL.Path == "/" && r.URL.RawQuery == "" {
		return "/login"
	}
	return "/login?" + url.Values{"next": {r.URL.RequestURI()}}.Encode()
}

// localPath returns next if it is a path of this endpoint, and "/" otherwise, so
// that a login never redirects to another site.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsAny(next, "\\\r\n\t") {
		return "/"
	}
	return next
}

type loginData struct {
	Next, Actor, Problem string
	AskName              bool
}

func (h *handler) loginPage(w http.ResponseWriter, r *http.Request) {
	if h.Token.Empty() && h.ReadToken.Empty() {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	q := r.URL.Query()
	if token := q.Get("token"); token != "" && h.LinkLogin {
		h.logIn(w, r, token, cmp.Or(q.Get("name"), "console"), q.Get("next"))
		return
	}
	h.page(w, r, http.StatusOK, "login", "Log in", loginData{Next: localPath(q.Get("next")), AskName: h.TrustHeader == ""})
}

func (h *handler) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	if err := errors.Join(h.origin.Check(r), r.ParseForm()); err != nil {
		h.refuse(w, r, fmt.Errorf("%w: the form cannot be taken", ErrBadRequest))
		return
	}
	h.logIn(w, r, r.PostForm.Get("token"), r.PostForm.Get("name"), r.PostForm.Get("next"))
}

func (h *handler) logIn(w http.ResponseWriter, r *http.Request, token, name, next string) {
	again := loginData{Next: localPath(next), Actor: cleanActor(name), AskName: h.TrustHeader == ""}
	level, err := h.levelOf(w, r, strings.TrimSpace(token))
	switch {
	case errors.Is(err, ErrTooManyTries):
		again.Problem = "Too many wrong tokens came from your address, or from all addresses together. Try again in " + w.Header().Get("Retry-After") + " seconds."
		h.page(w, r, http.StatusTooManyRequests, "login", "Log in", again)
		return
	case err != nil:
		again.Problem = "That is not the token of this endpoint. It is operator_token or operator_read_token of the bot's settings."
		h.page(w, r, http.StatusUnauthorized, "login", "Log in", again)
		return
	case level == mayAct && again.AskName && again.Actor == "":
		again.Problem = "Enter your name: the audit trail records who acts."
		h.page(w, r, http.StatusBadRequest, "login", "Log in", again)
		return
	}
	value, err := h.sign(session{Access: level, Actor: again.Actor, Expires: h.Clock().Add(sessionLife), Nonce: rand.Text()})
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	h.setCookie(w, r, value, sessionLife)
	h.Log.Info().Str("remote", r.RemoteAddr).Str("actor", again.Actor).Str("access", string(level)).Msg("operator logged in")
	http.Redirect(w, r, again.Next, http.StatusSeeOther)
}

func (h *handler) logout(w http.ResponseWriter, r *http.Request) {
	h.setCookie(w, r, "", -time.Second)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}
