package teams_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestConnectorRenewsARefusedToken checks that a 401 of the connector makes the
// bot drop its token and send once more. That is safe, since a 401 means that the
// message was not accepted.
func TestConnectorRenewsARefusedToken(t *testing.T) {
	t.Parallel()
	var valid atomic.Value
	var posts, taken atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		posts.Add(1)
		if r.Header.Get("Authorization") != "Bearer "+valid.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		taken.Add(1)
		_, _ = w.Write([]byte(`{"id":"1"}`))
	}))
	t.Cleanup(srv.Close)
	var fetched atomic.Int32
	source := tokensvc.NewTokenCache(func(context.Context) (tokensvc.Secret, time.Time, error) {
		return tokensvc.NewSecret("t" + strconv.Itoa(int(fetched.Add(1)))), time.Now().Add(time.Hour), nil
	}, 0)
	c := newConnector(t, teams.ConnectorConfig{Tokens: source})
	to := seedReference()
	to.ServiceURL = srv.URL
	send := func() error {
		_, err := c.Send(t.Context(), to, machine.Message{Text: "hello"})
		return err
	}
	valid.Store("t1")
	if err := send(); err != nil {
		t.Fatal(err)
	}
	valid.Store("t2")
	if err := send(); err != nil || posts.Load() != 3 || taken.Load() != 2 {
		t.Errorf("%v, %d posts, %d taken", err, posts.Load(), taken.Load())
	}
	valid.Store("none")
	var fail *teams.ConnectorError
	if err := send(); !errors.As(err, &fail) || fail.Status != http.StatusUnauthorized || posts.Load() != 5 {
		t.Errorf("%v, %d posts", err, posts.Load())
	}
	if _, ok := tokensvc.CredentialsFailure(fail); ok {
		t.Error("a refusal of the connector is taken for one of the credentials")
	}
}

// TestConnectorTellsBadCredentials checks that the connector's error wraps what
// Entra said of the bot's credentials.
func TestConnectorTellsBadCredentials(t *testing.T) {
	t.Parallel()
	entra := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"error":"invalid_client"}`))
	}))
	source, err := tokensvc.NewClientCredentials(tokensvc.ClientCredentialsConfig{
		LoginURL: entra, ClientID: "app", ClientSecret: tokensvc.NewSecret("secret"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(source.CloseIdleConnections)
	c := newConnector(t, teams.ConnectorConfig{Tokens: source})
	to := seedReference()
	to.ServiceURL = "http://127.0.0.1:1/"
	_, err = c.Send(t.Context(), to, machine.Message{Text: "hello"})
	if e, ok := tokensvc.CredentialsFailure(err); !ok || e.Status != http.StatusUnauthorized || e.ErrorCode() != "invalid_client" {
		t.Errorf("%v", err)
	}
}
