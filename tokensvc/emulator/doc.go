// Package emulator is a local replacement for the services that a Teams bot calls to
// sign a user in: the Bot Framework Token Service, the Entra token endpoint, the Bot
// Connector with the keys of its tokens, and Microsoft Graph's /v1.0/me
// (docs/protocol.md §1–§4). It depends on the standard library and package tokensvc
// only, so that the tests of any bot can use it.
//
// [Server] is an [net/http.Handler]:
//
//	emu := emulator.New(emulator.Config{
//		Connections: []emulator.Connection{{Name: "graph", SSO: true}},
//	})
//	web := httptest.NewServer(emu)
//	emu.SetBaseURL(web.URL)
//	teams := emu.Teams("http://127.0.0.1:3978/api/messages")
//	answer, err := teams.SendMessage(ctx, "login graph")
//
// The bot under test needs the server's URL as its Token Service URL and as its
// login URL. It gets the service URL from the activities that [Teams] sends.
//
// The emulator answers as the live service does. Where that is not known for
// certain, a switch selects the behaviour ([Switches]). The Token Service and the
// connector require a bearer token and accept any, unless the configuration says
// otherwise. Faults can be set for an operation, a connection or a kind of activity
// ([Fault]). To test a duplicated delivery, send the same activity again
// ([Teams.Send]). All of it also works over HTTP, below /emulator/:
//
//	GET    /emulator/requests[?operation=]   the recorded requests
//	DELETE /emulator/requests                forgets records and counts
//	GET    /emulator/counts                  number of requests by operation
//	GET    /emulator/switches                PUT replaces them
//	GET    /emulator/faults                  POST adds one, DELETE removes all
//	GET    /emulator/activities?conversation=
//	GET    /emulator/card?conversation=[&after=&wait=5s]
//	POST   /emulator/tokens                  {"userId","connection","channelId"}; answers {"token"}
//	POST   /emulator/codes                   the same; answers {"code"}
//	POST   /emulator/reset                   resets everything but the configuration
//
// The page behind a sign-in link shows the code and posts the message
// {type: "signin", state: code} to window.opener. Its Cancel button posts the state
// CancelledByUser.
//
// The emulator is for tests only: it signs in every user without a password.
package emulator
