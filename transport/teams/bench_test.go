package teams_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/transport/teams"
)

func BenchmarkDecodeActivity(b *testing.B) {
	body := recorded(b, "step5_verifystate.json")
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := teams.DecodeActivity(body); err != nil {
			b.Fatal(err)
		}
	}
}

// bareEngine is an engine that costs nothing itself.
type bareEngine struct{ fakeEngine }

func (*bareEngine) HandleInvoke(context.Context, *machine.Activity) (machine.Answer, bool) {
	return machine.Answer{Status: http.StatusOK}, true
}

// discard is a response that forgets what is written.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func BenchmarkHandler(b *testing.B) {
	body := recorded(b, "step5_verifystate.json")
	h := newHandler(b, &bareEngine{}, silent)
	reader := bytes.NewReader(body)
	r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/api/messages", reader)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		h.ServeHTTP(w, r)
	}
}
