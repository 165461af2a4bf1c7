package operator_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// serve serves cfg at e until the test ends. It returns the endpoint that it listens on.
func serve(t *testing.T, e operator.Endpoint, cfg operator.HandlerConfig) operator.Endpoint {
	t.Helper()
	cfg.Clock = morning
	l, err := e.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- operator.Serve(ctx, l, operator.NewHandler(cfg)) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if e.Network == "tcp" {
		e.Address = l.Addr().String()
	}
	return e
}

func client(t *testing.T, e operator.Endpoint, token string) *operator.Client {
	t.Helper()
	c := operator.NewClient(e, tokensvc.NewSecret(token))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func socket(t *testing.T) operator.Endpoint {
	t.Helper()
	return operator.SocketBeside(filepath.Join(t.TempDir(), "signin.db"))
}

// The client returns the same answers as the store, for every query.
func TestClientSaysWhatDirectSays(t *testing.T) {
	d := direct(fixture(t))
	c := client(t, serve(t, socket(t), operator.HandlerConfig{Reader: d}), "")
	for name, ask := range map[string]func(operator.Reader) (any, error){
		"overview": func(r operator.Reader) (any, error) { return r.Overview(t.Context()) },
		"info":     func(r operator.Reader) (any, error) { return r.Info(t.Context()) },
		"list":     func(r operator.Reader) (any, error) { return r.List(t.Context(), operator.Query{Limit: 1}) },
		"get":      func(r operator.Reader) (any, error) { return r.Get(t.Context(), stuckID) },
		"events": func(r operator.Reader) (any, error) {
			return r.Events(t.Context(), operator.EventQuery{Attempt: stuckID})
		},
		"orphans": func(r operator.Reader) (any, error) { return r.Events(t.Context(), operator.EventQuery{Orphans: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			want, err := ask(d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ask(c)
			if err != nil {
				t.Fatal(err)
			}
			// JSON times have milliseconds only.
			near := cmp.Comparer(func(a, b operator.Time) bool { return a.Sub(b.Time).Abs() < time.Millisecond })
			if diff := cmp.Diff(want, got, near); diff != "" {
				t.Errorf("(-direct +client):\n%s", diff)
			}
		})
	}
}

func TestErrorsCrossTheWire(t *testing.T) {
	eng := &engine{}
	d := direct(fixture(t))
	c := client(t, serve(t, socket(t), operator.HandlerConfig{
		Reader: d, Actor: operator.NewDirectActor(d, eng), Ready: eng.Ready,
	}), "")
	if _, err := c.Get(t.Context(), "01ZZ"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown id: %v", err)
	}
	if _, err := c.Get(t.Context(), prefix); !errors.Is(err, operator.ErrAmbiguous) {
		t.Errorf("ambiguous id: %v", err)
	}
	if _, err := c.Snapshot(t.Context(), io.Discard); !errors.Is(err, operator.ErrUnsupported) {
		t.Errorf("snapshot of a store in memory: %v", err)
	}
	op := machine.Operator{Actor: "eve", Reason: "ticket 7"}
	for _, want := range []error{machine.ErrTerminal, machine.ErrLeaseHeld, machine.ErrKeysElsewhere, store.ErrConflict, store.ErrUnavailable} {
		eng.err = want
		if _, err := c.Cancel(t.Context(), stuckID, op); !errors.Is(err, want) {
			t.Errorf("cancel: %v, want %v", err, want)
		}
	}
	if err := c.Ready(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("ready: %v", err)
	}
	// The text of an error that the table does not have is not sent.
	eng.err = errors.New("s3cret detail")
	if _, err := c.Reconcile(t.Context(), stuckID, op); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("internal error: %v", err)
	}
}

func TestActions(t *testing.T) {
	eng := &engine{}
	d := direct(fixture(t))
	c := client(t, serve(t, socket(t), operator.HandlerConfig{Reader: d, Actor: operator.NewDirectActor(d, eng)}), "")
	op := machine.Operator{Actor: "eve", Reason: "ticket 7"}
	v, err := c.Reconcile(t.Context(), stuckID[:26], op)
	if err != nil || v.ID != stuckID {
		t.Errorf("reconcile: %s, %v", v.ID, err)
	}
	n, err := c.Redeliver(t.Context(), doneID, op)
	if err != nil || n != 2 {
		t.Errorf("redeliver: %d, %v", n, err)
	}
	r, err := c.RotateKey(t.Context(), op)
	if err != nil || r.Key != "abcd0000" || !r.From.Equal(time.Unix(1000, 0)) || r.Older != 1 {
		t.Errorf("rotate-key: %+v, %v", r, err)
	}
	want := []string{
		"reconcile " + stuckID + " by eve: ticket 7", "redeliver " + doneID + " by eve: ticket 7", "rotate-key the store by eve: ticket 7",
	}
	if diff := cmp.Diff(want, eng.asked); diff != "" {
		t.Error(diff)
	}
	if _, err = c.Cancel(t.Context(), stuckID, machine.Operator{Actor: "eve"}); !errors.Is(err, operator.ErrBadRequest) {
		t.Errorf("cancel without a reason: %v", err)
	}
	if n, err = c.Purge(t.Context(), time.Second, 100, true); err != nil || n != 1 {
		t.Errorf("purge, dry: %d, %v", n, err)
	}
	if _, err = c.Purge(t.Context(), -time.Second, 100, true); !errors.Is(err, operator.ErrBadRequest) {
		t.Errorf("purge of the future: %v", err)
	}
}

func TestReadOnlyEndpointRefusesActions(t *testing.T) {
	c := client(t, serve(t, socket(t), operator.HandlerConfig{Reader: direct(fixture(t))}), "")
	_, err := c.Cancel(t.Context(), stuckID, machine.Operator{Actor: "eve", Reason: "r"})
	if !errors.Is(err, operator.ErrUnsupported) {
		t.Errorf("cancel: %v", err)
	}
}

func TestBearerToken(t *testing.T) {
	e := serve(t, operator.Endpoint{Network: "tcp", Address: "127.0.0.1:0"}, operator.HandlerConfig{
		Reader: direct(fixture(t)), Token: tokensvc.NewSecret("hunter2"),
	})
	if _, err := client(t, e, "hunter2").Info(t.Context()); err != nil {
		t.Errorf("right token: %v", err)
	}
	for _, token := range []string{"", "hunter", "hunter22"} {
		if _, err := client(t, e, token).Info(t.Context()); !errors.Is(err, operator.ErrUnauthorized) {
			t.Errorf("token %q: %v", token, err)
		}
	}
	if err := client(t, e, "").Ready(t.Context()); err != nil {
		t.Errorf("readiness needs no token: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	_, err := client(t, socket(t), "").Info(t.Context())
	if !errors.Is(err, operator.ErrUnreachable) {
		t.Errorf("no socket: %v", err)
	}
}

// copier is a store whose snapshot may fail in the middle.
type copier struct{ fail error }

func (c copier) Snapshot(_ context.Context, w io.Writer) (int64, error) {
	n, err := io.Copy(w, strings.NewReader(strings.Repeat("x", 1<<20)))
	return n, errors.Join(err, c.fail)
}

func TestSnapshotStreams(t *testing.T) {
	for name, fail := range map[string]error{"whole": nil, "broken off": errors.New("disk gone")} {
		t.Run(name, func(t *testing.T) {
			c := client(t, serve(t, socket(t), operator.HandlerConfig{
				Reader: direct(fixture(t)), Snapshot: copier{fail},
			}), "")
			var out bytes.Buffer
			n, err := c.Snapshot(t.Context(), &out)
			if (err != nil) != (fail != nil) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if err == nil && out.Len() != 1<<20 {
				t.Errorf("%d bytes", out.Len())
			}
		})
	}
}

func TestUnknownRouteAndParameter(t *testing.T) {
	e := serve(t, operator.Endpoint{Network: "tcp", Address: "127.0.0.1:0"}, operator.HandlerConfig{Reader: direct(fixture(t))})
	for path, want := range map[string]int{
		"/attempts?usr=x": http.StatusBadRequest, "/nowhere": http.StatusNotFound, "/attempts/" + stuckID: http.StatusOK,
		"/healthz": http.StatusOK, "/snapshot": http.StatusNotImplemented,
	} {
		if got := status(t, e, path); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

func status(t *testing.T, e operator.Endpoint, path string) int {
	t.Helper()
	tr := &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err = res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

// TestMetricsAreForWhoMayLook checks that the metrics need the read token.
func TestMetricsAreForWhoMayLook(t *testing.T) {
	s, _ := web(t, func(c *operator.HandlerConfig) {
		c.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "signin_outbox_depth 0\n") })
	})
	for token, want := range map[string]int{"": http.StatusUnauthorized, "wrong": http.StatusUnauthorized, readToken: http.StatusOK, actToken: http.StatusOK} {
		res, body := ask(t, http.MethodGet, s.URL+"/metrics", "", http.Header{"Authorization": {"Bearer " + token}})
		if res.StatusCode != want || strings.Contains(body, "signin_") != (want == http.StatusOK) {
			t.Errorf("token %q: %d %s, want %d", token, res.StatusCode, body, want)
		}
	}
	s, _ = web(t, nil)
	if res, _ := ask(t, http.MethodGet, s.URL+"/metrics", "", http.Header{"Authorization": {"Bearer " + readToken}}); res.StatusCode != http.StatusNotFound {
		t.Errorf("without metrics: %d", res.StatusCode)
	}
}
