package operator

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
)

//go:embed console
var consoleFiles embed.FS

// The console and the API share one endpoint and its addresses. A request that
// accepts text/html gets a page; every other request gets JSON.

// contentPolicy lets a page load the console's own style sheet, script and icon,
// and nothing else.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// wantsPage reports whether a request accepts a page, as those of browsers do.
func wantsPage(r *http.Request) bool { return accepts(r, "text/html") }

func accepts(r *http.Request, kind string) bool {
	for _, line := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(line, ",") {
			got, params, err := mime.ParseMediaType(part)
			if err == nil && got == kind && params["q"] != "0" {
				return true
			}
		}
	}
	return false
}

func isForm(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && (kind == "application/x-www-form-urlencoded" || kind == "multipart/form-data")
}

// or serves page to browsers, and data as JSON to every other client.
func (h *handler) or(page func(http.ResponseWriter, *http.Request) error, data func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept")
		if !wantsPage(r) {
			h.reply(data).ServeHTTP(w, r)
			return
		}
		if err := page(w, r); err != nil {
			h.refuse(w, r, err)
		}
	})
}

// anyOf adapts a handler of one result type to the type that [handler.or] takes.
func anyOf[T any](data func(*http.Request) (T, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) { return data(r) }
}

// pageFunc serves a page that has no JSON form.
func (h *handler) pageFunc(page func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := page(w, r); err != nil {
			h.refuse(w, r, err)
		}
	})
}

// frame is the data of the layout template, which surrounds the content of every
// page.
type frame struct {
	Title   string
	Page    string // name of the content's template
	Search  string // text in the search field
	Visitor visitor
	Form    string // the token that forms of this page send (CSRF protection)
	Live    string // event stream of the page; "" = the page is not live
	Now     Time
	Where   string // the store: backend and location
	Bot     string // version and instance
	Open    bool   // the endpoint has no tokens, so nobody logs in
	AsksWho bool   // forms ask for the actor's name
	NoActor bool   // the proxy did not say who acts
	Again   string // where the login page sends the browser once more; see page
	Content any
}

// live is content that is kept up to date while it is open. topic is the address
// of its event stream.
type live interface{ topic() string }

// page renders a page. It renders into a buffer first, so that a page is written
// completely or not at all.
func (h *handler) page(w http.ResponseWriter, r *http.Request, status int, name, title string, content any) {
	f := frame{Title: title, Page: name, Visitor: visitorOf(r), Content: content, Open: h.Token.Empty() && h.ReadToken.Empty()}
	f.Search = r.URL.Query().Get("q")
	if f.Visitor.bound != "" {
		f.Form = h.formToken(f.Visitor)
	}
	f.AsksWho = f.Visitor.Acts() && f.Visitor.Actor == "" && h.TrustHeader == ""
	f.NoActor = f.Visitor.Acts() && f.Visitor.Actor == "" && h.TrustHeader != ""
	if c, ok := content.(live); ok && status == http.StatusOK { // a refusal stays as it is
		f.Live = c.topic()
	}
	if c, ok := content.(loginData); ok && c.Problem == "" && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		f.Again = c.Next
	}
	if f.Visitor.Known() {
		if info, err := h.Reader.Info(r.Context()); err == nil {
			f.Now, f.Where, f.Bot = info.Now, info.Backend+" "+info.Where, strings.TrimSpace(info.Version+" "+info.Instance)
		}
	}
	var buf bytes.Buffer
	t, err := pages()
	if err == nil {
		err = t[name].ExecuteTemplate(&buf, "layout", f)
	}
	head := w.Header()
	secureHeaders(head)
	if err != nil {
		h.Log.Error().Err(err).Str("page", name).Msg("page not rendered")
		http.Error(w, "The page cannot be shown.", http.StatusInternalServerError)
		return
	}
	head.Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if _, err := w.Write(buf.Bytes()); err != nil {
		h.Log.Debug().Err(err).Msg("page not written")
	}
}

func secureHeaders(head http.Header) {
	head.Set("Content-Security-Policy", contentPolicy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Cross-Origin-Opener-Policy", "same-origin")
	head.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// pages returns the page templates by name, each with the layout around it. The
// name "" has the layout and the shared parts alone.
var pages = sync.OnceValues(func() (map[string]*template.Template, error) {
	base, err := template.New("base").Funcs(templateFuncs()).ParseFS(consoleFiles, "console/layout.html", "console/parts.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	all := map[string]*template.Template{"": base}
	files, err := fs.Glob(consoleFiles, "console/page_*.html")
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	for _, file := range files {
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(consoleFiles, file)
		}
		if err != nil {
			return nil, fmt.Errorf("console: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path.Base(file), "page_"), ".html")
		all[name] = t
	}
	return all, nil
})

// asset returns the address of a console file. The address has a hash of the
// content, so that browsers may cache it for ever.
var asset = func() func(name string) string {
	var known sync.Map
	return func(name string) string {
		if at, ok := known.Load(name); ok {
			return at.(string) //nolint:forcetypeassert // only strings are stored
		}
		b, err := consoleFiles.ReadFile("console/" + name)
		if err != nil {
			return ""
		}
		sum := sha256.Sum256(b)
		at := "/assets/" + name + "?v=" + hex.EncodeToString(sum[:6])
		known.Store(name, at)
		return at
	}
}()

// Asset returns the address of a file that [Assets] serves, such as
// "/assets/console.css?v=…". It changes with the content of the file. The address
// of an unknown file is empty.
func Asset(name string) string { return asset(name) }

// Assets serves the console's style sheet, script and icon below /assets/. Other
// pages that use parts of the console need it too; see [WriteAttempt].
func Assets() http.Handler {
	kinds := map[string]string{"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/assets/")
		b, err := consoleFiles.ReadFile("console/" + name)
		if err != nil || kinds[name] == "" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", kinds[name])
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		_, _ = w.Write(b) //nolint:gosec // an embedded file; whoever asked may be gone
	})
}

// pathOf builds a path of this endpoint. It escapes every segment but the first.
func pathOf(first string, more ...string) string {
	p := "/" + first
	for _, m := range more {
		p += "/" + url.PathEscape(m)
	}
	return p
}
