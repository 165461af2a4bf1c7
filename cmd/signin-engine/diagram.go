package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/diagrams"
	"github.com/signin-engine/signin-engine/machine/diagram"
	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// The formats of a diagram; svg is drawn from dot.
const (
	diagramMermaid  = string(diagram.Mermaid)
	diagramDOT      = string(diagram.Dot)
	diagramMarkdown = string(diagram.Markdown)
	diagramSVG      = "svg"
)

func (c *cli) diagramCommand() *cobra.Command {
	var format, attempt string
	cmd := &cobra.Command{
		Use:   "diagram",
		Short: "Print the state machine, or the path of one attempt through it",
		Example: `  signin-engine diagram --format markdown
  signin-engine diagram --attempt 01JSD4K2Q8 --format svg > attempt.svg`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch format {
			case diagramMermaid, diagramDOT, diagramSVG, diagramMarkdown:
			default:
				return usage("diagram: --format %q is not one of mermaid, dot, svg, markdown", format)
			}
			if attempt == "" {
				return c.draw(operator.Detail{}, format)
			}
			return c.with(cmd, func(ctx context.Context, s *source) error {
				d, page, err := s.find(ctx, attempt)
				if err == nil && len(page.Attempts) > 1 {
					err = fmt.Errorf("%w: several attempts have %s: signin-engine inspect lists them", operator.ErrAmbiguous, attempt)
				}
				if err != nil {
					return err
				}
				return c.draw(d, format)
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", diagramMermaid, "mermaid, dot, svg or markdown")
	cmd.Flags().StringVar(&attempt, "attempt", "", "mark the path and the state of this attempt (`id` or unique prefix)")
	_ = cmd.RegisterFlagCompletionFunc("attempt", c.completeAttempt)
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(
		[]string{diagramMermaid, diagramDOT, diagramSVG, diagramMarkdown}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *cli) draw(d operator.Detail, format string) error {
	if format != diagramSVG {
		text, err := attemptDiagram(d, diagram.Format(format))
		if err != nil {
			return err
		}
		return c.printf("%s", text)
	}
	return c.printf("%s", diagram.MarkSVG(diagrams.SVG, attemptPath(d)))
}

// attemptDiagram draws the machine with the path of d marked. The zero Detail
// marks nothing.
func attemptDiagram(d operator.Detail, format diagram.Format) (string, error) {
	o := attemptPath(d)
	o.Format = format
	return diagram.Draw(o)
}

func attemptPath(d operator.Detail) diagram.Options {
	path := make([]store.Event, 0, len(d.Events))
	for _, e := range d.Events {
		path = append(path, store.Event{
			Attempt: e.Attempt, Seq: e.Seq, Time: e.Time.Time, Kind: e.Kind, Row: e.Row, Version: e.Version, From: e.From, To: e.To,
		})
	}
	return diagram.Options{Path: path, Current: d.State}
}
