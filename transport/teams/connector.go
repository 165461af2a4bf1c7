package teams

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// Names of the connector's operations, as in [ConnectorError.Op].
const (
	OpSend               = "Send"
	OpUpdate             = "Update"
	OpCreateConversation = "CreateConversation"
)

const (
	// DefaultConnectorTimeout is the limit of one call to the connector.
	DefaultConnectorTimeout = 10 * time.Second
	// idleConnsPerHost is the number of idle connections kept open. A bot talks
	// to very few hosts, and with Go's default of two it would reconnect on every
	// burst.
	idleConnsPerHost = 256
	// maxAnswer bounds, in bytes, how much of an answer is read.
	maxAnswer = 1 << 20
	// maxCode bounds the length of an error code in an answer, in bytes.
	maxCode = 64
)

// ConnectorConfig of a [Connector].
type ConnectorConfig struct {
	// Tokens give the bearer token of the bot. Required.
	Tokens tokensvc.TokenSource
	// ServiceURLs are where the token may be sent. nil = the connector's own hosts.
	ServiceURLs *AllowList
	// Timeout of one call, including the fetch of a bearer token. It acts within
	// the caller's context. 0 = 10 s.
	Timeout time.Duration
	// Transport makes the requests. nil = a pooled transport of its own.
	Transport http.RoundTripper
}

// Connector sends the bot's messages through the Bot Connector (docs/protocol.md §4).
// It is a [machine.Messenger]. Its methods may be used from many goroutines. All their
// errors are [*ConnectorError].
type Connector struct {
	tokens  tokensvc.TokenSource
	allowed *AllowList
	timeout time.Duration
	http    *http.Client
}

var _ machine.Messenger = (*Connector)(nil)

// NewConnector checks cfg and makes a connector. It does not connect.
func NewConnector(cfg ConnectorConfig) (*Connector, error) {
	if cfg.Tokens == nil {
		return nil, errors.New("teams: connector: a token source is required")
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("teams: connector: timeout is negative")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultConnectorTimeout
	}
	if cfg.ServiceURLs == nil {
		cfg.ServiceURLs = &AllowList{rules: builtinRules()}
	}
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConnsPerHost: idleConnsPerHost,
			IdleConnTimeout:     90 * time.Second,
		}
	}
	return &Connector{
		tokens:  cfg.Tokens,
		allowed: cfg.ServiceURLs,
		timeout: cfg.Timeout,
		http: &http.Client{
			Transport: cfg.Transport,
			// The bearer token and the sign-in link must go only to the host that
			// was checked.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// CloseIdleConnections closes the idle connections of the transport.
func (c *Connector) CloseIdleConnections() { c.http.CloseIdleConnections() }

// Send posts m, as a reply if m.ReplyTo is set, and returns the id of the new activity,
// or "" if the connector gave none. Every 2xx is a success. If the turn's caller
// expects replies in the answer, m goes there, without an id. Only to's user sees a
// targeted message; Teams has none in a personal chat.
func (c *Connector) Send(ctx context.Context, to store.Conversation, m machine.Message) (string, error) {
	path := []string{to.ID, "activities"}
	if m.ReplyTo != "" {
		path = append(path, m.ReplyTo)
	}
	body, err := encodeMessage(&to, &m, "")
	if err != nil {
		return "", unsent(OpSend, http.StatusBadRequest, err)
	}
	if collected(ctx, &to, body) {
		return "", nil
	}
	return c.call(ctx, &request{OpSend, http.MethodPost, to.ServiceURL, path, m.Targeted, body})
}

// Update replaces the activity with the given id by m. If that activity was targeted, m
// must be too.
func (c *Connector) Update(ctx context.Context, to store.Conversation, activityID string, m machine.Message) error {
	body, err := encodeMessage(&to, &m, activityID)
	if err != nil {
		return unsent(OpUpdate, http.StatusBadRequest, err)
	}
	path := []string{to.ID, "activities", activityID}
	_, err = c.call(ctx, &request{OpUpdate, http.MethodPut, to.ServiceURL, path, m.Targeted, body})
	return err
}

// CreateConversation opens the 1:1 chat of the bot and to's user and returns
// its id; the connector returns the same one for the same pair.
func (c *Connector) CreateConversation(ctx context.Context, to store.Conversation) (string, error) {
	asked := newConversationJSON{
		Bot:     partyJSON{ID: to.BotID, Name: to.BotName},
		Members: []partyJSON{{ID: to.UserID, Name: to.UserName, AADObjectID: to.UserAAD}},
	}
	if to.Tenant != "" {
		asked.ChannelData = &channelDataJSON{Tenant: placeJSON{ID: to.Tenant}}
	}
	body, err := encodeJSON(asked)
	if err != nil {
		return "", unsent(OpCreateConversation, http.StatusBadRequest, err)
	}
	id, err := c.call(ctx, &request{op: OpCreateConversation, method: http.MethodPost, serviceURL: to.ServiceURL, body: body})
	if err == nil && id == "" {
		return "", &ConnectorError{Op: OpCreateConversation, Status: http.StatusOK, Err: errWithoutID}
	}
	return id, err
}

var (
	errWithoutID = errors.New("answer without an id")
	errSegment   = errors.New("conversation or activity id is missing or no segment of a path")
)

// request is one call to the connector.
type request struct {
	op, method string
	serviceURL string
	path       []string // segments below /v3/conversations
	targeted   bool     // only its recipient sees the activity
	body       []byte
}

// call sends a request. It returns the id in the answer, "" if there is none.
func (c *Connector) call(ctx context.Context, r *request) (string, error) {
	if err := c.allowed.Check(r.serviceURL); err != nil {
		return "", unsent(r.op, http.StatusForbidden, err)
	}
	target, err := r.url()
	if err != nil {
		return "", unsent(r.op, http.StatusBadRequest, err)
	}
	ctx, cancel := bounded(ctx, c.timeout)
	defer cancel()
	bearer, err := c.tokens.Token(ctx)
	if err != nil {
		return "", unsent(r.op, http.StatusUnauthorized, fmt.Errorf("bearer token: %w", err))
	}
	id, fail := c.send(ctx, r, target, bearer)
	if fail == nil {
		return id, nil
	}
	if fail.Status != http.StatusUnauthorized {
		return "", fail
	}
	// The message was not accepted. The token alone may be the reason, so try
	// once more with a new one.
	next, err := tokensvc.RenewToken(ctx, c.tokens, bearer)
	switch {
	case err != nil:
		return "", unsent(r.op, http.StatusUnauthorized, err)
	case next.Empty():
		return "", fail
	}
	if id, fail = c.send(ctx, r, target, next); fail != nil {
		return "", fail
	}
	return id, nil
}

// send makes one request with the given bearer token.
func (c *Connector) send(ctx context.Context, r *request, target string, bearer tokensvc.Secret) (string, *ConnectorError) {
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return "", unsent(r.op, http.StatusBadRequest, errSegment)
	}
	req.Header.Set("Authorization", "Bearer "+bearer.Reveal())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")

	resp, err := c.http.Do(req)
	if err != nil {
		return "", noAnswer(r.op, err)
	}
	defer resp.Body.Close() //nolint:errcheck // the body was read, or is not needed
	// Only the status matters: a message that was accepted stays accepted, even
	// if the body cannot be read.
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return "", &ConnectorError{
			Op:         r.op,
			Status:     resp.StatusCode,
			Code:       errorCode(answer),
			RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now()),
		}
	}
	return answerID(answer), nil
}

// bounded returns ctx with a timeout, or ctx itself if that ends sooner.
func bounded(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= timeout {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

// url joins the service URL, with or without a trailing slash, and the path.
func (r *request) url() (string, error) {
	var b strings.Builder
	b.WriteString(strings.TrimRight(r.serviceURL, "/"))
	b.WriteString("/v3/conversations")
	for _, segment := range r.path {
		if segment == "" || segment == "." || segment == ".." {
			return "", errSegment
		}
		b.WriteByte('/')
		b.WriteString(escapeSegment(segment))
	}
	if r.targeted {
		b.WriteString("?isTargetedActivity=true")
	}
	return b.String(), nil
}

// escapeSegment escapes everything but RFC 3986's unreserved characters, as
// Microsoft's clients do. url.PathEscape would not do: it leaves the colon of
// "a:1x…".
func escapeSegment(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

func answerID(answer []byte) string {
	var wire struct {
		ID looseString `json:"id"`
	}
	if json.Unmarshal(answer, &wire) != nil || len(wire.ID) > maxMember {
		return ""
	}
	return string(wire.ID)
}

// errorCode returns the error code of an answer: error.code, or code in the older
// form. It returns "" for a value that does not look like a code.
func errorCode(answer []byte) string {
	var wire struct {
		Error json.RawMessage `json:"error"`
		Code  looseString     `json:"code"`
	}
	if json.Unmarshal(answer, &wire) != nil {
		return ""
	}
	var nested struct {
		Code looseString `json:"code"`
	}
	if json.Unmarshal(wire.Error, &nested) == nil && nested.Code != "" {
		wire.Code = nested.Code
	}
	if len(wire.Code) > maxCode {
		return ""
	}
	for _, c := range wire.Code {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' && c != '.' {
			return ""
		}
	}
	return string(wire.Code)
}

// retryAfter parses seconds or an HTTP date (RFC 9110 §10.2.3). It returns 0 for
// anything else, and for a date that has passed.
func retryAfter(value string, now time.Time) time.Duration {
	const longest = 24 * time.Hour
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		wait = time.Duration(seconds) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), longest)
}

// withoutURL unwraps an error of net/http, which contains the URL and thus the id
// of the conversation.
func withoutURL(err error) error {
	var located *url.Error
	if errors.As(err, &located) {
		return located.Err
	}
	return err
}
