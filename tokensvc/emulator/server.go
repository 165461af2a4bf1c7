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
	// maxBody of a request, in bytes.
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
	signing  *signingKey   // nil: none was needed yet
	retired  []*signingKey // still published
	secrets  []string      // of the bot, that Entra takes
	base     string
	switches Switches
	faults   []Fault
	tokens   map[string][]*heldToken // by user id
	issued   map[string]*heldToken   // by token
	links    *bounded[*link]
	codes    *bounded[*code]
	bearers  *bounded[time.Time] // of the Entra endpoint, with their expiry

	recMu      sync.Mutex
	recording  bool
	seq        int64
	requests   ring[Request]
	activities ring[Activity]
	cards      *bounded[Card]
	changed    chan struct{} // closed at the next activity; nil while nobody waits
}

// New makes a server. It neither listens nor starts a goroutine.
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

// SetBaseURL says where bots and browsers find the server: after listening,
// when the port is known.
func (s *Server) SetBaseURL(base string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base = strings.TrimRight(base, "/")
}

// BaseURL returns what SetBaseURL or the configuration said.
func (s *Server) BaseURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base
}

// ServiceURL is the connector's address, as activities carry it.
func (s *Server) ServiceURL() string { return s.BaseURL() + "/" }

// Switches returns the switches as they stand.
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

// SetSSO sets the status that exchanges on a connection are answered by; 0 or
// 200 accepts.
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

// SetSSOToken is SetSSO for one SSO token, whatever the connection.
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

// incoming is a request with what every operation needs of it.
type incoming struct {
	target
	request  *http.Request
	base     string
	received time.Time
	query    map[string]string // keys in lower case
	state    *tokensvc.State
	body     []byte
	posted   *postedActivity // of the connector; nil if it cannot be read
	// expiration is what the answer says of a token, if it is not zero.
	expiration time.Time
}

// connection is the connection that the request, or the card in it, names.
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

// ServeHTTP answers for every emulated service and for /emulator/.
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

// authorized checks the bot's bearer token. Entra, pages, Graph, keys and
// the SAS URL have their own rules.
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

// lowerKeys: the service compares query keys without regard to case.
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

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// write ignores that the client is gone: there is nobody to tell.
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

// wait returns when something may have changed, or with ctx's error.
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
