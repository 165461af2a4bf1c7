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

// contentPolicy lets a page load its own script and style, and the library of
// the Teams client. Nobody may frame it: Teams opens a sign-in in a window, for
// the pages of providers refuse to be framed too. There is no
// Cross-Origin-Opener-Policy: it would cut the page off from the window that has
// to hear of the result.
func contentPolicy(teamsJS string) (string, error) {
	u, err := scriptURL(teamsJS)
	if err != nil {
		return "", err
	}
	return "default-src 'none'; script-src 'self' " + u.Scheme + "://" + u.Host +
		"; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nil
}

// Reasons with which a popup fails, as Teams is told.
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

// ending is how a popup ends, as its page shows it.
type ending struct {
	Status int
	Code   string // of a success; "" for a failure
	User   string // Entra object id of who began it
	Reason string // for Teams
	Text   string // for people
	Said   string // by the provider
}

func (p *Popup) failed(status int, reason string) ending {
	text := map[string]string{
		reasonLink: p.words.LinkOver, reasonState: p.words.StateUnknown, reasonBrowser: p.words.OtherBrowser,
		reasonDenied: p.words.Denied, reasonDown: p.words.ProviderDown, reasonStore: p.words.NotAvailable,
		reasonRate: p.words.TooMany,
	}[reason]
	return ending{Status: status, Reason: reason, Text: or(text, p.words.UnexpectedTry)}
}

// ServeHTTP answers …/auth/start, …/auth/callback, and the page's own script and
// style, whatever stands in front of /auth.
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
	case r.Method == http.MethodHead: // of a scanner of links: it begins nothing
		w.WriteHeader(http.StatusOK)
	case p.overLimit(w, r):
	case page == "start":
		p.start(w, r)
	default:
		p.show(w, p.callback(w, r))
	}
}

// overLimit answers a request of which there are too many. Nothing was done: a
// state stays good.
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

// show writes the page. Text of others is escaped by the template.
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
