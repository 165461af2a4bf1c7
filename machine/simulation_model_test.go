package machine_test

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// model is what the store must hold: it looks at every commit that was
// written and knows the rules of docs/state-machine.md by heart, not from the
// engine's table.
type model struct {
	w          *world
	rows       map[string]*row
	ids        []string // in the order of insertion
	open       map[string]string
	byExchange map[string]string
	marks      map[string]string // mark of a token or code -> user
	owed       map[store.DeliveryKey]*owed
	once       map[string]store.Mark
	named      map[string]bool // rows of the contract
	buf        []byte
}

// row is an attempt as it was last written.
type row struct {
	store.Attempt
	number   int
	claimBy  string // instance and activity of the last claim
	claimAct string
	lost     bool      // a commit under the last claim, or the one that took it, had no answer
	promised time.Time // upstream granted a token under the claim that still holds; it lasts until then
	opener   string    // activity that opened it
}

func newModel(w *world) *model {
	named := map[string]bool{"§9": true} // an identity that does not match
	for _, row := range contractRows() {
		named[row] = true
	}
	return &model{
		named: named,
		w:     w, rows: map[string]*row{}, open: map[string]string{}, byExchange: map[string]string{},
		marks: map[string]string{},
		owed:  map[store.DeliveryKey]*owed{}, once: map[string]store.Mark{},
	}
}

// edges of docs/state-machine.md §4, copied from its list by hand.
func legalEdge(from, to store.State) bool {
	switch from {
	case store.None:
		return to == store.Idle
	case store.Idle:
		return to != store.Idle
	case store.CardSent:
		return to != store.Idle
	case store.Exchanging:
		return to == store.Complete || to == store.CardSent || to == store.Failed || to == store.Verifying
	case store.Verifying:
		return to == store.Complete || to == store.CardSent || to == store.Failed || to == store.Exchanging
	case store.Complete, store.Failed:
		return false
	}
	return false
}

// observe checks a commit that an instance has written. w.mu is held.
func (m *model) observe(n *node, c *store.Commit) {
	m.count(c)
	if m.w.ext != nil {
		m.spends(c)
	}
	for i := range c.Put {
		m.put(c, &c.Put[i])
	}
	for i := range c.Deliveries {
		m.deliver(n, c, &c.Deliveries[i])
	}
	for i := range c.Acks {
		m.acknowledge(n, c, &c.Acks[i])
	}
	for _, id := range c.Drop {
		m.drop(c, id)
	}
	for _, k := range c.Marks {
		m.once[k.Name] = k
		m.secret("a mark", k.Value)
	}
	for i := range c.Events {
		e := &c.Events[i]
		m.buf = store.AppendEvent(m.buf[:0], e)
		m.secret("an audit line", m.buf)
		if row, _, _ := strings.Cut(e.Row, "/"); row != "" && !m.named[row] {
			m.w.violate("table", "a line of row %s, which the contract does not have", e.Row)
		}
		if e.Kind == store.EventTransition && !putsVersion(c, e) {
			m.w.violate("2", "a transition's line without its transition: %s %s", m.name(e.Attempt), e.Row)
		}
	}
}

// count is the promise of §3: a whole SSO sign-in is at most four commits, so
// that what the bot and a client ask for is two each. An expiry on the way and a
// recovery do not count.
func (m *model) count(c *store.Commit) {
	if len(c.Put) == 0 {
		return
	}
	for i := range c.Events {
		e := &c.Events[i]
		if e.Kind != store.EventTransition || e.Row == "E7" || strings.HasPrefix(e.Row, "E8") {
			continue
		}
		if t := m.w.author(e); t != nil {
			if t.commits++; t.commits > t.mayCommit {
				m.w.violate("commits", "t%d %s takes %d commits (%s)", t.id, t.what, t.commits, e.Row)
			}
		}
		return
	}
}

func (m *model) name(id string) string {
	if r := m.rows[id]; r != nil {
		return "#" + strconv.Itoa(r.number)
	}
	return "#?" + id[:min(len(id), ulidTime)] // one that was never kept: when it was to be opened
}

const ulidTime = 10 // the characters of an id that are its time

func (m *model) secret(where string, b []byte) {
	found := bytes.Contains(b, []byte(canary))
	if m.w.ext != nil {
		found = found || slices.ContainsFunc(m.w.ext.said, func(s string) bool { return bytes.Contains(b, []byte(s)) })
	}
	if found {
		m.w.violate("8", "a secret in %s", where)
	}
}

func putsVersion(c *store.Commit, e *store.Event) bool {
	for i := range c.Put {
		if c.Put[i].ID == e.Attempt && c.Put[i].Version == e.Version {
			return true
		}
	}
	return false
}

// put checks one attempt of a commit against the row before.
func (m *model) put(c *store.Commit, a *store.Attempt) {
	now := time.Now()
	r := m.rows[a.ID]
	if r == nil {
		r = &row{number: len(m.ids) + 1}
		m.rows[a.ID] = r
		m.ids = append(m.ids, a.ID)
	}
	before := r.Attempt
	if a.Version != before.Version+1 {
		m.w.violate("2", "#%d version %d follows %d", r.number, a.Version, before.Version)
	}
	state := before.State
	var last *store.Event
	for i := range c.Events {
		e := &c.Events[i]
		if e.Kind != store.EventTransition || e.Attempt != a.ID || e.Version != a.Version {
			continue
		}
		if e.From != state {
			m.w.violate("2", "#%d: a line leaves %q, the attempt is %q", r.number, e.From, state)
		}
		if e.From != e.To && !legalEdge(e.From, e.To) {
			m.w.violate("3", "#%d: %q to %q (%s) is not in the table", r.number, e.From, e.To, e.Row)
		}
		state, last = e.To, e
	}
	if last == nil || state != a.State {
		m.w.violate("2", "#%d is %s, its trail is at %q", r.number, a.State, state)
	}
	if last == nil {
		last = &store.Event{}
	}
	if before.ID == "" {
		r.opener = last.Activity
		m.born(r, a, last, now)
	}
	m.w.trace("    #%d %s → %s v%d %s %s", r.number, before.State, a.State, a.Version, last.Row, a.Reason)
	m.buf = store.AppendAttempt(m.buf[:0], a)
	m.secret("an attempt", m.buf)
	m.claims(r, &before, a, last, now)
	m.unique(r, a)
	m.ends(c, r, &before, a, last, now)
	m.whose(r, &before, a, last)
	m.whence(r, &before, a, last)
	m.marked(r, a)
	r.Attempt = a.Clone()
	if a.ExchangeID != "" {
		m.byExchange[a.ExchangeID] = a.ID
	}
}

// born checks an attempt that is new. One that a SignIn opens knows its card
// before the card is sent (A3), opens no second one for the same message (A16),
// and offers no SSO where the connection does not have it, where Teams could not
// match its resource, or in a channel (A14).
func (m *model) born(r *row, a *store.Attempt, line *store.Event, now time.Time) {
	if a.Origin != store.OriginSignIn {
		return
	}
	if a.SSOOffered != (a.ExchangeID != "") {
		m.w.violate("table", "#%d offers SSO %t with exchange id %q (%s)", r.number, a.SSOOffered, a.ExchangeID, line.Row)
	}
	if old := m.rows[a.Supersedes]; old != nil && a.Activity != "" && old.Activity == a.Activity {
		m.w.violate("table", "#%d and #%d are two cards for one message (A16)", old.number, r.number)
	}
	withheld := m.withheld(m.w.author(line), a, now)
	switch {
	case withheld && a.NoSSOUntil.IsZero():
		m.w.violate("table", "#%d forgets that Teams could not match its resource", r.number)
	case !a.SSOOffered:
	case m.w.plain[a.Key.Connection] || m.w.noSSO[a.Key.Connection]:
		m.w.violate("table", "#%d offers SSO on a connection without it", r.number)
	case a.CardConversation == "" && a.Conversation.Type == "channel":
		m.w.violate("table", "#%d offers SSO in a channel (A14)", r.number)
	case a.CardConversation == "" && a.Conversation.Type == "groupChat" && !m.w.policy.GroupSSO:
		m.w.violate("table", "#%d offers SSO in a group (A14)", r.number)
	case withheld:
		m.w.violate("table", "#%d offers SSO though Teams could not match its resource", r.number)
	}
}

// unique is invariant 1.
func (m *model) unique(r *row, a *store.Attempt) {
	key := a.Key.Index()
	switch other := m.open[key]; {
	case a.State.Terminal():
		if other == a.ID {
			delete(m.open, key)
		}
	case other != "" && other != a.ID:
		m.w.violate("1", "#%d is open beside %s", r.number, m.name(other))
	default:
		m.open[key] = a.ID
	}
}

// claims checks the rules of the lease and the fence.
func (m *model) claims(r *row, before, a *store.Attempt, line *store.Event, now time.Time) {
	fence := a.Lease.Fence - before.Lease.Fence
	if fence < 0 || fence > 1 {
		m.w.violate("fence", "#%d: the fence goes from %d to %d", r.number, before.Lease.Fence, a.Lease.Fence)
	}
	if fence == 0 && (a.State == store.Exchanging || a.State == store.Verifying) && a.State != before.State {
		m.w.violate("fence", "#%d: %s without a claim (%s)", r.number, a.State, line.Row)
	}
	settles := (before.State == store.Exchanging || before.State == store.Verifying) &&
		(a.State == store.CardSent || a.State == store.Failed)
	if settles && upstreamRow(line.Row) && (line.Instance != r.claimBy || line.Activity != r.claimAct) {
		m.w.violate("fence", "#%d: %s settles a failure under somebody else's claim (%s)", r.number, line.Instance, line.Row)
	}
	if fence == 0 {
		return
	}
	claimed := !a.State.Terminal()
	if claimed && !a.Lease.Until.After(line.Time) {
		m.w.violate("fence", "#%d: a claim without a lease (%s)", r.number, line.Row)
	}
	live := m.held(r, before, line, now)
	switch {
	case !live || !claimed:
	case before.State == store.Exchanging && a.State == store.Exchanging:
		m.w.violate("fence", "#%d: an exchange takes over from a live one (%s)", r.number, line.Row)
	case before.State == store.Verifying && a.State == store.Verifying && bytes.Equal(before.CodeMark, a.CodeMark):
		m.w.violate("fence", "#%d: a repeat of the code takes over from a live one (%s)", r.number, line.Row)
	case line.Row == "E8":
		m.w.violate("fence", "#%d: a recovery in spite of a live lease", r.number)
	}
	if line.Row != "E8" {
		r.promised = time.Time{}
	}
	r.claimBy, r.claimAct, r.lost = line.Instance, line.Activity, false
	m.replays(r, before, a, line)
	if t := m.w.author(line); t != nil && claimed {
		t.claim, t.claimFence, t.claimUntil = a.ID, a.Lease.Fence, a.Lease.Until
		t.claimed = a.State == store.Exchanging
	}
}

// held reports whether an attempt is somebody's at the time of a line. A process may
// let go of a claim of its own when a commit had no answer, when the time of its invoke
// is over, or when the call has ended without a card (S).
func (m *model) held(r *row, before *store.Attempt, line *store.Event, now time.Time) bool {
	own := line.Instance == before.Lease.Owner && (line.Row == "E6" || line.Row == "E8")
	atWork := slices.ContainsFunc(m.w.tasks, func(t *task) bool {
		return t.claim == before.ID && t.claimFence == before.Lease.Fence && (t.posts > 0 || !t.done && !r.lost && !t.overdue())
	})
	return before.Lease.Live(now) && (!own || atWork)
}

// unanswered notes a commit that had no answer, kept or not.
func (m *model) unanswered(c *store.Commit) {
	for i := range c.Put {
		a := &c.Put[i]
		if r := m.rows[a.ID]; r != nil && a.Lease.Owner == r.Lease.Owner && a.Lease.Fence == r.Lease.Fence {
			r.lost = true
		}
	}
}

// replays: a refusal with a status is repeated from the record for ten seconds
// and not asked for again (B9).
func (m *model) replays(r *row, before, a *store.Attempt, line *store.Event) {
	if before.State == store.CardSent && a.State == store.Exchanging && refusal(before.AnswerCause) &&
		bytes.Equal(before.TokenMark, a.TokenMark) && line.Time.Sub(before.AnswerAt) < replayFor {
		m.w.violate("table", "#%d: a token that was refused %s ago is tried again (B9)", r.number, line.Time.Sub(before.AnswerAt))
	}
}

const replayFor = 10 * time.Second

// refusal reports whether a token service's status is a refusal that counts.
func refusal(status int) bool { return status == 400 || status == 404 || status == 412 }

// upstreamRow names the rows by which an upstream's no settles an attempt.
func upstreamRow(name string) bool {
	switch name {
	case "B3", "B4", "C4", "C5", "C7", "C8", "E8":
		return true
	default:
		return false
	}
}

// ends checks how an attempt ends, and what goes with it.
func (m *model) ends(c *store.Commit, r *row, before, a *store.Attempt, line *store.Event, now time.Time) {
	if needsFailure(line.Row) && before.ID != "" && !newDelivery(c, a.ID, store.DeliverFailure) {
		m.w.violate("4", "#%d: %s owes a failure callback, the commit has none", r.number, line.Row)
	}
	if line.Row == "E3" && m.owesCompletion(a.ID) && !slices.Contains(c.Drop, a.ID) {
		m.w.violate("callback", "#%d: signed out, and its completion is still owed (E3)", r.number)
	}
	if a.State == before.State {
		return
	}
	lost := now.Before(r.promised) && upstreamRow(line.Row) && a.State != store.Complete && a.Reason != store.ReasonUpstreamUnavailable
	if a.State == store.Complete {
		if t := m.w.author(line); t != nil {
			t.sawDone = true
			if t.passed != nil {
				t.passed[strings.ToLower(a.Key.Connection)] = true
			}
		}
		if !newDelivery(c, a.ID, store.DeliverComplete) {
			m.w.violate("4", "#%d is Complete without its outbox row", r.number)
		}
		for id := a.Supersedes; id != ""; id = m.rows[id].Supersedes {
			if m.rows[id] == nil {
				m.w.violate("2", "#%d supersedes an attempt that is not there", r.number)
				break
			}
			if m.rows[id].State == store.Complete {
				m.w.violate("4", "#%d and #%d of one chain are both Complete", r.number, m.rows[id].number)
			}
		}
		r.promised = time.Time{}
	}
	if lost {
		m.w.violate("success", "#%d: upstream granted a token under this claim, and %s makes it %s", r.number, line.Row, a.State)
	}
	if a.State == store.Failed {
		m.fails(r, before, a, line, now)
	}
}

// fails checks the reason of a failed attempt.
func (m *model) fails(r *row, before, a *store.Attempt, line *store.Event, now time.Time) {
	r.promised = time.Time{}
	switch a.Reason { //nolint:exhaustive // the others are the table's to give
	case store.ReasonExpired:
		if now.Before(a.Expires) {
			m.w.violate("table", "#%d expired before its time", r.number)
		}
	case store.ReasonAbandoned:
		if m.held(r, before, line, now) {
			m.w.violate("table", "#%d abandoned under a live lease", r.number)
		}
	case store.ReasonClientFailure:
		if !before.SSOOffered || before.Rounds > 0 || before.State != store.Idle && before.State != store.CardSent {
			m.w.violate("table", "#%d moved by a signin/failure that is not about it", r.number)
		}
		m.withholds(r, a, line)
	case store.ReasonSignedOut:
		if (before.State == store.Idle || before.State == store.CardSent) && m.w.twin.deletes[owner(a.Key.User, a.Key.Connection)] == 0 {
			m.w.violate("table", "#%d signed out, but the token service was not told", r.number)
		}
	case store.ReasonCodeRejected:
		if limit := m.w.policy.MaxCodeTries; limit == 0 || a.VerifyTries < limit {
			m.w.violate("table", "#%d ends after %d wrong codes of %d", r.number, a.VerifyTries, limit)
		}
	case store.ReasonSuperseded:
		if before.State != store.Idle && before.State != store.CardSent || a.SupersededBy == "" {
			m.w.violate("table", "#%d superseded out of %s", r.number, before.State)
		}
	case "":
		m.w.violate("2", "#%d failed without a reason", r.number)
	}
}

// withholds: after resourcematchfailed, and only then, the next cards come
// without the resource (§9).
func (m *model) withholds(r *row, a *store.Attempt, line *store.Event) {
	t := m.w.author(line)
	if t == nil {
		return
	}
	noMatch := strings.EqualFold(t.failure, "resourcematchfailed")
	if set := a.NoSSOUntil.Equal(store.Time(line.Time.Add(24 * time.Hour))); set != noMatch {
		m.w.violate("table", "#%d: %s, and no SSO until %s", r.number, t.failure, a.NoSSOUntil)
	}
}

// withheld reports whether the newest attempt of the key that the task has read
// says that Teams could not match its resource.
func (m *model) withheld(t *task, a *store.Attempt, now time.Time) bool {
	if t == nil {
		return false
	}
	newest := sighting{}
	for _, s := range t.seen {
		if s.Key.Same(a.Key) && s.ID > newest.ID {
			newest = s
		}
	}
	return now.Before(newest.NoSSOUntil)
}

// needsFailure names the rows that owe a failure callback (§4, column CB).
func needsFailure(name string) bool {
	switch name {
	case "B3", "B4", "C5", "C6", "D1", "D2", "D4", "D6", "D7":
		return true
	default:
		return false
	}
}

func newDelivery(c *store.Commit, id string, kind store.DeliveryKind) bool {
	n := 0
	for i := range c.Deliveries {
		if d := &c.Deliveries[i]; d.Attempt == id && d.Kind == kind && (kind == store.DeliverFailure || d.Status != store.DeliveryDropped) {
			n++
		}
	}
	return n == 1
}

// whose is invariant 10, and D3: a signin/failure is about the card it replies
// to, else about the newest sign-in that offers SSO.
func (m *model) whose(r *row, before, a *store.Attempt, line *store.Event) {
	if before.ID != "" && (before.Key != a.Key || before.Supersedes != a.Supersedes || before.Created != a.Created) {
		m.w.violate("10", "#%d is another's by now", r.number)
	}
	t := m.w.author(line)
	if t == nil {
		return
	}
	if t.user != a.Key.User {
		m.w.violate("10", "an event of %s changes #%d of %s (%s)", t.user, r.number, a.Key.User, line.Row)
	}
	// An exchange that is under way is about SSO whatever the card offered.
	if strings.HasPrefix(line.Row, "D") && t.activity != nil && line.Row != "D6" && (before.SSOOffered || a.State != store.Exchanging) {
		if want := attributed(t.survey, t.activity); want != a.ID {
			m.w.violate("table", "t%d %s moves #%d (%s), but it is about %s (D3)", t.id, t.what, r.number, line.Row, m.name(want))
		}
	}
}

// attributed is the attempt that a signin/failure is about, "" for none.
func attributed(attempts []store.Attempt, act *machine.Activity) string {
	newest := ""
	for i := range attempts {
		a := &attempts[i]
		switch {
		case a.State.Terminal() || !a.SSOOffered:
		case repliesTo(act, a):
			return a.ID
		case a.ID > newest:
			newest = a.ID
		}
	}
	return newest
}

// repliesTo reports whether an activity replies to an attempt's card: ids of
// activities are unique in their conversation only.
func repliesTo(act *machine.Activity, a *store.Attempt) bool {
	where := a.CardConversation
	if where == "" {
		where = a.Conversation.ID
	}
	return act.ReplyToID != "" && act.ReplyToID == a.CardActivityID && act.Conversation.ID == where
}

// whence: every activity of the user that reaches an attempt refreshes where the
// user can be reached, and leaves the conversation what it is.
func (m *model) whence(r *row, before, a *store.Attempt, line *store.Event) {
	if before.ID != "" && a.Conversation.ID != before.Conversation.ID {
		m.w.violate("table", "#%d moves from %s to %s", r.number, before.Conversation.ID, a.Conversation.ID)
	}
	t := m.w.author(line)
	if t == nil || a.SupersededBy != before.SupersededBy {
		return
	}
	if from := t.from.ServiceURL; a.Conversation.ServiceURL != from {
		m.w.violate("table", "#%d is reached by %s, but keeps %s (%s)", r.number, from, a.Conversation.ServiceURL, line.Row)
	}
}

// marked: a mark says nothing about another user's token or code.
func (m *model) marked(r *row, a *store.Attempt) {
	for _, mark := range [][]byte{a.TokenMark, a.CodeMark} {
		if len(mark) == 0 {
			continue
		}
		if user, ok := m.marks[string(mark)]; ok && user != a.Key.User {
			m.w.violate("8", "#%d: %s and %s have one mark", r.number, user, a.Key.User)
		}
		m.marks[string(mark)] = a.Key.User
	}
}

func hasRow(c *store.Commit, name string) bool {
	for i := range c.Events {
		if c.Events[i].Row == name {
			return true
		}
	}
	return false
}

func (m *model) key(k store.DeliveryKey) string {
	return fmt.Sprintf("%s/%s/%d", m.name(k.Attempt), k.Kind, k.Round)
}

// granted notes that upstream gave a token to a task: while the task's claim
// holds and the token lasts, that success must not be lost.
func (m *model) granted(t *task, key string, expires time.Time) {
	r := m.rows[t.claim]
	if r != nil && owner(r.Key.User, r.Key.Connection) == key && r.Lease.Fence == t.claimFence &&
		(r.State == store.Exchanging || r.State == store.Verifying) {
		r.promised = expires
	}
}

// deleted forgets what was promised: the token is gone.
func (m *model) deleted(key string) {
	for _, r := range m.rows {
		if owner(r.Key.User, r.Key.Connection) == key {
			r.promised = time.Time{}
		}
	}
}

// head follows a chain to its newest attempt, by what supersedes what.
func (m *model) head(r *row) *row {
	for {
		next := r
		for _, id := range m.ids {
			if o := m.rows[id]; o.Supersedes == r.ID {
				next = o
			}
		}
		if next == r {
			return r
		}
		r = next
	}
}

// anyOf reports whether an attempt of the owner is what f says.
func (m *model) anyOf(key string, f func(*row) bool) bool {
	for _, id := range m.ids {
		if r := m.rows[id]; owner(r.Key.User, r.Key.Connection) == key && f(r) {
			return true
		}
	}
	return false
}

// newestComplete reports whether nothing is under way for the owner, and the
// newest attempt is Complete.
func (m *model) newestComplete(key string) bool {
	newest := ""
	for id, r := range m.rows {
		switch {
		case owner(r.Key.User, r.Key.Connection) != key:
		case !r.State.Terminal():
			return false
		case id > newest:
			newest = id
		}
	}
	return newest != "" && m.rows[newest].State == store.Complete
}
