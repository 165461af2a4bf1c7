// Package extension is a bot with a message extension. Its users sign in to a
// wiki by a popup, and every query runs with the user's token.
package extension

import (
	"context"
	"fmt"
	"net/http"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/composeext"
	"github.com/signin-engine/signin-engine/transport/composeext/popup"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// Config holds what differs between bots.
type Config struct {
	AppID     string
	PublicURL string // the bot's public address, as Teams sees it
	Key       []byte // 32 bytes; seals the users' credentials
	Provider  popup.Provider
	Teams     teams.Config
}

// Bot returns a bot with one message extension. It runs the engine until ctx is
// done.
func Bot(ctx context.Context, st store.Store, tokens *tokensvc.Client, connector *teams.Connector, cfg Config) (http.Handler, error) {
	wiki, err := popup.New(popup.Config{
		AppID: cfg.AppID, Connection: "wiki", PublicURL: cfg.PublicURL, Store: st,
		Keys: [][]byte{cfg.Key}, Provider: cfg.Provider,
	})
	if err != nil {
		return nil, err
	}
	eng, err := machine.New(machine.Config{
		AppID: cfg.AppID, Store: st, Tokens: tokens, Messenger: connector, Log: zerolog.Nop(),
		// The popup takes the Token Service's place on this connection.
		Connections: []machine.Connection{{Name: "wiki", Tokens: wiki}},
	})
	if err != nil {
		return nil, err
	}
	go func() { _ = eng.Run(ctx) }()
	ext, err := composeext.New(composeext.Config{
		Engine: eng, Popup: wiki,
		OnQuery: func(ctx context.Context, r *composeext.Request, q composeext.Query) (composeext.Response, error) {
			// The source renews the token, and stores a refresh token that the
			// provider rotates.
			token, err := wiki.Credentials(ctx, r.Turn).Token()
			if err != nil {
				return composeext.Response{}, err
			}
			return search(ctx, token.AccessToken, r.Token.Properties["name"], q.Param("searchKeyword"))
		},
	})
	if err != nil {
		return nil, err
	}
	messages, err := teams.NewHandler(eng, cfg.Teams, ext)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/api/messages", messages)
	mux.Handle("/auth/", wiki) // the popup's pages
	return mux, nil
}

// search stands in for the wiki's own API.
func search(_ context.Context, accessToken, user, keyword string) (composeext.Response, error) {
	if accessToken == "" {
		return composeext.Response{}, composeext.ErrTokenRefused
	}
	return composeext.List(composeext.Thumbnail(keyword, fmt.Sprintf("found for %s", user))), nil
}
