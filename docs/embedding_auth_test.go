//go:build inbound

// The parts of docs/embedding.md that need inbound authentication. Once
// transport/teams has it the build tag goes.

package docs_test

import (
	"net/http"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/teams"
)

func endpoint(appID string, eng *machine.Engine, hosts *teams.AllowList, bot teams.Bot, log zerolog.Logger) (http.Handler, error) {
	auth, err := teams.NewAuthenticator(teams.AuthConfig{AppID: appID, ServiceURLs: hosts, Log: log})
	if err != nil {
		return nil, err
	}
	return teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthJWT, Authenticator: auth, ServiceURLs: hosts, Log: log,
	}, bot)
}

func ownEndpoint(eng *machine.Engine, hosts *teams.AllowList, bot teams.Bot, gateway func(http.Handler) http.Handler) (http.Handler, error) {
	return teams.NewHandler(eng, teams.Config{
		InboundAuth: teams.InboundAuthCustom, Authenticate: gateway, ServiceURLs: hosts,
	}, bot)
}

var (
	_ = endpoint
	_ = ownEndpoint
)
