// Package diagram draws the transition table. The pictures are generated from the
// engine's rules and the edges of its fsm, so they cannot differ from them.
package diagram

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/signin-engine/signin-engine/machine/internal/table"
	"github.com/signin-engine/signin-engine/store"
)

// Format is an output format of [Draw]. SVG is made from DOT by the command line,
// which has a layout engine.
type Format string

// The formats.
const (
	Mermaid  Format = "mermaid"
	Dot      Format = "dot"
	Markdown Format = "markdown"
)

// Options says what to draw.
type Options struct {
	Format Format
	// Path marks the path of one attempt. It has its audit lines, in order.
	Path []store.Event
	// Current is the state that the attempt is in.
	Current store.State
}

// Draw draws the table.
func Draw(o Options) (string, error) {
	switch o.Format {
	case Mermaid, "":
		return mermaid(o), nil
	case Dot:
		return dot(o), nil
	case Markdown:
		return markdown(o), nil
	default:
		return "", fmt.Errorf("diagram: unknown format %q: one of mermaid, dot, markdown", o.Format)
	}
}

// Row describes a row of the table, with the notes that it leaves in the audit trail.
type Row struct {
	Name, When, Then string
	Notes            []string
}

// Rows returns all rows in the table's order.
func Rows() []Row {
	all := table.Rows()
	out := make([]Row, len(all))
	for i, r := range all {
		out[i] = Row{r.Name, r.When, r.Then, notes()[r.Name]}
	}
	return out
}

// notes returns the notes of each row, in the table's order.
var notes = sync.OnceValue(func() map[string][]string {
	all := map[string][]string{}
	for _, b := range table.Blocks() {
		for _, r := range b.Rules {
			row, _, _ := strings.Cut(r.Row, "/")
			if r.Note != "" && !slices.Contains(all[row], r.Note) {
				all[row] = append(all[row], r.Note)
			}
		}
	}
	return all
})

// taken returns, for each edge, the rows by which the attempt took it, in the order
// of time.
func (o Options) taken(e table.Arrow) []string {
	var rows []string
	for _, ev := range o.Path {
		row, _, _ := strings.Cut(ev.Row, "/")
		if ev.Kind != store.EventTransition || ev.From != e.From || ev.To != e.To || slices.Contains(rows, row) {
			continue
		}
		if e.From != e.To || slices.Contains(e.Rows, row) { // else it changed in place
			rows = append(rows, row)
		}
	}
	return rows
}

func (o Options) walked(e table.Arrow) bool { return len(o.taken(e)) > 0 }

// label returns the rows of an edge: those by which the attempt took it, else all
// of them.
func (o Options) label(e table.Arrow) []string {
	if rows := o.taken(e); len(rows) > 0 {
		return rows
	}
	return e.Rows
}

func mermaid(o Options) string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    direction LR\n")
	for _, e := range table.Arrows() {
		from := string(e.From)
		if e.From == store.None {
			from = "[*]"
		}
		mark := ""
		if o.walked(e) {
			mark = "✓ "
		}
		fmt.Fprintf(&b, "    %s --> %s: %s%s\n", from, e.To, mark, strings.Join(o.label(e), " "))
	}
	b.WriteString("    Complete --> [*]\n    Failed --> [*]\n")
	if len(o.Path) > 0 || o.Current != store.None {
		b.WriteString("    classDef walked fill:#dbeafe,stroke:#1d4ed8,color:#111827\n")
		b.WriteString("    classDef current fill:#1d4ed8,stroke:#1e3a8a,color:#ffffff,font-weight:bold\n")
		for _, s := range table.States() {
			switch {
			case s == o.Current:
				fmt.Fprintf(&b, "    class %s current\n", s)
			case o.visited(s):
				fmt.Fprintf(&b, "    class %s walked\n", s)
			}
		}
	}
	return b.String()
}

func (o Options) visited(s store.State) bool {
	return slices.ContainsFunc(o.Path, func(ev store.Event) bool {
		return ev.Kind == store.EventTransition && (ev.From == s || ev.To == s)
	})
}

func dot(o Options) string {
	var b strings.Builder
	b.WriteString("digraph signin {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fillcolor=\"#f8fafc\", fontname=\"Helvetica\"];\n  edge [fontname=\"Helvetica\", fontsize=9];\n")
	b.WriteString("  new [shape=point, width=0.15, label=\"\"];\n")
	for _, s := range table.States() {
		attrs := []string{fmt.Sprintf("id=%q", nodeID(s))}
		if s.Terminal() {
			attrs = append(attrs, "peripheries=2")
		}
		switch {
		case s == o.Current:
			attrs = append(attrs, `fillcolor="#1d4ed8"`, `fontcolor="#ffffff"`)
		case o.visited(s):
			attrs = append(attrs, `fillcolor="#dbeafe"`)
		}
		fmt.Fprintf(&b, "  %s [%s];\n", s, strings.Join(attrs, ", "))
	}
	for _, e := range table.Arrows() {
		from := string(e.From)
		if e.From == store.None {
			from = "new"
		}
		extra := ""
		if o.walked(e) {
			extra = `, color="#1d4ed8", penwidth=2.5`
		}
		fmt.Fprintf(&b, "  %s -> %s [id=%q, label=\"%s\"%s];\n", from, e.To, edgeID(e), wrapRows(o.label(e)), extra)
	}
	b.WriteString("}\n")
	return b.String()
}

func nodeID(s store.State) string { return "state-" + string(s) }
func edgeID(e table.Arrow) string { return "edge-" + string(e.From) + "-" + string(e.To) }

// MarkSVG marks a path and a state in the drawing of the Dot diagram
// (diagrams/signin.svg). Everything else stays unchanged.
func MarkSVG(svg string, o Options) string {
	var style strings.Builder
	for _, s := range table.States() {
		switch {
		case s == o.Current:
			fmt.Fprintf(&style, "#%s path{fill:#1d4ed8} #%s text{fill:#ffffff;font-weight:bold} ", nodeID(s), nodeID(s))
		case o.visited(s):
			fmt.Fprintf(&style, "#%s path{fill:#dbeafe} ", nodeID(s))
		}
	}
	for _, e := range table.Arrows() {
		if o.walked(e) {
			fmt.Fprintf(&style, "#%s path{stroke:#1d4ed8;stroke-width:2.5} #%s polygon{stroke:#1d4ed8;fill:#1d4ed8} #%s text{fill:#1d4ed8;font-weight:bold} ", edgeID(e), edgeID(e), edgeID(e))
		}
	}
	at := strings.Index(svg, "<svg")
	if style.Len() == 0 || at < 0 {
		return svg
	}
	at += strings.IndexByte(svg[at:], '>') + 1
	return svg[:at] + "\n<style>" + strings.TrimSpace(style.String()) + "</style>" + svg[at:]
}

// wrapRows breaks a long label, so that the drawing stays narrow.
func wrapRows(rows []string) string {
	const perLine = 4
	var lines []string
	for chunk := range slices.Chunk(rows, perLine) {
		lines = append(lines, strings.Join(chunk, " "))
	}
	return strings.Join(lines, `\n`)
}

func markdown(o Options) string {
	var b strings.Builder
	b.WriteString("| From | To | Rows |\n|---|---|---|\n")
	for _, e := range table.Arrows() {
		from := string(e.From)
		if e.From == store.None {
			from = "(new)"
		}
		to := string(e.To)
		if o.walked(e) {
			from, to = "**"+from+"**", "**"+to+"**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", from, to, strings.Join(o.label(e), " "))
	}
	if o.Current != store.None {
		fmt.Fprintf(&b, "\nCurrent state: **%s**\n", o.Current)
	}
	b.WriteString("\n| Row | When | What the engine does |\n|---|---|---|\n")
	for _, r := range table.Rows() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", r.Name, r.When, r.Then)
	}
	b.WriteString("\nThe rules that carry this out, in the order in which they are tried. A rule is for these events, in these states, if all of these guards hold.\n")
	b.WriteString("\n| Row | Event | In | If | Then the attempt | Then | Callback | Reply |\n|---|---|---|---|---|---|---|---|\n")
	for _, block := range table.Blocks() {
		for i := range block.Rules {
			r := &block.Rules[i]
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.Row, words(block.On), stateWords(block.In), words(r.If),
				becomes(r), dash(string(r.Then)), dash(string(r.Tell)), dash(string(r.Reply)))
		}
	}
	return b.String()
}

// becomes says what a rule does to the attempt.
func becomes(r *table.Rule) string {
	said := "stays"
	switch {
	case r.Edge != "":
		said = string(r.Edge)
	case len(r.Do) > 0:
		said = "changes in place"
	}
	switch r.Open {
	case table.OpensFresh:
		said = "new attempt: open"
	case table.OpensInstead:
		said = "new attempt instead of this one: open"
	case table.OpensLinked:
		said = "new attempt linked to this one: open"
	case table.OpensNone:
		return said
	}
	if r.Edge != "" {
		said += ", " + string(r.Edge)
	}
	return said
}

func words[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = string(w)
	}
	return dash(strings.Join(out, ", "))
}

func stateWords(list []store.State) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
		if s == table.None {
			out[i] = "(none)"
		}
	}
	return strings.Join(out, ", ")
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
