// Package composeext answers the invokes of a message extension and of Adaptive
// Cards whose users have to be signed in (rows M, docs/protocol.md §6). An [Extension] is a
// bot that stands in front of another one:
//
//	ext, err := composeext.New(composeext.Config{
//		Engine: eng, Popup: wiki, Next: bot,
//		OnQuery: func(ctx context.Context, r *composeext.Request, q composeext.Query) (composeext.Response, error) {
//			return composeext.List(…), nil // r.Token is the user's
//		},
//	})
//	handler, err := teams.NewHandler(eng, cfg, ext)
//
// A handler runs once its user is signed in. Before that the answer asks Teams to
// open a popup: one of the bot's own (package popup), or the Token Service's. Teams
// repeats the invoke when the popup has ended, with the code in value.state, and
// the handler gets it as it was.
package composeext
