package teams_test

import (
	"fmt"

	"github.com/signin-engine/signin-engine/transport/teams"
)

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
