// Package popup signs the users of a message extension in with a popup of the
// bot's own (rows M2 and M3, docs/protocol.md §6). It is the Token Service of one
// connection: a [Popup] goes into machine.Connection.Tokens, and its pages are
// served beside the bot:
//
//	wiki, err := popup.New(popup.Config{…})
//	eng, err := machine.New(machine.Config{
//		Connections: []machine.Connection{{Name: "wiki", Tokens: wiki}}, …
//	})
//	http.Handle("/auth/", wiki)
//
// A popup takes three requests, and each may meet another instance of the bot.
// What one leaves to the next is in the store, sealed:
//
//  1. GET /auth/start sends the browser to the provider: authorization code with
//     PKCE, and a state that only the browser with our cookie may bring back.
//  2. GET /auth/callback redeems the provider's code, keeps the credentials under
//     a security code of 128 random bits, and hands that code to Teams.
//  3. The query that Teams repeats brings the code. [Popup.Redeem] checks it, and
//     the engine spends it in the transaction that completes the attempt.
//
// Names of records are HMACs under the store's own key, so that a reader of the
// store finds neither a state nor a code. Values are sealed with AES-GCM under
// [Config.Keys], each to its own name.
package popup
