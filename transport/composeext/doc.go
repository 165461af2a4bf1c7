// Package composeext answers the invokes of a message extension and of Adaptive
// Cards whose users have to be signed in (rows M, docs/protocol.md §6). An
// [Extension] is a bot that passes on what it does not answer to another bot:
//
//	ext, err := composeext.New(composeext.Config{
//		Engine: eng, Popup: wiki, Next: bot,
//		OnQuery: func(ctx context.Context, r *composeext.Request, q composeext.Query) (composeext.Response, error) {
//			return composeext.List(…), nil // r.Token is the user's
//		},
//	})
//	handler, err := teams.NewHandler(eng, cfg, ext)
//
// A handler runs only for a user who is signed in. For another user the answer asks
// Teams to open a popup: the bot's own (package popup), or that of the Token
// Service. After the popup Teams repeats the invoke with the code in value.state, and
// the handler gets the invoke as if it were the first.
package composeext
