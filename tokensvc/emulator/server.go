package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

const (
	statusOK     = http.StatusOK
	providerPath = "/provider/"
	// maxBody bounds the body of a request, in bytes.
	maxBody = 1 << 20
)

// Server is the emulator. It may be used from many goroutines.
type Server struct {
	cfg     Config
	ids     *ids
	counts  map[Operation]*atomic.Int64
	hmacKey []byte
	origin  *http.CrossOriginProtection

	mu       sync.Mutex
	signing  *signingKey   // nil until it is needed
	retired  []*signingKey // keys before signing, still published
	secrets  []string      // client secrets of the bot that Entra accepts
	base     string
	switches Switches
	faults   []Fault
	tokens   map[string][]*heldToken // by user id
	issued   map[string]*heldToken   // by token
	links    *bounded[*link]
	codes    *bounded[*code]
	bearers  *bounded[time.Time] // expiry of the bot's own tokens, by token

	recMu      sync.Mutex
	recording  bool
	seq        int64
	requests   ring[Request]
	activities ring[Activity]
	cards      *bounded[Card]
	changed    chan struct{} // closed at the next activity; nil while nobody waits
}

// New returns a server. It does not listen and starts no goroutine.
func New(cfg Config) *Server {
	if cfg.CodeLifetime == 0 {
		cfg.CodeLifetime = DefaultCodeLifetime
	}
	if cfg.TokenLifetime == 0 {
		cfg.TokenLifetime = DefaultTokenLifetime
	}
	if cfg.Record == 0 {
		cfg.Record = DefaultRecord
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	keep := max(cfg.Record, 0)
	s := &Server{
		cfg:        cfg,
		ids:        newIDs(cfg.Seed),
		counts:     make(map[Operation]*atomic.Int64),
		origin:     http.NewCrossOriginProtection(),
		base:       strings.TrimRight(cfg.BaseURL, "/"),
		switches:   cfg.Switches.clone(),
		tokens:     make(map[string][]*heldToken),
		issued:     make(map[string]*heldToken),
		links:      newBounded[*link](remembered),
		codes:      newBounded[*code](remembered),
		bearers:    newBounded[time.Time](remembered),
		secrets:    []string{cfg.ClientSecret.Reveal()},
		recording:  keep > 0,
		requests:   ring[Request]{limit: keep},
		activities: ring[Activity]{limit: keep},
		cards:      newBounded[Card](remembered),
	}
	s.hmacKey = s.ids.bytes(32)
	for _, op := range Operations() {
		s.counts[op] = new(atomic.Int64)
	}
	return s
}

// SetBaseURL sets the URL at which bots and browsers reach the server, for a server
// whose port is known only after it listens.
func (s *Server) SetBaseURL(base string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = strings.TrimRight(base, "/")
}

// BaseURL returns the URL of [Server.SetBaseURL] or the configuration, without a
// slash at its end.
func (s *Server) BaseURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// ServiceURL returns the connector's address, in the form that activities have.
func (s *Server) ServiceURL() string { return s.BaseURL() + "/" }

// Switches returns the current switches.
func (s *Server) Switches() Switches {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.switches.clone()
}

// SetSwitches replaces all switches.
func (s *Server) SetSwitches(switches Switches) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.switches = switches.clone()
}

// SetDown makes every operation answer 503, or ends that.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.switches.Down = down
}

// SetSSO sets the status that token exchanges on a connection are answered with. With
// 0 or 200 they succeed.
func (s *Server) SetSSO(connection string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.switches.SSO {
		if strings.EqualFold(name, connection) {
			delete(s.switches.SSO, name)
		}
	}
	s.switches.SSO[connection] = status
}

// SetSSOToken is [Server.SetSSO] for one SSO token on every connection.
func (s *Server) SetSSOToken(token string, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.switches.SSOTokens[token] = status
}

// Reset forgets tokens, links, codes, faults and records, and puts the
// switches back to those of the configuration.
func (s *Server) Reset() {
	s.mu.Lock()
	s.switches = s.cfg.Switches.clone()
	s.faults = nil
	clear(s.tokens)
	clear(s.issued)
	s.links.clear()
	s.codes.clear()
	s.bearers.clear()
	s.mu.Unlock()
	s.ResetRequests()
}

// incoming is a request, decoded as far as all operations need it.
type incoming struct {
	target
	request  *http.Request
	base     string
	received time.Time
	query    map[string]string // keys in lower case
	state    *tokensvc.State
	body     []byte
	posted   *postedActivity // activity for the connector; nil if it cannot be read
	// expiration replaces the expiration of tokens in the answer; zero = it does not.
	expiration time.Time
}

// connection is the name of the connection in the request, or in its card.
func (in *incoming) connection() string {
	switch {
	case in.state != nil:
		return in.state.Connection
	case in.posted != nil:
		if card, _ := in.posted.card(); card != nil {
			return card.Connection
		}
	}
	return in.query["connectionname"]
}

// ServeHTTP serves every emulated service, the provider, and /emulator/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, controlPath) {
		s.control(w, r)
		return
	}
	if s.cfg.Provider != nil && strings.HasPrefix(r.URL.Path, providerPath) {
		s.cfg.Provider.ServeHTTP(w, r)
		return
	}
	in := &incoming{target: route(r.Method, r.URL), request: r, received: s.cfg.Now(), query: lowerKeys(r)}
	s.counts[in.op].Add(1)
	in.base = s.BaseURL()
	if in.base == "" {
		in.base = "http://" + r.Host
	}
	if encoded, ok := in.query["state"]; ok && in.op != OpPostToken {
		if state, err := tokensvc.ParseState(encoded); err == nil {
			in.state = &state
		}
	}
	out := &statusWriter{ResponseWriter: w}
	body, err := io.ReadAll(http.MaxBytesReader(out, r.Body, maxBody))
	if err != nil {
		refuse(out, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", "the body is longer than 1 MiB or was cut off")
		s.record(in, out.status)
		return
	}
	in.body = body
	if in.op == OpPostActivity || in.op == OpUpdateActivity {
		in.posted = readActivity(body)
	}

	dropped := false
	if f, ok := s.takeFault(in); ok {
		var done bool
		if done, dropped = s.answerWithFault(out, in, f); !done {
			s.handle(out, in)
		}
	} else {
		s.handle(out, in)
	}
	s.record(in, out.status)
	if dropped {
		drop(w)
	}
}

func (s *Server) handle(w http.ResponseWriter, in *incoming) {
	if !s.authorized(in) {
		refuse(w, http.StatusUnauthorized, "Unauthorized", "a bearer token is required")
		return
	}
	switch in.op {
	case OpGetToken:
		s.getToken(w, in)
	case OpGetSignInResource:
		s.getSignInResource(w, in)
	case OpExchange:
		s.exchange(w, in)
	case OpSignOut:
		s.signOut(w, in)
	case OpGetTokenStatus:
		s.getTokenStatus(w, in)
	case OpGetTokenOrSignInResource:
		s.getTokenOrSignInResource(w, in)
	case OpGetAadTokens:
		s.getAadTokens(w, in)
	case OpAccessToken:
		s.accessToken(w, in)
	case OpSignInPage:
		s.signInPage(w, in)
	case OpSignIn:
		s.signIn(w, in)
	case OpPostToken:
		s.postToken(w, in)
	case OpPostActivity, OpUpdateActivity:
		s.postActivity(w, in)
	case OpDeleteActivity:
		w.WriteHeader(statusOK)
	case OpCreateConversation:
		s.createConversation(w, in)
	case OpMe:
		s.me(w, in)
	case OpMetadata:
		s.metadata(w, in)
	case OpTenant:
		s.tenant(w, in)
	case OpKeys:
		s.keys(w)
	case OpUnknown:
		refuse(w, http.StatusNotFound, "NotFound", "no such operation")
	}
}

// authorized checks the bot's bearer token. Entra, the pages, Graph, the keys and the
// SAS URL need none of the bot's.
func (s *Server) authorized(in *incoming) bool {
	switch in.op {
	case OpAccessToken, OpSignInPage, OpSignIn, OpPostToken, OpMe, OpMetadata, OpTenant, OpKeys, OpUnknown:
		return true
	case OpGetToken, OpGetSignInResource, OpExchange, OpSignOut, OpGetTokenStatus, OpGetTokenOrSignInResource, OpGetAadTokens,
		OpPostActivity, OpUpdateActivity, OpDeleteActivity, OpCreateConversation:
	}
	token := bearer(in.request)
	switch s.cfg.Bearer {
	case BearerAny:
		return token != ""
	case BearerOptional:
		return true
	case BearerIssued:
		s.mu.Lock()
		defer s.mu.Unlock()
		expires, ok := s.bearers.get(token)
		return ok && s.cfg.Now().Before(expires)
	}
	return false
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// lowerKeys returns the query with its keys in lower case: like the service, the
// emulator ignores their case.
func lowerKeys(r *http.Request) map[string]string {
	values := r.URL.Query()
	query := make(map[string]string, len(values))
	for key, v := range values {
		query[strings.ToLower(key)] = v[0]
	}
	return query
}

// statusWriter remembers the status.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = statusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the writer.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// write ignores the error: it means that the client is gone.
func write(w io.Writer, b []byte) { _, _ = w.Write(b) }

func answerJSON(w http.ResponseWriter, status int, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		refuse(w, http.StatusInternalServerError, "InternalServerError", "the answer cannot be encoded")
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	write(w, buf.Bytes())
}

type errorBody struct {
	Error errorDetail `json:"error"`
}

type errorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answerJSON(w, status, errorBody{errorDetail{code, message}})
}

// wait returns nil as soon as done returns true. It calls done with recMu held, now
// and after every activity. It returns an error when ctx is done.
func (s *Server) wait(ctx context.Context, done func() bool) error {
	for {
		s.recMu.Lock()
		if done() {
			s.recMu.Unlock()
			return nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.recMu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.Join(errNothingCame, ctx.Err())
		}
	}
}

var errNothingCame = errors.New("emulator: nothing came")
