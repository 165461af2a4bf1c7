// Package emulator is a local stand-in for what a Teams bot talks to when it
// signs a user in: the Bot Framework Token Service, the Entra token endpoint,
// the Bot Connector with the keys of its tokens, and Microsoft Graph's
// /v1.0/me (docs/protocol.md §1–§4). It needs the standard library only, so that any
// bot's tests can use it.
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
// The bot under test is pointed at the server's URL in three places: Token
// Service, login URL, and, by the activities that [Teams] sends, service URL.
//
// It answers like the service does where that is known, and has a switch where
// it is not ([Switches]). The Token Service and the connector demand a bearer
// token, any unless the configuration says otherwise. Faults can be ordered per
// operation, connection and kind of activity ([Fault]), and a delivery is
// duplicated by sending what was sent again ([Teams.Send]). All of it works over
// HTTP too, below /emulator/:
//
//	GET    /emulator/requests[?operation=]   what came in
//	DELETE /emulator/requests                forgets it, and the counts
//	GET    /emulator/counts                  requests by operation
//	GET    /emulator/switches                and PUT to replace them
//	GET    /emulator/faults                  POST adds one, DELETE removes all
//	GET    /emulator/activities?conversation=
//	GET    /emulator/card?conversation=[&after=&wait=5s]
//	POST   /emulator/tokens                  {"userId","connection","channelId"}
//	POST   /emulator/codes                   the same; answers {"code"}
//	POST   /emulator/reset                   everything but the configuration
//
// The page behind a sign-in link shows the code and posts the message
// {type: "signin", state: code} to window.opener, which closes the page when it
// likes; its Cancel button posts the state CancelledByUser.
//
// Nothing here is fit for production: it signs in whoever asks.
package emulator
