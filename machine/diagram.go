package machine

import (
	"fmt"
	"slices"
	"strings"

	"github.com/signin-engine/signin-engine/store"
)

// DiagramFormat is a form that [Diagram] can draw. SVG is made from DOT by the
// command line, which has a layout engine.
type DiagramFormat string

// The formats.
const (
	Mermaid  DiagramFormat = "mermaid"
	Dot      DiagramFormat = "dot"
	Markdown DiagramFormat = "markdown"
)

// DiagramOptions says what to draw.
type DiagramOptions struct {
	Format DiagramFormat
	// Path marks the way of one attempt: its audit lines, in order.
	Path []store.Event
	// Current is the state that the attempt is in.
	Current store.State
}

// Diagram draws the table. The picture is derived from the same rules that the
// engine runs on, so it cannot be wrong alone.
func Diagram(o DiagramOptions) (string, error) {
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

// walked reports whether the attempt has taken the edge.
func (o DiagramOptions) walked(e Edge) bool {
	return slices.ContainsFunc(o.Path, func(ev store.Event) bool {
		return ev.Kind == store.EventTransition && ev.From == e.From && ev.To == e.To && (e.From != e.To || slices.Contains(e.Rows, ev.Row))
	})
}

// label are the rows of an edge, in the order of the table, shortened.
func label(e Edge) string { return strings.Join(e.Rows, " ") }

func mermaid(o DiagramOptions) string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    direction LR\n")
	for _, e := range Edges() {
		from := string(e.From)
		if e.From == store.None {
			from = "[*]"
		}
		mark := ""
		if o.walked(e) {
			mark = "✓ "
		}
		fmt.Fprintf(&b, "    %s --> %s: %s%s\n", from, e.To, mark, label(e))
	}
	b.WriteString("    Complete --> [*]\n    Failed --> [*]\n")
	if len(o.Path) > 0 || o.Current != store.None {
		b.WriteString("    classDef walked fill:#dbeafe,stroke:#1d4ed8,color:#111827\n")
		b.WriteString("    classDef current fill:#1d4ed8,stroke:#1e3a8a,color:#ffffff,font-weight:bold\n")
		for _, s := range States() {
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

func (o DiagramOptions) visited(s store.State) bool {
	return slices.ContainsFunc(o.Path, func(ev store.Event) bool {
		return ev.Kind == store.EventTransition && (ev.From == s || ev.To == s)
	})
}

func dot(o DiagramOptions) string {
	var b strings.Builder
	b.WriteString("digraph signin {\n  rankdir=LR;\n  node [shape=box, style=\"rounded,filled\", fillcolor=\"#f8fafc\", fontname=\"Helvetica\"];\n  edge [fontname=\"Helvetica\", fontsize=9];\n")
	b.WriteString("  new [shape=point, width=0.15, label=\"\"];\n")
	for _, s := range States() {
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
	for _, e := range Edges() {
		from := string(e.From)
		if e.From == store.None {
			from = "new"
		}
		extra := ""
		if o.walked(e) {
			extra = `, color="#1d4ed8", penwidth=2.5`
		}
		fmt.Fprintf(&b, "  %s -> %s [id=%q, label=\"%s\"%s];\n", from, e.To, edgeID(e), wrapRows(e.Rows), extra)
	}
	b.WriteString("}\n")
	return b.String()
}

func nodeID(s store.State) string { return "state-" + string(s) }
func edgeID(e Edge) string        { return "edge-" + string(e.From) + "-" + string(e.To) }

// MarkSVG marks a path and a state in the drawing that was made of the Dot
// diagram (diagrams/signin.svg): what is not marked stays as it was drawn.
func MarkSVG(svg string, o DiagramOptions) string {
	var style strings.Builder
	for _, s := range States() {
		switch {
		case s == o.Current:
			fmt.Fprintf(&style, "#%s path{fill:#1d4ed8} #%s text{fill:#ffffff;font-weight:bold} ", nodeID(s), nodeID(s))
		case o.visited(s):
			fmt.Fprintf(&style, "#%s path{fill:#dbeafe} ", nodeID(s))
		}
	}
	for _, e := range Edges() {
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

func markdown(o DiagramOptions) string {
	var b strings.Builder
	b.WriteString("| From | To | Rows |\n|---|---|---|\n")
	for _, e := range Edges() {
		from := string(e.From)
		if e.From == store.None {
			from = "(new)"
		}
		to := string(e.To)
		if o.walked(e) {
			from, to = "**"+from+"**", "**"+to+"**"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", from, to, label(e))
	}
	if o.Current != store.None {
		fmt.Fprintf(&b, "\nCurrent state: **%s**\n", o.Current)
	}
	b.WriteString("\n| Row | Event | From | Guards | To | Callback | Reply |\n|---|---|---|---|---|---|---|\n")
	for _, r := range Table() {
		to := string(r.To)
		if to == "" {
			to = "same"
		}
		if r.Open != OpensNone {
			to = "new attempt (" + string(r.Open) + "): " + to
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", r.Row, words(r.On), stateWords(r.From), words(r.If), to, dash(string(r.Call)), dash(string(r.Reply)))
	}
	return b.String()
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
		out[i] = fsmState(s)
	}
	return strings.Join(out, ", ")
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
