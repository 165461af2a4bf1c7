package emulator

import (
	"bytes"
	_ "embed" // the page
	"html/template"
	"net/http"
	"net/url"
)

//go:embed page.html
var pageSource string

type pageData struct {
	Title, User, Connection string
	Action                  string
	Code                    string
	Cancelled               bool
	Nonce                   string
}

// signInPage shows the page with the button. It changes nothing, so that a link
// preview or a reload cannot sign anybody in.
func (s *Server) signInPage(w http.ResponseWriter, in *incoming) {
	id := in.query["signin"]
	l := s.link(id)
	if l == nil {
		s.page(w, http.StatusNotFound, pageData{Title: "Unknown sign-in"})
		return
	}
	s.page(w, statusOK, pageData{
		Title:      "Sign in",
		User:       s.user(l.state.UserID).Name,
		Connection: s.connection(l.state.Connection).DisplayName,
		Action:     "?signin=" + url.QueryEscape(id),
	})
}

// signIn handles the button of the page: it makes the code. The service holds a token
// only after the bot has redeemed the code.
func (s *Server) signIn(w http.ResponseWriter, in *incoming) {
	l := s.link(in.query["signin"])
	if l == nil {
		s.page(w, http.StatusNotFound, pageData{Title: "Unknown sign-in"})
		return
	}
	form, err := url.ParseQuery(string(in.body))
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadRequest", "the form cannot be read")
		return
	}
	if form.Get("answer") == "cancel" {
		s.page(w, statusOK, pageData{Title: "Cancelled", Cancelled: true})
		return
	}
	s.page(w, statusOK, pageData{
		Title:      "Signed in",
		User:       s.user(l.state.UserID).Name,
		Connection: s.connection(l.state.Connection).DisplayName,
		Code:       s.IssueCode(l.userConnection()),
	})
}

// page renders the page. It sets no Cross-Origin-Opener-Policy, which would take
// window.opener away from the page.
func (s *Server) page(w http.ResponseWriter, status int, data pageData) {
	data.Nonce = s.ids.hex(16)
	var buf bytes.Buffer
	tmpl, err := template.New("page").Parse(pageSource)
	if err == nil {
		err = tmpl.Execute(&buf, data)
	}
	if err != nil {
		refuse(w, http.StatusInternalServerError, "InternalServerError", "the page cannot be shown")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "+
		"script-src 'nonce-"+data.Nonce+"'; style-src 'nonce-"+data.Nonce+"'")
	w.WriteHeader(status)
	write(w, buf.Bytes())
}
