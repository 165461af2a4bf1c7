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

// The console is the same endpoint for a browser: pages where the API has JSON,
// chosen by what the request accepts. A client that does not ask for text/html
// gets JSON.

// contentPolicy lets a page load its own style sheet and script, and nothing
// else from anywhere.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// wantsPage reports whether a request is a browser's.
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

// or serves page to browsers and data to everybody else.
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

// anyOf forgets the type of an answer.
func anyOf[T any](data func(*http.Request) (T, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) { return data(r) }
}

// pageFunc serves a page that has no JSON of its own.
func (h *handler) pageFunc(page func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := page(w, r); err != nil {
			h.refuse(w, r, err)
		}
	})
}

// frame is what every page has around its content.
type frame struct {
	Title   string
	Page    string // the template of the content
	Search  string
	Visitor visitor
	Form    string // token of the page's forms
	Live    string // where the page hears of changes; "" = it stays as it is
	Now     Time
	Where   string
	Bot     string // version and instance
	Open    bool   // nobody logs in here
	AsksWho bool   // forms ask for the actor's name
	NoActor bool   // the proxy did not say who acts
	Again   string // where a visitor who came from elsewhere is sent once more
	Content any
}

// live is content that changes while one looks at it.
type live interface{ topic() string }

// page renders a page. It is written whole or not at all.
func (h *handler) page(w http.ResponseWriter, r *http.Request, status int, name, title string, content any) {
	f := frame{Title: title, Page: name, Visitor: visitorOf(r), Content: content, Open: h.Token.Empty() && h.ReadToken.Empty()}
	f.Search = r.URL.Query().Get("q")
	if f.Visitor.bound != "" {
		f.Form = h.formToken(f.Visitor)
	}
	f.AsksWho = f.Visitor.Acts() && f.Visitor.Actor == "" && h.TrustHeader == ""
	f.NoActor = f.Visitor.Acts() && f.Visitor.Actor == "" && h.TrustHeader != ""
	if c, ok := content.(live); ok {
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

// pages are the templates, each with the layout around it.
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

// asset is the address of a file of the console; it changes with the file.
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

// Asset is the address of a file that [Assets] serves; it changes with the file.
func Asset(name string) string { return asset(name) }

// Assets serves the style sheet and the script of the console below /assets/,
// for pages that are made of the same parts; see [WriteAttempt].
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

// pathOf is an address below this endpoint; each segment is taken as it is.
func pathOf(first string, more ...string) string {
	p := "/" + first
	for _, m := range more {
		p += "/" + url.PathEscape(m)
	}
	return p
}
