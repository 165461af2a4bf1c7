package playground

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
	"github.com/signin-engine/signin-engine/transport/operator"
)

//go:embed page
var files embed.FS

// contentPolicy is the same as the console's. The sign-in window is a separate
// page.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// failureCodes are the codes of signin/failure that Teams clients send.
var failureCodes = []string{
	"installappfailed", "authrequestfailed", "installedappnotfound", "invokeerror", "resourcematchfailed", "oauthcardnotvalid",
	"tokenmissing", "userconsentrequired", "interactionrequired", "somethingnew",
}

// operations are the operations of the emulator that a sign-in uses, and in which
// the page can add faults.
var operations = []choice{
	{string(emulator.OpExchange), "exchange an SSO token"},
	{string(emulator.OpGetToken), "get a token, redeem a code"},
	{string(emulator.OpGetSignInResource), "make the card's link"},
	{string(emulator.OpSignOut), "sign out"},
	{string(emulator.OpPostActivity), "post to the chat (connector)"},
	{string(emulator.OpAccessToken), "get the bot's own token (Entra)"},
}

var statuses = []choice{
	{"0", "as usual"},
	{"400", "400, consent required"},
	{"401", "401 Unauthorized"},
	{"403", "403 Forbidden"},
	{"404", "404 Not Found"},
	{"412", "412 Precondition Failed"},
	{"429", "429 Too Many Requests"},
	{"500", "500 Internal Server Error"},
	{"503", "503 Service Unavailable"},
	{"drop", "no answer at all"},
}

var delays = []choice{{"0s", "none"}, {"1s", "1 s"}, {"4s", "4 s"}, {"12s", "12 s"}}

var repeats = []choice{{"1", "once"}, {"3", "three times"}, {"0", "until removed"}}

var platforms = []string{"Windows", "Web", "iOS", "Android", "Mac"}

// ServeHTTP serves the page at / and its parts below /playground/ and /assets/.
func (p *Playground) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !local(r.Host) {
		http.Error(w, "Open the playground at a loopback address, such as 127.0.0.1.", http.StatusForbidden)
		return
	}
	if err := p.origin.Check(r); err != nil {
		http.Error(w, "The request comes from another site.", http.StatusForbidden)
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /":
		p.show(w, r)
	case "POST /playground/do":
		p.do(w, r)
	case "GET /playground/events":
		p.stream(w, r)
	case "GET /playground/playground.css":
		p.file(w, "playground.css", "text/css; charset=utf-8")
	case "GET " + ClientScript:
		w.Header().Set("Access-Control-Allow-Origin", "*") // the popup that loads it is a page of the bot
		p.file(w, "teams.js", "text/javascript; charset=utf-8")
	case "GET /playground/playground.js":
		p.file(w, "playground.js", "text/javascript; charset=utf-8")
	default:
		if strings.HasPrefix(r.URL.Path, "/assets/") {
			operator.Assets().ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	}
}

// Serves reports whether a path belongs to the playground.
func Serves(path string) bool {
	return path == "/" || strings.HasPrefix(path, "/playground/") || strings.HasPrefix(path, "/assets/")
}

// local reports whether a host names this machine by address or as localhost. Any
// other name could be one that an attacker points here by DNS.
func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.IsLoopback() || host == "localhost"
}

func (p *Playground) file(w http.ResponseWriter, name, kind string) {
	b, err := files.ReadFile("page/" + name)
	if err != nil {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(b) // the client may have gone
}

// item is a line of the chat.
type item struct {
	At     time.Time
	Who    string // mine, bot, wire
	Text   string
	Device string
	Status int
	Failed string
	Took   string
	Wait   bool
	Card   *emulator.Card
	Fresh  bool // the newest card, the only one whose button works
	For    string
}

type view struct {
	User       emulator.Account
	Place      string
	Places     []choice
	Items      []item
	Devices    []deviceView
	Addable    []string
	Say        []string
	Codes      []string
	Reactions  []choice
	Tokens     []choice
	Operations []choice
	Statuses   []choice
	Delays     []choice
	Repeats    []choice
	Faults     []string
	Attempts   []operator.View
	Chosen     string
	Attempt    template.HTML
	Console    string
	Problem    string
	Group      bool
	Extension  bool
	Search     search
}

type deviceView struct {
	device
	CanRepeat bool
}

func reactions() []choice {
	all := []choice{
		{reactSSO, "send an SSO token"}, {reactTwice, "send the token twice"}, {reactNothing, "wait for the button"},
	}
	for _, code := range failureCodes {
		all = append(all, choice{reactFail + code, "report " + code})
	}
	return all
}

func (p *Playground) show(w http.ResponseWriter, r *http.Request) {
	v := p.view()
	v.Problem = problems[r.URL.Query().Get("problem")]
	p.addAttempt(r.Context(), &v, r.URL.Query().Get("attempt"))
	t, err := page()
	var buf bytes.Buffer
	if err == nil {
		err = t.Execute(&buf, v)
	}
	head := w.Header()
	head.Set("Content-Security-Policy", contentPolicy)
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Cache-Control", "no-store")
	head.Set("Referrer-Policy", "no-referrer")
	if err != nil {
		http.Error(w, "The page cannot be shown: "+err.Error(), http.StatusInternalServerError)
		return
	}
	head.Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(buf.Bytes()) // the client may have gone
}

// view collects what the page shows of the chat.
func (p *Playground) view() view {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := view{
		User: p.user, Place: p.place.Kind, Group: p.place.Kind != "personal", Codes: failureCodes, Reactions: reactions(), Tokens: tokenKinds,
		Places:     []choice{{"personal", "Personal chat"}, {"groupChat", "Group chat"}, {"channel", "Channel"}},
		Operations: operations, Statuses: statuses, Delays: delays, Repeats: repeats, Console: p.cfg.ConsoleURL,
		Extension: p.cfg.Extension, Search: p.search,
	}
	for _, c := range p.cfg.Connections {
		v.Say = append(v.Say, "login "+c)
	}
	v.Say = append(v.Say, "status", "logout", "help")
	for _, d := range p.devices {
		v.Devices = append(v.Devices, deviceView{*d, d.last != nil})
	}
	for _, name := range platforms {
		if p.device(name) == nil && len(p.devices) < deviceMost {
			v.Addable = append(v.Addable, name)
		}
	}
	for _, f := range p.cfg.Emulator.Faults() {
		v.Faults = append(v.Faults, faultWords(f))
	}
	v.Items = p.items()
	return v
}

func (p *Playground) items() []item {
	var items []item
	for _, e := range p.log {
		if e.Place != p.place.ID {
			continue
		}
		it := item{At: e.At, Who: "wire", Text: e.Text, Device: e.Device, Status: e.Status, Failed: e.Failed, Wait: e.Status == 0 && e.Failed == ""}
		if e.Mine {
			it.Who = "mine"
		}
		if e.Took > 0 {
			it.Took = e.Took.Round(time.Millisecond).String()
		}
		items = append(items, it)
	}
	newest, _ := p.cfg.Emulator.LastCard(p.place.ID)
	for _, a := range p.cfg.Emulator.Activities(p.place.ID) {
		it := item{At: a.Time, Who: "bot", Text: a.Text, Card: a.Card}
		if a.Targeted {
			it.For = p.user.Name
		}
		it.Fresh = a.Card != nil && a.Card.ActivityID == newest.ActivityID
		if a.Text == "" && a.Card == nil {
			continue
		}
		items = append(items, it)
	}
	slices.SortStableFunc(items, func(a, b item) int { return a.At.Compare(b.At) })
	return items
}

// addAttempt adds the attempt that the operator endpoint has of this user.
func (p *Playground) addAttempt(ctx context.Context, v *view, id string) {
	list, err := p.cfg.Operator.List(ctx, operator.Query{User: v.User.ID, Limit: 20})
	if err != nil {
		v.Problem = "The operator endpoint does not answer: " + err.Error()
		return
	}
	v.Attempts = list.Attempts
	var buf bytes.Buffer
	if len(list.Attempts) == 0 {
		if err = operator.WriteDiagram(&buf); err != nil {
			v.Problem = "The diagram cannot be shown: " + err.Error()
			return
		}
		v.Attempt = template.HTML(buf.String()) //nolint:gosec // html/template made it
		return
	}
	v.Chosen = list.Attempts[0].ID
	if slices.ContainsFunc(list.Attempts, func(a operator.View) bool { return a.ID == id }) {
		v.Chosen = id
	}
	d, err := p.cfg.Operator.Get(ctx, v.Chosen)
	if err != nil {
		v.Problem = "The attempt cannot be read: " + err.Error()
		return
	}
	if err = operator.WriteAttempt(&buf, d); err != nil {
		v.Problem = "The attempt cannot be shown: " + err.Error()
		return
	}
	v.Attempt = template.HTML(buf.String()) //nolint:gosec // html/template made it
}

func faultWords(f emulator.Fault) string {
	at := slices.IndexFunc(operations, func(c choice) bool { return c.Value == string(f.Operation) })
	text := string(f.Operation)
	if at >= 0 {
		text = operations[at].Label
	}
	switch {
	case f.Drop:
		text += ": no answer"
	case f.Status != 0:
		text += ": " + strconv.Itoa(f.Status)
	}
	if f.Delay > 0 {
		text += ", " + f.Delay.String() + " late"
	}
	switch f.Times {
	case 0:
	case 1:
		text += ", once"
	default:
		text += ", " + strconv.Itoa(f.Times) + " times"
	}
	return text
}

var page = sync.OnceValues(func() (*template.Template, error) {
	t, err := template.New("page.html").Funcs(template.FuncMap{
		"file": func(name string) string {
			b, err := files.ReadFile("page/" + name)
			if err != nil {
				return ""
			}
			sum := sha256.Sum256(b)
			return "/playground/" + name + "?v=" + hex.EncodeToString(sum[:6])
		},
		"asset": operator.Asset,
		"clock": func(t time.Time) string { return t.Local().Format(time.TimeOnly) },
		"why":   func(v operator.View) string { return cmp.Or(string(v.Method), string(v.Reason)) },
		"lower": strings.ToLower,
		"code":  http.StatusText,
	}).ParseFS(files, "page/page.html")
	if err != nil {
		return nil, fmt.Errorf("playground: %w", err)
	}
	return t, nil
})

// problems are the messages that the page shows about a form.
var problems = map[string]string{
	"form":    "That form cannot be read.",
	"stopped": "The playground has stopped: start it again.",
	"card":    "There is no card to answer: say login first.",
}

var errForm = errors.New("form")

// do carries out what a form asks for, and redirects to the page.
func (p *Playground) do(w http.ResponseWriter, r *http.Request) {
	const most = 64 << 10
	r.Body = http.MaxBytesReader(w, r.Body, most)
	to := "/"
	err := r.ParseForm()
	var task func(context.Context)
	if err == nil {
		task, err = p.order(r.PostForm)
	}
	if err == nil && task != nil {
		err = p.begin(r.Context(), task)
	}
	switch {
	case errors.Is(err, errStopped):
		to = "/?problem=stopped"
	case errors.Is(err, errNoCard):
		to = "/?problem=card"
	case err != nil:
		to = "/?problem=form"
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

var errNoCard = errors.New("no card")

// order applies a form to the playground. If something has to be sent for it,
// order returns a function that does so.
func (p *Playground) order(f url.Values) (func(context.Context), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changes++
	d := p.device(f.Get("device"))
	if d == nil {
		d = p.devices[0]
	}
	who := *d
	card, hasCard := p.cfg.Emulator.LastCard(p.place.ID)
	replyTo := cmp.Or(f.Get("card"), card.ActivityID)
	if task, ok := p.searching(f.Get("do"), f.Get, who.Name); ok {
		return task, nil
	}
	switch f.Get("do") {
	case "say":
		if text := strings.TrimSpace(f.Get("text")); text != "" {
			return func(ctx context.Context) { p.say(ctx, who.Name, text) }, nil
		}
	case "code":
		if code := strings.TrimSpace(f.Get("code")); code != "" {
			return func(ctx context.Context) { p.verify(ctx, who.Name, code, replyTo) }, nil
		}
	case "close":
		return func(ctx context.Context) { p.verify(ctx, who.Name, emulator.CancelledByUser, replyTo) }, nil
	case "sso":
		if !hasCard || card.ExchangeID() == "" {
			return nil, errNoCard
		}
		return func(ctx context.Context) { p.exchange(ctx, who, card) }, nil
	case "again":
		return func(ctx context.Context) { p.again(ctx, who.Name) }, nil
	case "failure":
		return func(ctx context.Context) { p.failure(ctx, who, f.Get("code")) }, nil
	case "place":
		p.move(f.Get("place"))
	case "device":
		d.Reaction, d.Token = cmp.Or(f.Get("reaction"), d.Reaction), cmp.Or(f.Get("token"), d.Token)
	case "device-add":
		if name := f.Get("name"); slices.Contains(platforms, name) && p.device(name) == nil {
			p.devices = append(p.devices, &device{Name: name, Reaction: reactSSO, Token: tokenGood})
		}
	case "device-remove":
		if len(p.devices) > 1 {
			p.devices = slices.DeleteFunc(p.devices, func(o *device) bool { return o == d })
		}
	case "trouble":
		return nil, p.trouble(f)
	case "trouble-clear":
		p.cfg.Emulator.ClearFaults()
	case "new":
		p.startOver()
	default:
		return nil, errForm
	}
	return nil, nil
}

func (p *Playground) trouble(f url.Values) error {
	fault := emulator.Fault{Operation: emulator.Operation(f.Get("operation"))}
	var err error
	if fault.Delay, err = time.ParseDuration(cmp.Or(f.Get("delay"), "0s")); err != nil {
		return errForm
	}
	if fault.Times, err = strconv.Atoi(cmp.Or(f.Get("times"), "1")); err != nil {
		return errForm
	}
	if f.Get("status") == "drop" {
		fault.Drop = true
	} else if fault.Status, err = strconv.Atoi(cmp.Or(f.Get("status"), "0")); err != nil {
		return errForm
	}
	switch {
	case fault.Status == http.StatusBadRequest && fault.Operation == emulator.OpExchange:
		fault.Code = "ConsentRequired"
	case fault.Status == http.StatusUnauthorized && fault.Operation == emulator.OpAccessToken:
		fault.Code = "invalid_client"
	}
	if fault.Status == 0 && fault.Delay == 0 && !fault.Drop {
		return nil
	}
	p.cfg.Emulator.AddFault(fault)
	return nil
}

// stream sends an event to the page whenever something has changed.
func (p *Playground) stream(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{})  // otherwise the server's timeout would end the stream
	_ = out.SetWriteDeadline(time.Time{}) // for the same reason
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	tick := time.NewTicker(streamPause)
	defer tick.Stop()
	last := ""
	for beat := 0; ; beat++ {
		now := p.fingerprint(r.Context())
		text := ""
		switch {
		case now != last && last != "":
			text = "event: change\ndata: \n\n"
		case beat%20 == 0:
			text = ": still here\n\n"
		}
		last = now
		if text != "" {
			if _, err := w.Write([]byte(text)); err != nil || out.Flush() != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-p.stopped():
			return
		case <-tick.C:
		}
	}
}

const streamPause = 300 * time.Millisecond

func (p *Playground) fingerprint(ctx context.Context) string {
	p.mu.Lock()
	user, changes, at := p.user.ID, p.changes, p.place.ID
	p.mu.Unlock()
	text := fmt.Sprint(user, changes, at, len(p.cfg.Emulator.Faults()))
	if all := p.cfg.Emulator.Activities(at); len(all) > 0 {
		text += fmt.Sprint(all[len(all)-1].Seq)
	}
	list, err := p.cfg.Operator.List(ctx, operator.Query{User: user, Limit: 20})
	if err != nil {
		return text + "!"
	}
	for _, v := range list.Attempts {
		text += fmt.Sprint(v.ID, v.Version, v.Callback)
	}
	return text
}
