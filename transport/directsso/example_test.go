package directsso_test

import (
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store/memstore"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/directsso"
)

// A connection that bypasses the Token Service, besides one of the Azure Bot
// resource.
func ExampleNew() {
	credentials, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: "https://login.microsoftonline.com", Tenant: "contoso.example", ClientID: app, ClientSecret: tokensvc.NewSecret("secret"),
	})
	if err != nil {
		panic(err)
	}
	calendar, err := directsso.New(directsso.Config{
		AppID: app, Connection: "calendar", Scopes: []string{"https://graph.microsoft.com/Calendars.Read"},
		SignInLink: "https://bot.example.com/consent", OnBehalfOf: credentials,
		Store: memstore.New(time.Now), Keys: keys(key),
	})
	if err != nil {
		panic(err)
	}
	for _, conn := range []machine.Connection{{Name: "graph"}, {Name: "calendar", Tokens: calendar}} {
		fmt.Println(conn.Name, conn.Tokens != nil)
	}
	// Output:
	// graph false
	// calendar true
}
