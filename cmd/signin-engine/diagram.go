package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/goccy/go-graphviz"
	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// The formats of a diagram; svg is drawn from dot.
const (
	diagramMermaid  = string(machine.Mermaid)
	diagramDOT      = string(machine.Dot)
	diagramMarkdown = string(machine.Markdown)
	diagramSVG      = "svg"
)

func (c *cli) diagramCommand() *cobra.Command {
	var format, attempt string
	cmd := &cobra.Command{
		Use:   "diagram",
		Short: "Print the state machine, or the path of one attempt through it",
		Args:  args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch format {
			case diagramMermaid, diagramDOT, diagramSVG, diagramMarkdown:
			default:
				return usage("diagram: --format %q is none of mermaid, dot, svg, markdown", format)
			}
			if attempt == "" {
				return c.draw(cmd.Context(), operator.Detail{}, format)
			}
			return c.with(cmd, func(ctx context.Context, s *source) error {
				d, err := s.Get(ctx, typedID(attempt))
				if err != nil {
					return err
				}
				return c.draw(ctx, d, format)
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", diagramMermaid, "mermaid, dot, svg or markdown")
	cmd.Flags().StringVar(&attempt, "attempt", "", "mark the path and the state of this attempt (`id` or unique prefix)")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(
		[]string{diagramMermaid, diagramDOT, diagramSVG, diagramMarkdown}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *cli) draw(ctx context.Context, d operator.Detail, format string) error {
	if format != diagramSVG {
		text, err := attemptDiagram(d, machine.DiagramFormat(format))
		if err != nil {
			return err
		}
		return c.printf("%s", text)
	}
	dot, err := attemptDiagram(d, machine.Dot)
	if err != nil {
		return err
	}
	svg, err := renderSVG(ctx, dot)
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(svg)
	return err
}

// attemptDiagram is the machine's diagram with the path of d; the zero Detail
// marks nothing.
func attemptDiagram(d operator.Detail, format machine.DiagramFormat) (string, error) {
	path := make([]store.Event, 0, len(d.Events))
	for _, e := range d.Events {
		path = append(path, store.Event{
			Attempt: e.Attempt, Seq: e.Seq, Time: e.Time.Time, Kind: e.Kind, Row: e.Row, Version: e.Version, From: e.From, To: e.To,
		})
	}
	return machine.Diagram(machine.DiagramOptions{Format: format, Path: path, Current: d.State})
}

// renderSVG draws DOT text.
func renderSVG(ctx context.Context, dot string) (svg []byte, err error) {
	g, err := graphviz.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("start graphviz: %w", err)
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	graph, err := graphviz.ParseBytes([]byte(dot))
	if err != nil {
		return nil, fmt.Errorf("read DOT: %w", err)
	}
	defer func() { err = errors.Join(err, graph.Close()) }()
	var out bytes.Buffer
	if err = g.Render(ctx, graph, graphviz.SVG, &out); err != nil {
		return nil, fmt.Errorf("draw SVG: %w", err)
	}
	return out.Bytes(), nil
}
