package operator

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine/diagram"
	"github.com/signin-engine/signin-engine/store"
)

// rulePage is a stuck rule with its findings, so that the page gives the advice
// once.
type rulePage struct {
	Rule, Level, Meaning, Advice string
	Oldest                       time.Duration
	Findings                     []Finding
	More                         int
}

// mostFindings is how many findings of one rule the page shows. The list of
// attempts has the others.
const mostFindings = 5

type overviewPage struct {
	Overview
	Errors, Warnings int
	Rules            []rulePage
	Completed        []bar
	Failed           []bar
	Done, Lost       int
}

func (overviewPage) topic() string { return "/events" }

// bar is one line of a bar chart.
type bar struct {
	Word  string
	Count int
	Share float64 // of the largest count, in per cent
}

func barsOf(counts map[string]int) (bars []bar, total int) {
	most := 1
	for word, n := range counts {
		bars = append(bars, bar{Word: word, Count: n})
		total += n
		most = max(most, n)
	}
	for i := range bars {
		bars[i].Share = 100 * float64(bars[i].Count) / float64(most)
	}
	slices.SortFunc(bars, func(a, b bar) int { return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Word, b.Word)) })
	return bars, total
}

// chart is a bar chart. Each bar links to the attempts that it counts.
type chart struct {
	Tone string
	Bars []linkedBar
}

type linkedBar struct {
	bar
	URL string
}

// chartOf makes a chart. Each bar links to the list of attempts with its word as
// the value of filter; more is appended to the query string of every link.
func chartOf(bars []bar, filter, tone, more string) chart {
	c := chart{Tone: tone}
	for _, b := range bars {
		v := url.Values{filter: {b.Word}}
		c.Bars = append(c.Bars, linkedBar{b, "/attempts?" + v.Encode() + more})
	}
	return c
}

func (h *handler) overviewPage(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Has("q") {
		return h.search(w, r)
	}
	o, err := h.Reader.Overview(r.Context())
	if err != nil {
		return err
	}
	p := overviewPage{Overview: o, Rules: byRule(o.Stuck)}
	for _, rule := range p.Rules {
		n := len(rule.Findings) + rule.More
		if rule.Level == LevelError {
			p.Errors += n
		} else {
			p.Warnings += n
		}
	}
	p.Completed, p.Done = barsOf(o.LastHour.Complete)
	p.Failed, p.Lost = barsOf(o.LastHour.Failed)
	h.page(w, r, http.StatusOK, "overview", "Overview", p)
	return nil
}

// byRule groups findings by their rule. The rules keep the order of their first
// findings, so the most serious comes first.
func byRule(found []Finding) []rulePage {
	var all []rulePage
	at := map[string]int{}
	for _, f := range found {
		i, known := at[f.Rule]
		if !known {
			i = len(all)
			at[f.Rule] = i
			all = append(all, rulePage{Rule: f.Rule, Level: f.Level, Meaning: textOf(f.Rule).meaning, Advice: f.Advice})
		}
		one := &all[i]
		one.Oldest = max(one.Oldest, f.Age.Duration())
		if len(one.Findings) == mostFindings {
			one.More++
			continue
		}
		one.Findings = append(one.Findings, f)
	}
	return all
}

// search redirects to the attempt or the user that an id stands for. If there are
// several matches or none, it shows the search page.
func (h *handler) search(w http.ResponseWriter, r *http.Request) error {
	id := strings.TrimSpace(r.URL.Query().Get("q"))
	page, err := h.find(r)
	if err != nil && !errors.Is(err, ErrBadRequest) {
		return err
	}
	switch {
	case id == "":
		http.Redirect(w, r, "/", http.StatusSeeOther)
	case len(page.Attempts) == 1:
		http.Redirect(w, r, pathOf("attempts", page.Attempts[0].ID), http.StatusSeeOther)
	case len(page.Attempts) > 1 && isUser(page.Attempts[0], id):
		http.Redirect(w, r, pathOf("users", id), http.StatusSeeOther) //nolint:gosec // a path of this endpoint
	default:
		status := http.StatusOK
		if len(page.Attempts) == 0 {
			if story, _, err := StoryWithout(r.Context(), h.Reader, id); err == nil && story.Headline != "" {
				http.Redirect(w, r, pathOf("users", id), http.StatusSeeOther) //nolint:gosec // as above
				return nil
			}
			status = http.StatusNotFound
		}
		word, known := Explain(id)
		h.page(w, r, status, "search", "Search", searchPage{ID: id, Page: page, Word: word, Known: known})
	}
	return nil
}

type searchPage struct {
	ID string
	Page
	Word  Explanation
	Known bool
}

func isUser(v View, id string) bool { return v.Key.User == id || v.UserAAD == id }

// find answers GET /search.
func (h *handler) find(r *http.Request) (Page, error) {
	s, ok := h.Reader.(Searcher)
	if !ok {
		return Page{}, ErrUnsupported
	}
	return s.Search(r.Context(), r.URL.Query().Get("q"))
}

// filterField is one field of the filter form.
type filterField struct {
	Name, Label, Value, Hint string
	Options                  []string
}

type attemptsPage struct {
	Page
	Fields      []filterField
	States      []stateBox
	Stuck       bool
	Problem     string
	Filtered    bool
	Next, First string
	Acts        []bulkLink
	Query       url.Values
}

func (attemptsPage) topic() string { return "/events" }

type stateBox struct {
	State store.State
	On    bool
}

type bulkLink struct{ Action, Label, URL string }

func (h *handler) attemptsPage(w http.ResponseWriter, r *http.Request) error {
	values := withoutEmpty(r.URL.Query())
	p := attemptsPage{Query: values}
	q, err := ParseQuery(values, h.Clock())
	if err == nil {
		p.Page, err = h.Reader.List(r.Context(), q)
	}
	status := http.StatusOK
	if err != nil {
		if !errors.Is(err, ErrBadRequest) {
			return err
		}
		status, p.Problem = http.StatusBadRequest, err.Error()
	}
	p.Fields, p.Filtered, p.Stuck = filterFields(values), len(values) > 0, values.Get("stuck") == "true"
	for _, s := range allStates() {
		p.States = append(p.States, stateBox{s, slices.Contains(values["state"], string(s))})
	}
	filter := cloneValues(values, "cursor", "limit")
	for _, a := range actions {
		p.Acts = append(p.Acts, bulkLink{a.Name, a.Label, "/attempts/act?" + withValue(filter, "action", a.Name).Encode()})
	}
	if p.NextCursor != "" {
		p.Next = "/attempts?" + withValue(values, "cursor", p.NextCursor).Encode()
	}
	if values.Has("cursor") {
		p.First = "/attempts?" + cloneValues(values, "cursor").Encode()
	}
	h.page(w, r, status, "attempts", "Attempts", p)
	return nil
}

func allStates() []store.State {
	return []store.State{store.Idle, store.CardSent, store.Exchanging, store.Verifying, store.Complete, store.Failed}
}

// filterFields are the fields of the filter form, with their values in v. They are
// the filters of the command `list`.
func filterFields(v url.Values) []filterField {
	fields := []filterField{
		{Name: "user", Label: "User", Hint: "MRI (29:…) or Entra object id"},
		{Name: "connection", Label: "Connection"},
		{Name: "reason", Label: "Failed because", Options: namesOf(kindReason)},
		{Name: "method", Label: "Completed by", Options: namesOf(kindMethod)},
		{Name: "failure_code", Label: "Failure code"},
		{Name: "age_gt", Label: "Longer in its state than", Hint: "such as 10m"},
		{Name: "since", Label: "Since", Hint: "such as 24h or 2026-04-22"},
		{Name: "until", Label: "Until", Hint: "such as 1h or 2026-04-22"},
		{Name: "tenant", Label: "Tenant"},
		{Name: "conversation", Label: "Conversation"},
		{Name: "platform", Label: "Client", Hint: "Web, Windows, Mac, iOS, Android"},
		{Name: "instance", Label: "Instance"},
	}
	for i := range fields {
		fields[i].Value = v.Get(fields[i].Name)
	}
	return fields
}

func namesOf(kind string) []string {
	var names []string
	for _, e := range Explanations() {
		if e.Kind == kind {
			names = append(names, e.Code)
		}
	}
	return names
}

// withoutEmpty drops the empty values, which a form sends for fields that were left
// blank.
func withoutEmpty(v url.Values) url.Values {
	c := url.Values{}
	for name, list := range v {
		for _, one := range list {
			if one = strings.TrimSpace(one); one != "" {
				c.Add(name, one)
			}
		}
	}
	return c
}

func cloneValues(v url.Values, without ...string) url.Values {
	c := url.Values{}
	for name, list := range v {
		if !slices.Contains(without, name) {
			c[name] = slices.Clone(list)
		}
	}
	return c
}

func withValue(v url.Values, name, value string) url.Values {
	c := cloneValues(v, name)
	c.Set(name, value)
	return c
}

// line is an audit line as the timeline shows it.
type line struct {
	EventView
	Since time.Duration // since the line before
	First bool
	Says  string // the line as a sentence
	Bad   bool   // the line reports a failure
}

type attemptPage struct {
	Detail
	Story   Story
	Lines   []line
	Hidden  int
	Show    string
	Shows   []showLink
	SVG     string
	Steps   []diagram.Step
	Chain   []View
	Actions []actionButton
	Did     string // the action that was just taken, as a sentence
	Problem string // the error of the action
	Given   string // the operator's reason, to fill the form in again
}

func (p attemptPage) topic() string { return "/events?attempt=" + url.QueryEscape(p.ID) }

type showLink struct {
	Name, URL string
	On        bool
}

func (h *handler) attemptPage(w http.ResponseWriter, r *http.Request) error {
	return h.showAttempt(w, r, http.StatusOK, attemptPage{Did: didText(r.URL.Query().Get("did"))})
}

// showAttempt shows the page of the attempt that the request names. Of p it takes
// Problem, Did and Given.
func (h *handler) showAttempt(w http.ResponseWriter, r *http.Request, status int, p attemptPage) error {
	d, err := h.Reader.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	show := r.URL.Query().Get("show")
	problem, did, given := p.Problem, p.Did, p.Given
	p = pageOf(d, show)
	p.Problem, p.Did, p.Given = problem, did, given
	for _, s := range []struct{ name, value string }{{"All", ""}, {"Upstream", "upstream"}, {"Failures", "failures"}} {
		to := pathOf("attempts", d.ID)
		if s.value != "" {
			to += "?show=" + s.value
		}
		p.Shows = append(p.Shows, showLink{s.name, to + "#timeline", s.value == p.Show})
	}
	p.Chain = h.chain(r.Context(), d.View)
	if visitorOf(r).Acts() && h.Actor != nil {
		p.Actions = actionsOf(d)
	}
	h.page(w, r, status, "attempt", "Sign-in of "+whom(d)+" to "+d.Key.Connection, p)
	return nil
}

// pageOf builds the page of an attempt from d. show is "upstream" or "failures" to
// show only those lines of the timeline.
func pageOf(d Detail, show string) attemptPage {
	p := attemptPage{Detail: d, Story: StoryOf(d), SVG: drawingOf(d), Steps: diagram.Steps(pathEvents(d))}
	if show == "upstream" || show == "failures" {
		p.Show = show
	}
	for _, l := range linesOf(d.Events) {
		if p.Show == "upstream" && l.Kind != store.EventUpstream || p.Show == "failures" && !l.Bad {
			p.Hidden++
			continue
		}
		p.Lines = append(p.Lines, l)
	}
	return p
}

// linesOf turns audit lines into lines of a timeline.
func linesOf(events []EventView) []line {
	lines := make([]line, len(events))
	for i, e := range events {
		lines[i] = line{EventView: e, First: i == 0, Says: says(e), Bad: isBad(e)}
		if i > 0 {
			lines[i].Since = max(0, e.Time.Sub(events[i-1].Time.Time))
		}
	}
	return lines
}

// longestChain bounds how far a chain is followed in each direction.
const longestChain = 20

// chain returns the attempts that superseded each other, oldest first. It is empty
// if v superseded none and none superseded it.
func (h *handler) chain(ctx context.Context, v View) []View {
	all := []View{v}
	seen := map[string]bool{v.ID: true}
	follow := func(id string, next func(View) string, add func(View)) {
		for n := 0; id != "" && !seen[id] && n < longestChain; n++ {
			seen[id] = true
			d, err := h.Reader.Get(ctx, id)
			if err != nil {
				return // the attempt was purged or cannot be read: the chain ends here
			}
			add(d.View)
			id = next(d.View)
		}
	}
	follow(v.Supersedes, func(v View) string { return v.Supersedes }, func(v View) { all = slices.Insert(all, 0, v) })
	follow(v.SupersededBy, func(v View) string { return v.SupersededBy }, func(v View) { all = append(all, v) })
	if len(all) == 1 {
		return nil
	}
	return all
}

type userPage struct {
	ID   string
	Name string
	Page
	Connections []View // the newest attempt of each connection
	Next        string
	Story       Story  // explains why the user has no attempt, if there is none
	Lines       []line // the audit lines about the user, if there is no attempt
}

func (userPage) topic() string { return "/events" }

func (h *handler) userPage(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	page, err := h.user(r)
	if err != nil {
		return err
	}
	p := userPage{ID: id, Page: page}
	seen := map[string]bool{}
	for _, v := range page.Attempts {
		if name := strings.ToLower(v.Key.Connection); !seen[name] {
			seen[name] = true
			p.Connections = append(p.Connections, v)
		}
	}
	if len(page.Attempts) > 0 {
		if d, err := h.Reader.Get(r.Context(), page.Attempts[0].ID); err == nil {
			p.Name = d.UserName
		}
	}
	if page.NextCursor != "" {
		p.Next = "/attempts?" + url.Values{"user": {id}, "cursor": {page.NextCursor}}.Encode()
	}
	status := http.StatusOK
	if len(page.Attempts) == 0 {
		var lines []EventView
		if p.Story, lines, err = StoryWithout(r.Context(), h.Reader, id); err != nil {
			return err
		}
		if p.Story.Headline == "" {
			status = http.StatusNotFound
		}
		p.Lines = linesOf(lines)
	}
	h.page(w, r, status, "user", "User "+cmp.Or(p.Name, id), p)
	return nil
}

func (h *handler) user(r *http.Request) (Page, error) {
	return h.Reader.List(r.Context(), Query{User: r.PathValue("id")})
}

type connectionPage struct {
	Name string
	Page
	Known            bool // the process has a connection of this name
	Done, Lost, Open int
	Failed, Methods  []bar
	Codes            []bar
	Whole            bool // the counts have all attempts of the last hour
	Next             string
}

func (connectionPage) topic() string { return "/events" }

func (h *handler) connectionPage(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	page, err := h.connection(r)
	if err != nil {
		return err
	}
	info, err := h.Reader.Info(r.Context())
	if err != nil {
		return err
	}
	hour, err := h.Reader.List(r.Context(), Query{Connection: name, Since: info.Now.Add(-window), Limit: MaxLimit})
	if err != nil {
		return err
	}
	p := connectionPage{Name: name, Page: page, Whole: hour.NextCursor == ""}
	p.Known = slices.ContainsFunc(info.Names, func(n string) bool { return strings.EqualFold(n, name) })
	methods, reasons, codes := map[string]int{}, map[string]int{}, map[string]int{}
	for _, v := range hour.Attempts {
		switch v.State {
		case store.Complete:
			methods[string(v.Method)]++
		case store.Failed:
			reasons[string(v.Reason)]++
		default:
			p.Open++
		}
		if v.Failure != nil && v.State != store.Complete {
			codes[cmp.Or(v.Failure.Code, v.Failure.Kind, statusWord(v.Failure.HTTPStatus))]++
		}
	}
	p.Methods, p.Done = barsOf(methods)
	p.Failed, p.Lost = barsOf(reasons)
	p.Codes, _ = barsOf(codes)
	if page.NextCursor != "" {
		p.Next = "/attempts?" + url.Values{"connection": {name}, "cursor": {page.NextCursor}}.Encode()
	}
	status := http.StatusOK
	if len(page.Attempts) == 0 && !p.Known {
		status = http.StatusNotFound
	}
	h.page(w, r, status, "connection", "Connection "+name, p)
	return nil
}

func (h *handler) connection(r *http.Request) (Page, error) {
	return h.Reader.List(r.Context(), Query{Connection: r.PathValue("name")})
}

type diagramPage struct {
	SVG   string
	Steps []diagram.Step
	Rows  []diagram.Row
}

func (h *handler) diagramPage(w http.ResponseWriter, r *http.Request) error {
	h.page(w, r, http.StatusOK, "diagram", "The state machine", diagramPage{SVG: drawing(diagram.Options{}), Rows: diagram.Rows()})
	return nil
}

type problemPage struct {
	Status  int
	Title   string
	Message string
	Todo    string
}

// problemPage shows an error and what to do about it.
func (h *handler) problemPage(w http.ResponseWriter, r *http.Request, status int, p problem) {
	said := problemPage{Status: status, Title: "That did not work", Message: p.Error.Message}
	switch status {
	case http.StatusNotFound:
		said.Title, said.Todo = "Not found", "An attempt is deleted after its retention. If it is newer, search with another id of the same sign-in."
	case http.StatusConflict:
		said.Todo = "Go back, load the page again and look at what has changed."
	case http.StatusForbidden:
		said.Title, said.Todo = "Not allowed", "Log in with operator_token to act; operator_read_token may only look."
	case http.StatusServiceUnavailable:
		said.Title, said.Todo = "The store does not answer", "Meanwhile users are told that sign-in is not available. Nothing is lost. Look at /readyz and at the store."
	case http.StatusInternalServerError:
		said.Todo = "The log of the bot says more."
	}
	h.page(w, r, status, "problem", said.Title, said)
}
