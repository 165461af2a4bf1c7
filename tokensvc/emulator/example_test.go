package emulator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// A sign-in through the popup, without a bot: the sign-in resource, the page, the code.
func Example() {
	emu := emulator.New(emulator.Config{Connections: []emulator.Connection{{Name: "graph"}}})
	web := httptest.NewServer(emu)
	defer web.Close()
	emu.SetBaseURL(web.URL)

	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: web.URL, Credentials: tokensvc.Static(tokensvc.NewSecret("bot"))})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	user := tokensvc.UserConnection{UserID: "29:1abc", Connection: "graph", ChannelID: "msteams"}
	_, err = tokens.GetToken(ctx, user, tokensvc.Secret{})
	fmt.Println(err)

	resource, err := tokens.GetSignInResource(ctx, tokensvc.State{Connection: "graph", UserID: user.UserID, ChannelID: "msteams"})
	if err != nil {
		fmt.Println(err)
		return
	}
	code, err := emulator.SignInWithPage(ctx, web.Client(), resource.SignInLink.Reveal())
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := tokens.GetToken(ctx, user, tokensvc.NewSecret(code))
	fmt.Println(token.Connection, token.Token, err)
	// Output:
	// token service: GetToken: status 404: no token
	// graph [redacted] <nil>
}

// echo is the smallest bot: it answers 200 to everything and prints what it gets.
func echo() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var a emulator.Incoming
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("the bot gets %s %q\n", a.Type, a.Name+a.Text)
	}))
}

// serve starts an emulator, and returns it with a client and a function that stops it.
func serve(cfg emulator.Config) (emu *emulator.Server, tokens *tokensvc.Client, end func()) {
	emu = emulator.New(cfg)
	web := httptest.NewServer(emu)
	emu.SetBaseURL(web.URL)
	tokens, err := tokensvc.New(tokensvc.Config{BaseURL: web.URL, Credentials: tokensvc.Static(tokensvc.NewSecret("bot"))})
	if err != nil {
		panic(err)
	}
	return emu, tokens, func() { tokens.CloseIdleConnections(); web.Close() }
}

// post sends an activity through the connector, as a bot does.
func post(emu *emulator.Server, conversation, activity string) int {
	req, err := http.NewRequestWithContext(
		context.Background(), http.MethodPost, emu.ServiceURL()+"v3/conversations/"+conversation+"/activities", strings.NewReader(activity),
	)
	if err != nil {
		panic(err)
	}
	req.Header.Set("Authorization", "Bearer bot")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing is read
	return res.StatusCode
}

// robin is the user whose tokens the examples use.
var robin = tokensvc.UserConnection{UserID: "29:1robin", Connection: "graph", ChannelID: "msteams"}

// A Server replaces the Token Service, the connector, Entra and Graph.
func ExampleServer() {
	emu, tokens, end := serve(emulator.Config{})
	defer end()
	emu.PutToken(robin) // as if robin had signed in
	token, err := tokens.GetToken(context.Background(), robin, tokensvc.Secret{})
	fmt.Println(token.Connection, err, emu.Count(emulator.OpGetToken))
	// Output:
	// graph <nil> 1
}

func ExampleConfig() {
	emu := emulator.New(emulator.Config{
		Connections: []emulator.Connection{{Name: "graph", DisplayName: "Microsoft Graph", SSO: true}},
		Users:       []emulator.User{{ID: "29:1adele", Name: "Adele Vance"}},
		ClientID:    "00000000-0000-0000-0000-000000000000", ClientSecret: tokensvc.NewSecret("s3cret"),
		Bearer: emulator.BearerIssued, // only tokens of the emulated Entra
		Seed:   1,                     // the same ids in every run
	})
	fmt.Println(emu.Teams("http://127.0.0.1:3978/api/messages").User.Name)
	// Output:
	// Adele Vance
}

// With BearerIssued the emulator checks bearer tokens as the services do.
func ExampleBearerPolicy() {
	_, tokens, end := serve(emulator.Config{Bearer: emulator.BearerIssued})
	defer end()
	_, err := tokens.GetToken(context.Background(), robin, tokensvc.Secret{})
	fmt.Println(err)
	// Output:
	// token service: GetToken: status 401, code Unauthorized
}

// The sign-in resource of a connection without SSO has no token exchange resource.
func ExampleConnection() {
	_, tokens, end := serve(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}, {Name: "github"}}})
	defer end()
	for _, name := range []string{"graph", "github"} {
		r, err := tokens.GetSignInResource(context.Background(), tokensvc.State{Connection: name, UserID: "29:1robin", ChannelID: "msteams", MsAppID: "00000000"})
		fmt.Println(name, r.TokenExchangeResource != nil, err)
	}
	// Output:
	// graph true <nil>
	// github false <nil>
}

// A fault makes the next requests of an operation fail.
func ExampleFault() {
	emu, tokens, end := serve(emulator.Config{})
	defer end()
	emu.PutToken(robin)
	emu.AddFault(emulator.Fault{Operation: emulator.OpGetToken, Times: 1, Status: http.StatusForbidden, Code: "Forbidden"})
	for range 2 {
		_, err := tokens.GetToken(context.Background(), robin, tokensvc.Secret{})
		fmt.Println(err)
	}
	// Output:
	// token service: GetToken: status 403, code Forbidden
	// <nil>
}

// A fault for cards only: the bot's texts are accepted.
func ExampleActivityKind() {
	emu, _, end := serve(emulator.Config{})
	defer end()
	emu.AddFault(emulator.Fault{Operation: emulator.OpPostActivity, Activity: emulator.CardActivity, Status: http.StatusForbidden})
	fmt.Println(post(emu, "a:1", `{"type":"message","text":"hello"}`))
	fmt.Println(post(emu, "a:1", `{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.oauth","content":{}}]}`))
	// Output:
	// 201
	// 403
}

// Requests are counted by operation.
func ExampleOperation() {
	emu, tokens, end := serve(emulator.Config{})
	defer end()
	_, _ = tokens.GetToken(context.Background(), robin, tokensvc.Secret{})
	for op, n := range emu.Counts() {
		fmt.Println(op, n)
	}
	// Output:
	// GetToken 1
}

func ExampleRequest() {
	emu, tokens, end := serve(emulator.Config{})
	defer end()
	_, _ = tokens.GetToken(context.Background(), robin, tokensvc.Secret{})
	for _, r := range emu.Requests(emulator.OpGetToken) {
		fmt.Println(r.Method, r.Path, r.Query["connectionname"], r.Status)
	}
	// Output:
	// GET /api/usertoken/GetToken graph 404
}

// Where the behaviour of the live service is not known, a switch selects it.
func ExampleSwitches() {
	emu, tokens, end := serve(emulator.Config{Connections: []emulator.Connection{{Name: "graph", SSO: true}}})
	defer end()
	emu.SetSwitches(emulator.Switches{SSO: map[string]int{"graph": http.StatusPreconditionFailed}})
	_, err := tokens.Exchange(context.Background(), robin, tokensvc.NewSecret("an SSO token"))
	fmt.Println(err != nil)
	emu.SetSwitches(emulator.Switches{})
	_, err = tokens.Exchange(context.Background(), robin, tokensvc.NewSecret("an SSO token"))
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}

// Teams calls a bot as one user on one device.
func ExampleTeams() {
	bot := echo()
	defer bot.Close()
	user := emulator.NewTeams(bot.URL, "http://connector.example/", 1)
	answer, err := user.SendMessage(context.Background(), "hello")
	fmt.Println(answer.Status, err)
	_, err = user.On("iOS").VerifyState(context.Background(), emulator.CancelledByUser, "")
	fmt.Println(err)
	// Output:
	// the bot gets message "hello"
	// 200 <nil>
	// the bot gets invoke "signin/verifyState"
	// <nil>
}

// To duplicate a delivery, send the same activity again.
func ExampleAnswer() {
	bot := echo()
	defer bot.Close()
	user := emulator.NewTeams(bot.URL, "http://connector.example/", 1)
	first, err := user.SendMessage(context.Background(), "hello")
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := user.Send(context.Background(), first.Sent)
	fmt.Println(again.Sent.ID == first.Sent.ID, err)
	// Output:
	// the bot gets message "hello"
	// the bot gets message "hello"
	// true <nil>
}

// An activity can be changed before it is sent.
func ExampleIncoming() {
	bot := echo()
	defer bot.Close()
	user := emulator.NewTeams(bot.URL, "http://connector.example/", 1)
	a := user.Message("hello")
	a.Text = "HELLO"
	_, err := user.Send(context.Background(), a)
	fmt.Println(err)
	// Output:
	// the bot gets message "HELLO"
	// <nil>
}

func ExampleAccount() {
	user := emulator.NewTeams("http://127.0.0.1:3978/api/messages", "http://connector.example/", 1)
	user.User = emulator.Account{ID: "29:1adele", Name: "Adele Vance", AADObjectID: "0350c6a2-0000-4000-8000-000000000001"}
	fmt.Println(user.Message("hello").From.Name)
	// Output:
	// Adele Vance
}

// In a channel a message mentions the bot, as Teams requires.
func ExampleConversation() {
	user := emulator.NewTeams("http://127.0.0.1:3978/api/messages", "http://connector.example/", 1)
	user.Conversation = emulator.Conversation{ID: "19:general@thread.tacv2", Type: "channel"}
	fmt.Println(user.Message("hello").Text)
	// Output:
	// <at>bot</at> hello
}

func ExampleEntity() {
	user := emulator.NewTeams("http://127.0.0.1:3978/api/messages", "http://connector.example/", 1)
	for _, e := range user.Message("hello").Entities {
		fmt.Println(e.Type, e.Platform)
	}
	// Output:
	// clientInfo Web
}

func ExampleChannelData() {
	user := emulator.NewTeams("http://127.0.0.1:3978/api/messages", "http://connector.example/", 1)
	data := user.Message("hello").ChannelData
	fmt.Println(data.Tenant.ID == user.Conversation.TenantID)
	// Output:
	// true
}

// The channel data of an activity says where in a team the user wrote it.
func ExamplePlace() {
	user := emulator.NewTeams("http://127.0.0.1:3978/api/messages", "http://connector.example/", 1)
	a := user.Message("hello")
	a.ChannelData.Channel = &emulator.Place{ID: "19:general@thread.tacv2", Type: "standard"}
	fmt.Println(a.ChannelData.Channel.Type)
	// Output:
	// standard
}

// A test can wait for an activity of the bot.
func ExampleActivity() {
	emu, _, end := serve(emulator.Config{})
	defer end()
	post(emu, "a:1", `{"type":"message","text":"You are signed in."}`)
	a, err := emu.WaitForText(context.Background(), "a:1", "signed in")
	fmt.Println(a.Text, err)
	// Output:
	// You are signed in. <nil>
}

func ExampleCard() {
	emu, _, end := serve(emulator.Config{})
	defer end()
	post(emu, "a:1", `{"type":"message","attachments":[{"contentType":"application/vnd.microsoft.card.oauth","content":{
		"text":"Please Sign In","connectionName":"graph","buttons":[{"type":"signin","title":"Sign In","value":"https://token.example/"}]}}]}`)
	card, ok := emu.LastCard("a:1")
	fmt.Println(ok, card.Connection, card.ButtonTitle)
	// Output:
	// true graph Sign In
}

// The emulated Graph has a profile of every user.
func ExampleUser() {
	u := emulator.DefaultUser()
	u.Mail = "robin@example.com"
	emu := emulator.New(emulator.Config{Users: []emulator.User{u}})
	fmt.Println(emu.Teams("http://127.0.0.1:3978/api/messages").User.Name)
	// Output:
	// Robin
}

// The answer to an invoke of a message extension.
func ExampleCompose() {
	answer := emulator.Answer{Status: http.StatusOK, Body: []byte(`{"composeExtension":{"type":"auth","suggestedActions":{"actions":[
		{"type":"openUrl","value":"https://bot.example.com/auth/start","title":"Sign In"}]}}}`)}
	c, err := answer.Compose()
	fmt.Println(c.Type, c.URL, err)
	// Output:
	// auth https://bot.example.com/auth/start <nil>
}

// popup serves a bot's start page, which sends the browser to the provider, and its
// callback page. It returns the address of the start page.
func popup(p *emulator.Provider) (address string, end func()) {
	mux := http.NewServeMux()
	web := httptest.NewServer(mux)
	p.SetRedirectURL(web.URL + "/callback")
	mux.Handle("/provider/", p)
	mux.HandleFunc("/start", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, web.URL+"/provider/authorize?"+url.Values{
			"response_type": {"code"}, "client_id": {"wiki"}, "redirect_uri": {web.URL + "/callback"}, "scope": {"openid"}, "state": {"s"},
			"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"},
		}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("/callback", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, r.URL.Query().Get("error"))
	})
	return web.URL + "/start", web.Close
}

// A third-party provider signs the users of a message extension in.
func ExampleProvider() {
	p := emulator.NewProvider(emulator.ProviderConfig{ClientID: "wiki"})
	address, end := popup(p)
	defer end()
	a, err := emulator.NewBrowser().Authorize(context.Background(), address)
	fmt.Println(strings.Contains(a.Callback, "code="), err)
	// Output:
	// true <nil>
}

func ExampleProviderConfig() {
	p := emulator.NewProvider(emulator.ProviderConfig{
		ClientID: "wiki", ClientSecret: tokensvc.NewSecret("s3cret"), RedirectURL: "https://bot.example.com/auth/callback",
		NoRefresh: true, // users sign in again when the token has expired
	})
	fmt.Println(p.Good("a token that it never gave out"))
	// Output:
	// false
}

// A browser presses Allow on the provider's page, or Deny.
func ExampleBrowser() {
	p := emulator.NewProvider(emulator.ProviderConfig{ClientID: "wiki"})
	address, end := popup(p)
	defer end()
	b := emulator.NewBrowser()
	b.Deny = true
	a, err := b.Authorize(context.Background(), address)
	fmt.Println(strings.Contains(a.Callback, "error=access_denied"), err)
	// Output:
	// true <nil>
}

// A test can stop a popup before its callback, to check the authorization request.
func ExampleAuthorized() {
	p := emulator.NewProvider(emulator.ProviderConfig{ClientID: "wiki"})
	address, end := popup(p)
	defer end()
	a, err := emulator.NewBrowser().Authorize(context.Background(), address)
	if err != nil {
		fmt.Println(err)
		return
	}
	asked, err := url.Parse(a.Provider)
	fmt.Println(asked.Query().Get("code_challenge_method"), err)
	// Output:
	// S256 <nil>
}

// The result of a popup.
func ExamplePopupResult() {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	r, err := emulator.NewBrowser().Open(context.Background(), web.URL)
	fmt.Println(r.Status, r.Code == "", err)
	// Output:
	// 404 true <nil>
}
