package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"sync"
	"time"
)

// The event stream only tells a live page that something has changed. The page
// then loads its content again: the stream itself carries no data to draw.

const (
	// livePause is the time between two looks for a change.
	livePause = 2 * time.Second
	// liveSpan bounds one stream, so that dead connections do not pile up. The
	// browser opens the next stream by itself.
	liveSpan = 10 * time.Minute
)

type stopKey struct{}

// stopping is closed when the server wants its streams to end.
func stopping(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(stopKey{}).(<-chan struct{})
	return c
}

// stream serves GET /events to a browser. It sends the event "change" when the
// page has something new to show, and "trouble" when the store cannot be read.
func (h *handler) stream(w http.ResponseWriter, r *http.Request) {
	out := http.NewResponseController(w)
	if err := out.SetReadDeadline(time.Time{}); err != nil {
		h.Log.Debug().Err(err).Msg("stream keeps its read deadline")
	}
	secureHeaders(w.Header())
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	ctx, cancel := context.WithTimeout(r.Context(), liveSpan)
	defer cancel()
	tick := time.NewTicker(livePause)
	defer tick.Stop()
	attempt := r.URL.Query().Get("attempt")
	last := ""
	for {
		now, err := h.fingerprint(ctx, attempt)
		text := ": still here\n\n"
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil: // the end of the trouble is a "change", because now differs
			text, now = "event: trouble\ndata: \n\n", "trouble"
		case now != last && last != "":
			text = "event: change\ndata: \n\n"
		}
		last = now
		if _, err := w.Write([]byte(text)); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-stopping(ctx):
			return
		case <-tick.C:
		}
	}
}

// fingerprint returns a text that changes whenever a page has something new to
// show: the page of one attempt, or, if attempt is empty, any other page.
func (h *handler) fingerprint(ctx context.Context, attempt string) (string, error) {
	if attempt != "" {
		d, err := h.Reader.Get(ctx, attempt)
		if err != nil {
			return "", err
		}
		rules := ""
		for _, f := range d.Findings {
			rules += f.Rule + " "
		}
		return fmt.Sprint(d.Version, d.State, len(d.Events), d.Callback, rules), nil
	}
	return h.pulse.get(func() (string, error) {
		// The answer is shared by all streams, so it does not end with the one whose
		// request asked for it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bodyTimeout)
		defer cancel()
		o, err := h.Reader.Overview(ctx)
		if err != nil {
			return "", err
		}
		o.Now = Time{}
		for i := range o.States {
			o.States[i].Age = 0
		}
		for i := range o.Stuck {
			o.Stuck[i].Age = 0
		}
		page, err := h.Reader.List(ctx, Query{Limit: 1})
		if err != nil {
			return "", err
		}
		sum := fnv.New64a()
		if err := json.NewEncoder(sum).Encode(o); err != nil {
			return "", fmt.Errorf("fingerprint: %w", err)
		}
		for _, v := range page.Attempts {
			_, _ = fmt.Fprint(sum, v.ID, v.Version) // a hash takes everything
		}
		return fmt.Sprint(sum.Sum64()), nil
	})
}

// pulse caches the fingerprint of the whole store for half of livePause, so that
// many streams read it once.
type pulse struct {
	mu   sync.Mutex
	at   time.Time
	last string
}

func (p *pulse) get(look func() (string, error)) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != "" && time.Since(p.at) < livePause/2 {
		return p.last, nil
	}
	now, err := look()
	if err != nil {
		return "", err
	}
	p.last, p.at = now, time.Now()
	return now, nil
}
