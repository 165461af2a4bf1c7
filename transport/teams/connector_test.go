package teams_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

const (
	botToken   = "bot-bearer"
	signInLink = "https://token.botframework.com/api/oauth/signin?signin=02706e367e884e8ea4e86472cbd71932"
	sasURL     = "https://token.botframework.com/api/sas/postToken?expiry=1776827583&id=key2&state=02706e367e884e8ea4e86472cbd71932&hmac=..."
)

// sent is a request as it was on the wire.
type sent struct {
	method, target, bearer, contentType, body string
}

// recorder gives every request the same answer and keeps the requests.
type recorder struct {
	status int
	body   string
	header http.Header
	seen   chan sent
}

func newRecorder(status int, body string) *recorder {
	return &recorder{status: status, body: body, seen: make(chan sent, 8)}
}

func (c *recorder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	c.seen <- sent{r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), string(body)}
	for name, values := range c.header {
		w.Header()[name] = values
	}
	w.WriteHeader(c.status)
	_, _ = io.WriteString(w, c.body)
}

func loopback(tb testing.TB) *teams.AllowList {
	tb.Helper()
	list, err := teams.NewAllowList(nil, true)
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

func newConnector(tb testing.TB, cfg teams.ConnectorConfig) *teams.Connector {
	tb.Helper()
	if cfg.Tokens == nil {
		cfg.Tokens = tokensvc.Static(tokensvc.NewSecret(botToken))
	}
	if cfg.ServiceURLs == nil {
		cfg.ServiceURLs = loopback(tb)
	}
	c, err := teams.NewConnector(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.CloseIdleConnections)
	return c
}

func serve(tb testing.TB, h http.Handler) string {
	tb.Helper()
	srv := httptest.NewServer(h)
	tb.Cleanup(srv.Close)
	return srv.URL
}

func seedCardMessage() machine.Message {
	return machine.Message{ReplyTo: seedMessage, Card: &machine.OAuthCard{
		Connection: "teamsgraph",
		Resource: tokensvc.SignInResource{
			SignInLink:        tokensvc.NewSecret(signInLink),
			TokenPostResource: &tokensvc.TokenPostResource{SasURL: tokensvc.NewSecret(sasURL)},
		},
	}}
}

// toTrace sends m to the recorded conversation.
func toTrace(t *testing.T, m machine.Message) sent {
	t.Helper()
	return toConversation(t, seedReference(), m)
}

// toConversation sends m through a server that stands in for
// smba.trafficmanager.net.
func toConversation(t *testing.T, to store.Conversation, m machine.Message) sent {
	t.Helper()
	answers := newRecorder(http.StatusCreated, `{"id":"`+seedCard+`"}`)
	srv := httptest.NewTLSServer(answers)
	t.Cleanup(srv.Close)
	transport, ok := srv.Client().Transport.(*http.Transport)
	if !ok {
		t.Fatal("no *http.Transport")
	}
	transport.TLSClientConfig.ServerName = "example.com" // the name in httptest's certificate
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dial(ctx, network, srv.Listener.Addr().String())
	}
	c := newConnector(t, teams.ConnectorConfig{Transport: transport})
	id, err := c.Send(t.Context(), to, m)
	if err != nil {
		t.Fatal(err)
	}
	if id != seedCard {
		t.Errorf("id = %q", id)
	}
	return <-answers.seen
}

func TestSendOfTheTrace(t *testing.T) {
	t.Parallel()
	const conversation = "/amer/3f3d1cea-7a18-41af-872b-cfbbd5140984/v3/conversations/" +
		"a%3A1xH4HncZ6lyZnMVYp9rTKoRyS44qDCikYZ1u-Q0VNmZqyceL6nKfe5ZKG9CqOi2WuXNDJyLBAaDgVChKMxKFPlAZ5bsy0_8RhvPYYi5ZJJKCiia_SEd_e8WJVlSHOIM3Z"
	tests := []struct {
		name    string
		message machine.Message
		target  string
		golden  string
	}{
		{"step 4, card", seedCardMessage(), conversation + "/activities/1776827520098", "step4_card.golden.json"},
		{
			"step 7, text",
			machine.Message{ReplyTo: seedInvoke, Text: "Connected to Microsoft Graph (teamsgraph)!"},
			conversation + "/activities/f%3A7d1e8ec2-5897-396e-aa7b-f579ad2fac9f", "step7_text.golden.json",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := toTrace(t, tt.message)
			want := sent{http.MethodPost, tt.target, "Bearer " + botToken, "application/json", golden(t, tt.golden)}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(sent{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestSendTargetedCard compares a targeted card with the recorded one. They
// differ in the group chat and in the two marks of a targeted message.
func TestSendTargetedCard(t *testing.T) {
	t.Parallel()
	to := seedReference()
	to.ID, to.Type, to.IsGroup = "19:7705841b240044b297123ad7f9c99217@thread.v2", "groupChat", true
	card := seedCardMessage()
	card.Targeted = true
	got := toConversation(t, to, card)
	want := sent{
		http.MethodPost,
		"/amer/3f3d1cea-7a18-41af-872b-cfbbd5140984/v3/conversations/" +
			"19%3A7705841b240044b297123ad7f9c99217%40thread.v2/activities/1776827520098?isTargetedActivity=true",
		"Bearer " + botToken, "application/json", golden(t, "targeted_card.golden.json"),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(sent{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestConnectorRequests(t *testing.T) {
	t.Parallel()
	sso := seedCardMessage()
	sso.ReplyTo = ""
	sso.Card.Text, sso.Card.Button = "Bitte anmelden", "Anmelden"
	sso.Card.Resource.TokenPostResource = nil
	sso.Card.Resource.TokenExchangeResource = &tokensvc.TokenExchangeResource{ID: "fc67", URI: "api://bot", ProviderID: "30dd"}

	minimal := store.Conversation{ID: "19:a b/c+d@thread.tacv2;messageid=1", BotID: "28:b", UserID: "29:u"}
	member := minimal
	member.Tenant, member.UserName, member.UserAAD = "t", "U", "aad"
	group := minimal
	group.Type, group.IsGroup = "groupChat", true

	const escaped = "/base/v3/conversations/19%3Aa%20b%2Fc%2Bd%40thread.tacv2%3Bmessageid%3D1"
	const address = `"from":{"id":"28:b"},"conversation":{"id":"19:a b/c+d@thread.tacv2;messageid=1"}`
	tests := []struct {
		name           string
		call           func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error)
		method, target string
		body           string // SERVICE stands for the service URL
	}{
		{
			"proactive card with SSO",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				minimal := minimal
				minimal.ServiceURL = serviceURL
				return c.Send(ctx, minimal, sso)
			},
			http.MethodPost, escaped + "/activities",
			`{"from":{"id":"28:b"},"recipient":{"id":"29:u"},"conversation":{"id":"19:a b/c+d@thread.tacv2;messageid=1"},` +
				`"attachments":[{"contentType":"application/vnd.microsoft.card.oauth","content":{"text":"Bitte anmelden","connectionName":"teamsgraph",` +
				`"buttons":[{"type":"signin","title":"Anmelden","value":"` + signInLink + `"}],` +
				`"tokenExchangeResource":{"id":"fc67","uri":"api://bot","providerId":"30dd"}}}],"type":"message","serviceUrl":"SERVICE"}`,
		},
		{
			"text in a group",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				group := group
				group.ServiceURL = serviceURL
				return c.Send(ctx, group, machine.Message{Text: "a < b & c"})
			},
			http.MethodPost, escaped + "/activities",
			`{"from":{"id":"28:b"},"conversation":{"conversationType":"groupChat","id":"19:a b/c+d@thread.tacv2;messageid=1","isGroup":true},` +
				`"type":"message","serviceUrl":"SERVICE","text":"a < b & c","textFormat":"plain"}`,
		},
		{
			"update",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				minimal := minimal
				minimal.ServiceURL = serviceURL
				return "42", c.Update(ctx, minimal, "1:x", machine.Message{Text: "done"})
			},
			http.MethodPut, escaped + "/activities/1%3Ax",
			`{` + address + `,"type":"message","id":"1:x","serviceUrl":"SERVICE","text":"done","textFormat":"plain"}`,
		},
		{
			"update of a targeted message",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				group := group
				group.ServiceURL = serviceURL
				return "42", c.Update(ctx, group, "1:x", machine.Message{Text: "done", Targeted: true})
			},
			http.MethodPut, escaped + "/activities/1%3Ax?isTargetedActivity=true",
			`{"from":{"id":"28:b"},"recipient":{"id":"29:u","isTargeted":true},` +
				`"conversation":{"conversationType":"groupChat","id":"19:a b/c+d@thread.tacv2;messageid=1","isGroup":true},` +
				`"type":"message","id":"1:x","serviceUrl":"SERVICE","text":"done","textFormat":"plain"}`,
		},
		{
			"raw, targeted: the recipient is ours",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				minimal := minimal
				minimal.ServiceURL = serviceURL
				return c.Send(ctx, minimal, machine.Message{Targeted: true, Raw: json.RawMessage(`{"text":"hi","recipient":{"id":"29:other"}}`)})
			},
			http.MethodPost, escaped + "/activities?isTargetedActivity=true",
			`{"conversation":{"id":"19:a b/c+d@thread.tacv2;messageid=1"},"from":{"id":"28:b"},"recipient":{"id":"29:u","isTargeted":true},` +
				`"serviceUrl":"SERVICE","text":"hi","type":"message"}`,
		},
		{
			"new conversation",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				member := member
				member.ServiceURL = serviceURL
				return c.CreateConversation(ctx, member)
			},
			http.MethodPost, "/base/v3/conversations",
			`{"bot":{"id":"28:b"},"members":[{"id":"29:u","name":"U","aadObjectId":"aad"}],"channelData":{"tenant":{"id":"t"}},"isGroup":false}`,
		},
		{
			"raw: its own members, our address, no null",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				minimal := minimal
				minimal.ServiceURL = serviceURL
				return c.Send(ctx, minimal, machine.Message{ReplyTo: "7", Raw: json.RawMessage(
					`{"type":"typing","id":"1","from":{"id":"28:other"},"serviceUrl":"https://evil.example/","value":{"n":null},"recipient":null}`)})
			},
			http.MethodPost, escaped + "/activities/7",
			`{"conversation":{"id":"19:a b/c+d@thread.tacv2;messageid=1"},"from":{"id":"28:b"},"replyToId":"7","serviceUrl":"SERVICE","type":"typing","value":{"n":null}}`,
		},
		{
			"raw without a type is a message",
			func(ctx context.Context, c *teams.Connector, serviceURL string) (string, error) {
				minimal := minimal
				minimal.ServiceURL = serviceURL
				return c.Send(ctx, minimal, machine.Message{Raw: json.RawMessage(`{"text":"**hi**","textFormat":"markdown","replyToId":"1"}`)})
			},
			http.MethodPost, escaped + "/activities",
			`{"conversation":{"id":"19:a b/c+d@thread.tacv2;messageid=1"},"from":{"id":"28:b"},"serviceUrl":"SERVICE","text":"**hi**","textFormat":"markdown","type":"message"}`,
		},
	}
	for _, tt := range tests {
		for _, slash := range []string{"", "/"} {
			t.Run(tt.name+slash, func(t *testing.T) {
				t.Parallel()
				answers := newRecorder(http.StatusOK, `{"id":"42"}`)
				serviceURL := serve(t, answers) + "/base" + slash
				id, err := tt.call(t.Context(), newConnector(t, teams.ConnectorConfig{}), serviceURL)
				if err != nil {
					t.Fatal(err)
				}
				if id != "42" {
					t.Errorf("id = %q", id)
				}
				want := sent{tt.method, tt.target, "Bearer " + botToken, "application/json", strings.ReplaceAll(tt.body, "SERVICE", serviceURL)}
				if diff := cmp.Diff(want, <-answers.seen, cmp.AllowUnexported(sent{})); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			})
		}
	}
}

func TestConnectorAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		body   string
		header http.Header
		id     string
		want   *teams.ConnectorError // nil = success
	}{
		{name: "200 with an id", status: 200, body: `{"id":"7"}`, id: "7"},
		{name: "201", status: 201, body: `{"id":"7","more":1}`, id: "7"},
		{name: "202 with nothing", status: 202},
		{name: "204", status: 204},
		{name: "200 with an empty object", status: 200, body: `{}`},
		{name: "200 with something else", status: 200, body: `accepted`},
		{name: "200 with a number for an id", status: 200, body: `{"id":7}`, id: "7"},
		{name: "200 with an id of another type", status: 200, body: `{"id":[7]}`},
		{
			name: "400 with a code", status: 400, body: `{"error":{"code":"ServiceError","message":"Unknown secret"}}`,
			want: &teams.ConnectorError{Op: "Send", Status: 400, Code: "ServiceError"},
		},
		{
			name: "403 with prose for a code", status: 403, body: `{"error":{"code":"see secret link"}}`,
			want: &teams.ConnectorError{Op: "Send", Status: 403},
		},
		{
			name: "403 of the older form", status: 403, body: `{"code":"BotNotInConversationRoster","message":"secret"}`,
			want: &teams.ConnectorError{Op: "Send", Status: 403, Code: "BotNotInConversationRoster"},
		},
		{
			name: "400 with a number for a code", status: 400, body: `{"error":{"code":209,"message":"secret"}}`,
			want: &teams.ConnectorError{Op: "Send", Status: 400, Code: "209"},
		},
		{
			name: "404 with an error that is a text", status: 404, body: `{"error":"secret words","code":"ConversationNotFound"}`,
			want: &teams.ConnectorError{Op: "Send", Status: 404, Code: "ConversationNotFound"},
		},
		{
			name: "429 with Retry-After", status: 429, header: http.Header{"Retry-After": {"7"}},
			want: &teams.ConnectorError{Op: "Send", Status: 429, RetryAfter: 7 * time.Second},
		},
		{
			name: "503 with a Retry-After of ages", status: 503, header: http.Header{"Retry-After": {"99999999999"}},
			want: &teams.ConnectorError{Op: "Send", Status: 503, RetryAfter: 24 * time.Hour},
		},
		{
			name: "503 with a Retry-After of no meaning", status: 503, header: http.Header{"Retry-After": {"soon"}},
			want: &teams.ConnectorError{Op: "Send", Status: 503},
		},
		{name: "500 without JSON", status: 500, body: `secret`, want: &teams.ConnectorError{Op: "Send", Status: 500}},
		{
			name: "307 is not followed", status: 307, header: http.Header{"Location": {"/elsewhere"}},
			want: &teams.ConnectorError{Op: "Send", Status: 307},
		},
		{name: "longer than the limit", status: 200, body: `{"id":"7","x":"` + strings.Repeat("x", 1<<20) + `"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answers := newRecorder(tt.status, tt.body)
			answers.header = tt.header
			to := seedReference()
			to.ServiceURL = serve(t, answers)
			id, err := newConnector(t, teams.ConnectorConfig{}).Send(t.Context(), to, machine.Message{Text: "x"})
			if id != tt.id {
				t.Errorf("id = %q, want %q", id, tt.id)
			}
			if len(answers.seen) != 1 {
				t.Errorf("%d requests", len(answers.seen))
			}
			if tt.want == nil {
				if err != nil {
					t.Errorf("err = %v", err)
				}
				return
			}
			var got *teams.ConnectorError
			if !errors.As(err, &got) {
				t.Fatalf("err = %v", err)
			}
			if got.Op != tt.want.Op || got.Status != tt.want.Status || got.Code != tt.want.Code || got.RetryAfter != tt.want.RetryAfter {
				t.Errorf("err = %+v, want %+v", got, tt.want)
			}
			if got.Operation() != tt.want.Op || got.HTTPStatus() != tt.want.Status || got.ErrorCode() != tt.want.Code || got.RetryDelay() != tt.want.RetryAfter {
				t.Errorf("err = %+v, want what its fields say", got)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the body shows: %v", err)
			}
		})
	}
}

// tokenFunc is a function that serves as a token source.
type tokenFunc func(ctx context.Context) (tokensvc.Secret, error)

func (f tokenFunc) Token(ctx context.Context) (tokensvc.Secret, error) { return f(ctx) }

func TestConnectorDoesNotSend(t *testing.T) {
	t.Parallel()
	denied := &tokensvc.Error{Op: "AccessToken", Status: 503}
	tests := []struct {
		name    string
		to      func(*store.Conversation)
		message machine.Message
		tokens  tokenFunc
		status  int
		is      error
	}{
		{
			name: "a host that is not listed", to: func(to *store.Conversation) { to.ServiceURL = "https://evil.example/" },
			tokens: func(context.Context) (tokensvc.Secret, error) { panic("token asked for") },
			status: 403, is: teams.ErrServiceURL,
		},
		{name: "no service URL", to: func(to *store.Conversation) { to.ServiceURL = "" }, status: 403, is: teams.ErrServiceURL},
		{name: "no conversation", to: func(to *store.Conversation) { to.ID = "" }, status: 400},
		{name: "a conversation that climbs", to: func(to *store.Conversation) { to.ID = ".." }, status: 400},
		{name: "an activity that climbs", message: machine.Message{ReplyTo: "."}, status: 400},
		{name: "raw text", message: machine.Message{Raw: json.RawMessage(`"secret"`)}, status: 400},
		{name: "raw null", message: machine.Message{Raw: json.RawMessage(`null`)}, status: 400},
		{
			name:   "no bearer token",
			tokens: func(context.Context) (tokensvc.Secret, error) { return tokensvc.Secret{}, denied },
			status: 401, is: denied,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answers := newRecorder(http.StatusOK, "")
			to := seedReference()
			to.ServiceURL = serve(t, answers)
			if tt.to != nil {
				tt.to(&to)
			}
			cfg := teams.ConnectorConfig{}
			if tt.tokens != nil {
				cfg.Tokens = tt.tokens
			}
			_, err := newConnector(t, cfg).Send(t.Context(), to, tt.message)
			var got *teams.ConnectorError
			if !errors.As(err, &got) || got.Status != 0 || got.HTTPStatus() != tt.status {
				t.Errorf("err = %v", err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("err = %v, want %v", err, tt.is)
			}
			var cause *tokensvc.Error
			if errors.As(err, &cause) != errors.Is(tt.is, denied) || cause != nil && cause.Op != denied.Op {
				t.Errorf("err = %v, its *tokensvc.Error is %v", err, cause)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the message shows: %v", err)
			}
			if len(answers.seen) != 0 {
				t.Error("a request was sent")
			}
		})
	}
}

func TestConnectorWithoutAnswer(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	serviceURL := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(func() { close(release) })
	to := seedReference()
	to.ServiceURL = serviceURL

	t.Run("deadline of the call", func(t *testing.T) {
		_, err := newConnector(t, teams.ConnectorConfig{Timeout: 20 * time.Millisecond}).Send(t.Context(), to, seedCardMessage())
		checkNoAnswer(t, err, context.DeadlineExceeded)
	})
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		tokens := tokenFunc(func(context.Context) (tokensvc.Secret, error) {
			time.AfterFunc(20*time.Millisecond, cancel)
			return tokensvc.NewSecret(botToken), nil
		})
		_, err := newConnector(t, teams.ConnectorConfig{Tokens: tokens}).Send(ctx, to, seedCardMessage())
		checkNoAnswer(t, err, context.Canceled)
	})
}

func checkNoAnswer(t *testing.T, err, cause error) {
	t.Helper()
	var got *teams.ConnectorError
	if !errors.As(err, &got) || got.HTTPStatus() != 0 || !errors.Is(err, cause) {
		t.Errorf("err = %v", err)
	}
	for _, hidden := range []string{seedConversation, "a%3A", signInLink, botToken} {
		if strings.Contains(err.Error(), hidden) {
			t.Errorf("%q shows in %v", hidden, err)
		}
	}
}

func TestCreateConversationNeedsAnID(t *testing.T) {
	t.Parallel()
	to := seedReference()
	to.ServiceURL = serve(t, newRecorder(http.StatusAccepted, ``))
	id, err := newConnector(t, teams.ConnectorConfig{}).CreateConversation(t.Context(), to)
	var got *teams.ConnectorError
	if !errors.As(err, &got) || id != "" {
		t.Errorf("id %q, err %v", id, err)
	}
}

func TestConnectorKeepsItsConnection(t *testing.T) {
	t.Parallel()
	peers := make(chan string, 20)
	to := seedReference()
	to.ServiceURL = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peers <- r.RemoteAddr
		_, _ = io.WriteString(w, `{"id":"1"}   `)
	}))
	c := newConnector(t, teams.ConnectorConfig{})
	for range cap(peers) {
		if _, err := c.Send(t.Context(), to, machine.Message{Text: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	first := <-peers
	for range cap(peers) - 1 {
		if peer := <-peers; peer != first {
			t.Fatalf("connections from %s and %s", first, peer)
		}
	}
}

func TestNewConnectorRefuses(t *testing.T) {
	t.Parallel()
	if _, err := teams.NewConnector(teams.ConnectorConfig{}); err == nil {
		t.Error("accepted without a token source")
	}
	if _, err := teams.NewConnector(teams.ConnectorConfig{Tokens: tokensvc.Static(tokensvc.NewSecret("x")), Timeout: -1}); err == nil {
		t.Error("accepted a negative timeout")
	}
}

func TestRetryAfterMayBeADate(t *testing.T) {
	t.Parallel()
	answers := newRecorder(http.StatusTooManyRequests, "")
	answers.header = http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}
	to := seedReference()
	to.ServiceURL = serve(t, answers)
	_, err := newConnector(t, teams.ConnectorConfig{}).Send(t.Context(), to, machine.Message{Text: "x"})
	var got *teams.ConnectorError
	if !errors.As(err, &got) || got.RetryDelay() < 50*time.Minute || got.RetryDelay() > time.Hour {
		t.Errorf("err = %+v", err)
	}
}
