package teams_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/transport/teams"
)

func TestCheckListener(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{
		"127.0.0.1:3978": true, "127.0.0.2:0": true, "localhost:3978": true, "LocalHost:1": true, "[::1]:3978": true,
		":3978": false, "0.0.0.0:3978": false, "[::]:3978": false, "192.0.2.1:80": false, "example.com:80": false,
		"127.0.0.1": false, "localhost": false, "": false, "localhost.example.com:80": false,
	} {
		if err := teams.CheckListener(addr); (err == nil) != ok {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestNewServer(t *testing.T) {
	t.Parallel()
	srv := teams.NewServer("127.0.0.1:0", http.NotFoundHandler())
	if srv.Addr != "127.0.0.1:0" || srv.Handler == nil || srv.ReadHeaderTimeout != 10*time.Second || srv.ReadTimeout != 30*time.Second {
		t.Errorf("%+v", srv)
	}
}
