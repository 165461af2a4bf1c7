package main

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// trail is a reader of audit lines only. A cursor is the number of lines read.
type trail struct {
	operator.Reader
	lines []operator.EventView
}

func (r *trail) Events(_ context.Context, q operator.EventQuery) (operator.EventPage, error) {
	at, _ := strconv.Atoi(q.Cursor)
	page := operator.EventPage{More: true}
	for ; len(page.Events) < q.Limit && page.More; at++ {
		if page.More = at < len(r.lines); !page.More {
			break
		}
		if e := r.lines[at]; !e.Time.Before(q.Since) {
			page.Events = append(page.Events, e)
		}
	}
	page.NextCursor = strconv.Itoa(at)
	return page, nil
}

// TestTail checks that each line is shown once, even one that is written long
// after the time it records, and that no line is lost when one page does not hold
// them all.
func TestTail(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stdout: &out}
	begin := time.Date(2026, 4, 22, 9, 0, 0, 0, time.UTC)
	line := func(seq int64, after time.Duration) operator.EventView {
		return operator.EventView{
			Attempt: seededDone, Seq: seq, Time: operator.Time{Time: begin.Add(after)}, Kind: store.EventNote, Detail: "a line",
		}
	}
	r := &trail{}
	look := c.tail(r, begin)
	shown := func(want int) {
		t.Helper()
		if err := look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "a line"); got != want {
			t.Errorf("%d lines are shown, want %d", got, want)
		}
	}
	for seq := range int64(2500) {
		r.lines = append(r.lines, line(seq, time.Duration(seq)*time.Millisecond))
	}
	shown(2500)
	shown(2500)
	r.lines = append(r.lines, line(2500, 4*time.Second))
	shown(2501)
	r.lines = append(r.lines, line(2501, -time.Hour))
	shown(2502)
	shown(2502)
}
