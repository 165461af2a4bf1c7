package teams_test

import (
	"errors"
	"testing"

	"github.com/signin-engine/signin-engine/transport/teams"
)

func TestAllowListCheck(t *testing.T) {
	t.Parallel()
	own := []string{"connector.example.com", "*.bots.example.net", "pinned.example.com:8443", "10.0.0.7:80", "[fd00::1]", "Dev_Box"}
	tests := []struct {
		url      string
		hosts    []string
		loopback bool
		ok       bool
	}{
		{url: seedServiceURL, ok: true},
		{url: "https://smba.trafficmanager.net", ok: true},
		{url: "https://SMBA.TrafficManager.net:443/x", ok: true},
		{url: "https://webchat.botframework.com/", ok: true},
		{url: "https://europe.webchat.botframework.com/", ok: true},
		{url: "https://a.botframework.us/", ok: true},
		{url: "https://a.botframework.azure.cn/", ok: true},

		{url: "http://smba.trafficmanager.net/amer/"},
		{url: "http://webchat.botframework.com/"},
		{url: "https://botframework.com/"},
		{url: "https://evilbotframework.com/"},
		{url: "https://.botframework.com/"},
		{url: "https://smba.trafficmanager.net.evil.example/"},
		{url: "https://evil.example/smba.trafficmanager.net"},
		{url: "https://smba.trafficmanager.net@evil.example/"},
		{url: "https://evil.example@smba.trafficmanager.net/"},
		{url: `https://smba.trafficmanager.net\@evil.example/`},
		{url: `https://smba.trafficmanager.net/\evil.example/`},
		{url: "https://smba.trafficmanager.net/?x=1"},
		{url: "https://smba.trafficmanager.net/#"},
		{url: "ftp://smba.trafficmanager.net/"},
		{url: "//smba.trafficmanager.net/"},
		{url: "smba.trafficmanager.net"},
		{url: "https:///v3"},
		{url: ""},
		{url: "https://trafficmanager.net/"},

		{url: "https://connector.example.com/x", hosts: own, ok: true},
		{url: "http://connector.example.com:3979/x", hosts: own, ok: true},
		{url: "http://a.bots.example.net/", hosts: own, ok: true},
		{url: "http://a.b.bots.example.net/", hosts: own, ok: true},
		{url: "http://bots.example.net/", hosts: own},
		{url: "https://pinned.example.com:8443/", hosts: own, ok: true},
		{url: "https://pinned.example.com/", hosts: own},
		{url: "http://10.0.0.7/", hosts: own, ok: true},
		{url: "https://10.0.0.7/", hosts: own},
		{url: "http://[FD00:0::1]:99/", hosts: own, ok: true},
		{url: "http://dev_box/", hosts: own, ok: true},
		{url: "http://smba.trafficmanager.net/", hosts: own},
		{url: "http://smba.trafficmanager.net/", hosts: []string{"smba.trafficmanager.net"}, ok: true},

		{url: "http://127.0.0.1:3979/"},
		{url: "http://127.0.0.1:3979/", loopback: true, ok: true},
		{url: "http://127.8.8.8/", loopback: true, ok: true},
		{url: "https://localhost/", loopback: true, ok: true},
		{url: "http://[::1]:1/", loopback: true, ok: true},
		{url: "http://127.0.0.1.evil.example/", loopback: true},
		{url: "http://localhost.evil.example/", loopback: true},
		{url: "http://10.0.0.7/", loopback: true},
	}
	for _, tt := range tests {
		t.Run(tt.url, func(t *testing.T) {
			t.Parallel()
			list, err := teams.NewAllowList(tt.hosts, tt.loopback)
			if err != nil {
				t.Fatal(err)
			}
			err = list.Check(tt.url)
			if tt.ok && err != nil {
				t.Errorf("refused: %v", err)
			}
			if !tt.ok && !errors.Is(err, teams.ErrServiceURL) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestNewAllowListRefuses(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{
		"*", "*:443", "*.", "**.example.com", "*example.com", "a.*.example.com", "example.*", "", " ", ".", "example.com.",
		"https://example.com", "example.com/x", "user@example.com", "example.com:", "example.com:*", "example.com:0",
		"example.com:65536", "[::1", "::1]:80", "ex ample.com", "bücher.example", ".example.com",
	} {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel()
			if _, err := teams.NewAllowList([]string{pattern}, false); err == nil {
				t.Error("accepted")
			}
		})
	}
}
