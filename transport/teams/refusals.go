package teams

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Why names a reason for which a request was refused. It is the label of
// signin_refused_total{why}.
type Why string

// The reasons. Those of a token are in the order of its checks.
const (
	WhyTokenMissing     Why = "token_missing"    // no Authorization header
	WhyTokenMalformed   Why = "token_malformed"  // not exactly "Bearer JWT"
	WhyAlgorithm        Why = "algorithm"        // not RS256
	WhyKeyMissing       Why = "kid_missing"      // names no key
	WhyIssuer           Why = "issuer"           // of another cloud, or nobody's
	WhyKeyUnknown       Why = "kid_unknown"      // names a key that the issuer does not have
	WhySignature        Why = "signature"        // does not fit the key
	WhyAudience         Why = "audience"         // made for another bot
	WhyExpiryMissing    Why = "exp_missing"      // never expires
	WhyExpired          Why = "expired"          //
	WhyNotYetValid      Why = "not_yet_valid"    //
	WhyTenant           Why = "tenant"           // an agentic token of another tenant
	WhyCaller           Why = "caller"           // an agentic token of an app that is not listed
	WhyEndorsement      Why = "endorsement"      // the key may not speak for the channel
	WhyServiceURLClaim  Why = "serviceurl_claim" // the activity names another service URL
	WhyServiceHost      Why = "service_host"     // not on the allow-list
	WhyKeysUnavailable  Why = "keys_unavailable" // none were ever fetched
	WhyOrigin           Why = "origin"           // a page of another origin
	WhyBodyTooLong      Why = "body_too_long"    //
	WhyBodyTooSlow      Why = "body_too_slow"    //
	WhyBodyTooDeep      Why = "body_too_deep"    //
	WhyBodyMalformed    Why = "body_malformed"   // no activity, or not one to be answered
	WhyTooManyOfOneUser Why = "user_rate"        // over the limit of one user
	WhyBusy             Why = "busy"             // the queue is full
	WhyPopupOfOneClient Why = "popup_rate"       // over the limit of the popup's pages for one address
	WhyPopupBusy        Why = "popup_busy"       // … for all of them
)

// Whys lists the reasons.
func Whys() []Why {
	return []Why{
		WhyTokenMissing, WhyTokenMalformed, WhyAlgorithm, WhyKeyMissing, WhyIssuer, WhyKeyUnknown, WhySignature,
		WhyAudience, WhyExpiryMissing, WhyExpired, WhyNotYetValid, WhyTenant, WhyCaller, WhyEndorsement, WhyServiceURLClaim,
		WhyServiceHost, WhyKeysUnavailable, WhyOrigin, WhyBodyTooLong, WhyBodyTooSlow, WhyBodyTooDeep,
		WhyBodyMalformed, WhyTooManyOfOneUser, WhyBusy, WhyPopupOfOneClient, WhyPopupBusy,
	}
}

// maxHosts bounds how many refused hosts are kept in memory, since an activity
// may name any host.
const maxHosts = 64

// Refusals counts the requests that a bot's endpoint refused. It logs one warning per
// reason, and one per host that is not on the allow-list. Its methods may be used from
// many goroutines; a nil *Refusals counts nothing.
type Refusals struct {
	log zerolog.Logger
	now func() time.Time

	mu      sync.Mutex
	reasons map[Why]*Refused
	hosts   map[string]*Refused
	others  int64               // refusals of hosts beyond maxHosts
	callers map[string]*Refused // app ids of agentic tokens
}

// Refused is how often something was refused.
type Refused struct {
	What        string    // a [Why], or a host
	Count       int64     //
	First, Last time.Time //
}

// RefusalSnapshot has the refused requests since the start of the process.
type RefusalSnapshot struct {
	Reasons []Refused // by name
	Hosts   []Refused // by name; at most 64
	Callers []Refused // app ids that refused tokens of Entra name; at most 64
	// OtherHosts counts refusals of hosts beyond those.
	OtherHosts int64
}

// NewRefusals makes an empty count that writes its warnings to log.
func NewRefusals(log zerolog.Logger) *Refusals {
	return &Refusals{log: log, now: time.Now, reasons: make(map[Why]*Refused), hosts: make(map[string]*Refused), callers: make(map[string]*Refused)}
}

// Snapshot returns the refused requests so far.
func (r *Refusals) Snapshot() RefusalSnapshot {
	if r == nil {
		return RefusalSnapshot{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := RefusalSnapshot{OtherHosts: r.others}
	for _, one := range r.reasons {
		s.Reasons = append(s.Reasons, *one)
	}
	for _, one := range r.hosts {
		s.Hosts = append(s.Hosts, *one)
	}
	for _, one := range r.callers {
		s.Callers = append(s.Callers, *one)
	}
	byName := func(a, b Refused) int { return cmp.Compare(a.What, b.What) }
	slices.SortFunc(s.Reasons, byName)
	slices.SortFunc(s.Hosts, byName)
	slices.SortFunc(s.Callers, byName)
	return s
}

// Count returns how often requests were refused for that reason.
func (r *Refusals) Count(why Why) int64 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if one := r.reasons[why]; one != nil {
		return one.Count
	}
	return 0
}

// refusal is the reason for which a request is refused, and its answer.
type refusal struct {
	why        Why
	status     int
	err        error         // for the log; the answer does not show it
	host       string        // for WhyServiceHost
	caller     string        // app id that an agentic token names, "" for other tokens
	retryAfter time.Duration // of a 429 or a 503
	unread     bool          // the body was not read completely
}

// Error returns the reason and its detail.
func (f *refusal) Error() string {
	if f.err == nil {
		return string(f.why)
	}
	return string(f.why) + ": " + f.err.Error()
}

// Unwrap returns the detail.
func (f *refusal) Unwrap() error { return f.err }

// linger is how long the rest of a refused body is read.
const linger = time.Second

// answer sends the status, without a reason.
func (f *refusal) answer(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	if f.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	if f.retryAfter > 0 {
		header.Set("Retry-After", wholeSeconds(f.retryAfter))
	}
	if f.unread && r.ContentLength != 0 && r.ProtoMajor == 1 {
		// Before it answers, the server would wait for the rest of the body; and
		// it would keep the connection for as long as the body comes. But if it
		// read nothing at all, the connection would be reset, and an honest
		// sender would lose the answer. Hence it reads for a while and then
		// closes.
		header.Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(linger)) // some writers support no deadline
	}
	w.WriteHeader(f.status)
}

// unlisted makes the refusal of a service URL that is not allowed.
func unlisted(err error) *refusal {
	f := &refusal{why: WhyServiceHost, status: http.StatusForbidden, err: err}
	var about *ServiceURLError
	if errors.As(err, &about) {
		f.host = about.Host
	}
	return f
}

// Note counts a request that other code than this package's handler has refused.
func (r *Refusals) Note(why Why, status int) { r.add(&refusal{why: why, status: status}) }

// add counts a refusal, and logs a warning if it is the first of its kind.
func (r *Refusals) add(f *refusal) {
	if r == nil {
		return
	}
	if f.why == WhyServiceHost {
		r.addHost(f)
		return
	}
	r.mu.Lock()
	first := r.count(f.why)
	if app := short(f.caller); app != "" {
		if one := r.callers[app]; one != nil {
			one.Count, one.Last = one.Count+1, r.now()
		} else if len(r.callers) < maxHosts {
			app = strings.Clone(app)
			r.callers[app] = &Refused{What: app, Count: 1, First: r.now(), Last: r.now()}
		}
	}
	r.mu.Unlock()
	if first {
		r.log.Warn().Str("why", string(f.why)).Int("status", f.status).AnErr("detail", f.err).
			Msg("request refused; further ones of this kind are counted only")
	}
}

func (r *Refusals) addHost(f *refusal) {
	host := short(f.host)
	r.mu.Lock()
	r.count(f.why)
	one := r.hosts[host]
	first, firstOther := false, false
	switch {
	case one != nil:
		one.Count, one.Last = one.Count+1, r.now()
	case len(r.hosts) < maxHosts:
		first = true
		host = strings.Clone(host)
		r.hosts[host] = &Refused{What: host, Count: 1, First: r.now(), Last: r.now()}
	default:
		r.others++
		firstOther = r.others == 1
	}
	r.mu.Unlock()
	if first {
		r.log.Warn().Str("host", host).Str("setting", "service_urls").AnErr("detail", f.err).
			Msg("activity refused: the host of its service URL is not allowed; add it to service_urls if it is yours")
	}
	if firstOther {
		r.log.Warn().Str("setting", "service_urls").Msg("more hosts were refused than are remembered; further ones are counted only")
	}
}

// count counts a refusal, and reports whether it is the first for this reason.
func (r *Refusals) count(why Why) bool {
	now := r.now()
	one := r.reasons[why]
	if one == nil {
		r.reasons[why] = &Refused{What: string(why), Count: 1, First: now, Last: now}
		return true
	}
	one.Count, one.Last = one.Count+1, now
	return false
}
