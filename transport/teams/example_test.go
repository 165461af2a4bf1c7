package teams_test

import (
	"fmt"
	"net/http"

	"github.com/rs/zerolog"

	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// The connector's tokens can be checked in front of any handler.
func ExampleAuthenticator_Middleware() {
	cloud, _ := tokensvc.CloudNamed(tokensvc.CloudGCCHigh)
	auth, err := teams.NewAuthenticator(teams.AuthConfig{
		AppID: "00000000-0000-0000-0000-000000000000", Cloud: cloud, Log: zerolog.Nop(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	messages := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := teams.CallerOf(r.Context())
		_, _ = fmt.Fprintln(w, "an activity of", caller.Channel) // its body is there to be read
	})
	mux := http.NewServeMux()
	mux.Handle("POST /api/messages", auth.Middleware(messages))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if auth.Ready(r.Context()) != nil { // no signing keys yet
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
}

func ExampleNewAllowList() {
	list, err := teams.NewAllowList([]string{"*.bots.example.net", "connector:3979"}, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, serviceURL := range []string{
		"https://smba.trafficmanager.net/amer/",
		"http://smba.trafficmanager.net/amer/",
		"http://connector:3979/",
		"https://evil.example/",
	} {
		fmt.Println(list.Check(serviceURL))
	}
	_, err = teams.NewAllowList([]string{"*"}, false)
	fmt.Println(err)
	// Output:
	// <nil>
	// teams: service URL is not allowed: host "smba.trafficmanager.net" needs https
	// <nil>
	// teams: service URL is not allowed: host "evil.example" is not listed
	// teams: service host "*": * must be the leftmost label of a longer name
}
