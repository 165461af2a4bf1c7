package diagram

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// Step is one edge that an attempt took, with the row that took it.
type Step struct {
	From, To store.State
	Row      string
}

// Steps returns the edges that the attempt of these audit lines took, in the order
// of time. A line that keeps the state is a step only if the table has an edge from
// the state to itself.
func Steps(path []store.Event) []Step {
	var steps []Step
	for i, ev := range path {
		alone := Options{Path: path[i : i+1]}
		for _, e := range table.Arrows() {
			if alone.walked(e) {
				row, _, _ := strings.Cut(ev.Row, "/")
				steps = append(steps, Step{From: ev.From, To: ev.To, Row: row})
			}
		}
	}
	return steps
}

// ClassSVG marks a path and a state as [MarkSVG] does, with classes instead of
// colours: current and visited on states, walked on edges. A page with a strict
// content policy accepts only its own style sheet.
func ClassSVG(svg string, o Options) string {
	var pairs []string
	mark := func(id, kind, class string) {
		id = strings.ReplaceAll(id, "-", "&#45;")
		pairs = append(pairs, fmt.Sprintf(`id="%s" class="%s"`, id, kind), fmt.Sprintf(`id="%s" class="%s %s"`, id, kind, class))
	}
	for _, s := range table.States() {
		switch {
		case s == o.Current:
			mark(nodeID(s), "node", "current")
		case o.visited(s):
			mark(nodeID(s), "node", "visited")
		}
	}
	for _, e := range table.Arrows() {
		if o.walked(e) {
			mark(edgeID(e), "edge", "walked")
		}
	}
	svg = strings.NewReplacer(pairs...).Replace(svg)
	for _, e := range table.Arrows() {
		if rows := o.taken(e); len(rows) > 0 {
			svg = tellRows(svg, strings.ReplaceAll(edgeID(e), "-", "&#45;"), rows)
		}
	}
	return svg
}

// tellRows marks the rows in the label of a walked edge with classes: one for those
// that took it, one for the others.
func tellRows(svg, id string, rows []string) string {
	before, rest, ok := strings.Cut(svg, `id="`+id+`"`)
	if !ok {
		return svg
	}
	label, after, _ := strings.Cut(rest, "</g>")
	var out strings.Builder
	for {
		head, text, found := strings.Cut(label, `font-size="9.00">`)
		out.WriteString(head)
		if !found {
			break
		}
		names, tail, _ := strings.Cut(text, "<")
		out.WriteString(`font-size="9.00">`)
		for i, name := range strings.Fields(names) {
			class := "other"
			if slices.Contains(rows, name) {
				class = "taken"
			}
			if i > 0 {
				out.WriteByte(' ')
			}
			fmt.Fprintf(&out, `<tspan class="%s">%s</tspan>`, class, name)
		}
		label = "<" + tail
	}
	return before + `id="` + id + `"` + out.String() + "</g>" + after
}
