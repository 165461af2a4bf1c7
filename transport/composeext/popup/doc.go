// Package popup signs the users of a message extension in with the bot's own popup
// (rows M2 and M3, docs/protocol.md §6). A [Popup] replaces the Token Service for one
// connection: it is set as machine.Connection.Tokens. Its pages are served by the
// bot's own HTTP server:
//
//	wiki, err := popup.New(popup.Config{…})
//	eng, err := machine.New(machine.Config{
//		Connections: []machine.Connection{{Name: "wiki", Tokens: wiki}}, …
//	})
//	http.Handle("/auth/", wiki)
//
// A sign-in takes three requests, and each may reach another instance of the bot. What
// the next request needs is encrypted in the store:
//
//  1. GET /auth/start sends the browser to the provider, for an authorization code with
//     PKCE. The state is bound to a cookie, so that only this browser can return it.
//  2. GET /auth/callback redeems the provider's code, stores the credentials under a
//     security code of 128 random bits, and passes that code to Teams.
//  3. Teams repeats the query with the security code. [Popup.Redeem] checks the code,
//     and the engine spends it in the transaction that completes the attempt.
//
// The names of the records are HMACs with the store's own key, so that a reader of the
// store learns neither states nor codes. The values are encrypted with AES-GCM under
// [Config.Keys], and each is bound to the name of its record.
package popup
