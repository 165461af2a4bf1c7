package popup

import (
	"bytes"
	_ "embed"
	"html/template"
	"math"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed page.html
var pageHTML string

//go:embed page.js
var pageJS []byte

//go:embed page.css
var pageCSS []byte

func pageTemplate() *template.Template {
	return template.Must(template.New("page").Parse(pageHTML))
}

// contentPolicy is the Content-Security-Policy of the pages. It lets them load their
// own script and style, and the Teams JavaScript library. They cannot be framed: Teams
// opens a sign-in in a window, because the pages of most providers cannot be framed
// either. The pages have no Cross-Origin-Opener-Policy, because that would cut them off
// from the Teams window that waits for the result.
func contentPolicy(teamsJS string) (string, error) {
	u, err := scriptURL(teamsJS)
	if err != nil {
		return "", err
	}
	return "default-src 'none'; script-src 'self' " + u.Scheme + "://" + u.Host +
		"; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nil
}

// The reasons for which a popup fails. The last page passes them to Teams.
const (
	reasonLink     = "link_over"
	reasonState    = "state_unknown"
	reasonBrowser  = "other_browser"
	reasonDenied   = "access_denied"
	reasonProvider = "provider_error"
	reasonDown     = "provider_unavailable"
	reasonStore    = "not_available"
	reasonRate     = "too_many"
	reasonOther    = "failed"
)

// ending is the result of a popup, which its last page shows.
type ending struct {
	Status int    // HTTP status of the page
	Code   string // the security code; "" = the popup failed
	User   string // Entra object id of the user who began the popup
	Reason string // why it failed, for Teams
	Text   string // why it failed, for people
	Said   string // the provider's own text
}

func (p *Popup) failed(status int, reason string) ending {
	text := map[string]string{
		reasonLink: p.words.LinkOver, reasonState: p.words.StateUnknown, reasonBrowser: p.words.OtherBrowser,
		reasonDenied: p.words.Denied, reasonDown: p.words.ProviderDown, reasonStore: p.words.NotAvailable,
		reasonRate: p.words.TooMany,
	}[reason]
	return ending{Status: status, Reason: reason, Text: or(text, p.words.UnexpectedTry)}
}

// ServeHTTP serves the start page, the callback, and the script and style of the pages
// below /auth/, behind any prefix.
func (p *Popup) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	dir, page := path.Split(r.URL.Path)
	if !strings.HasSuffix(dir, "/auth/") {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	head := w.Header()
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Referrer-Policy", "no-referrer")
	switch page {
	case "page.js":
		p.asset(w, r, "text/javascript; charset=utf-8", page, pageJS)
		return
	case "page.css":
		p.asset(w, r, "text/css; charset=utf-8", page, pageCSS)
		return
	}
	head.Set("Cache-Control", "no-store")
	head.Set("Content-Security-Policy", p.policy)
	head.Set("X-Frame-Options", "DENY") // a web view may not know frame-ancestors
	switch {
	case page != "start" && page != "callback":
		http.NotFound(w, r)
	case r.Method == http.MethodHead: // from a link scanner: do not begin a popup
		w.WriteHeader(http.StatusOK)
	case p.overLimit(w, r):
	case page == "start":
		p.start(w, r)
	default:
		p.show(w, p.callback(w, r))
	}
}

// overLimit reports whether a request is over a limit, and answers it if so. It does
// nothing else: a state in the request stays valid.
func (p *Popup) overLimit(w http.ResponseWriter, r *http.Request) bool {
	why, wait := p.limits.take(r, p.clock())
	if why == "" {
		return false
	}
	if p.onRefused != nil {
		p.onRefused(why)
	}
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	p.show(w, p.failed(http.StatusTooManyRequests, reasonRate))
	return true
}

func (p *Popup) asset(w http.ResponseWriter, r *http.Request, kind, name string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "public, max-age=300")
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
}

// show writes the last page. The template escapes the texts of others.
func (p *Popup) show(w http.ResponseWriter, e ending) {
	var buf bytes.Buffer
	err := p.page.Execute(&buf, struct {
		ending
		Words   Words
		TeamsJS script
	}{e, p.words, p.teamsJS})
	if err != nil {
		p.log.Error().Err(err).Msg("popup: page")
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(e.Status)
	_, _ = w.Write(buf.Bytes()) // the browser may be gone
}
