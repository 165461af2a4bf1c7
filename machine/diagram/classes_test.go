package diagram_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/diagrams"
	"github.com/signin-engine/signin-engine/machine/diagram"
	"github.com/signin-engine/signin-engine/store"
)

func TestClassesMarkThePath(t *testing.T) {
	path := []store.Event{
		{Kind: store.EventTransition, Row: "A3", To: store.Idle},
		{Kind: store.EventUpstream},
		{Kind: store.EventTransition, Row: "A6", From: store.Idle, To: store.CardSent},
		{Kind: store.EventTransition, Row: "B1", From: store.CardSent, To: store.Exchanging},
		{Kind: store.EventTransition, Row: "A9", From: store.Exchanging, To: store.Exchanging},
	}
	svg := diagram.ClassSVG(diagrams.SVG, diagram.Options{Path: path, Current: store.Exchanging})
	for class, want := range map[string]int{"node current": 1, "node visited": 2, "edge walked": 3, "taken": 3} {
		if n := strings.Count(svg, `class="`+class+`"`); n != want {
			t.Errorf("%d of %s, want %d", n, class, want)
		}
	}
	want := []diagram.Step{
		{To: store.Idle, Row: "A3"},
		{From: store.Idle, To: store.CardSent, Row: "A6"},
		{From: store.CardSent, To: store.Exchanging, Row: "B1"},
	}
	if got := diagram.Steps(path); !slices.Equal(got, want) {
		t.Errorf("steps: %v", got)
	}
}
