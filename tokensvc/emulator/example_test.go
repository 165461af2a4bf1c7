package emulator_test

import (
	"context"
	"fmt"
	"net/http/httptest"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// A popup sign-in, played without a bot: the resource, the page, the code.
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
