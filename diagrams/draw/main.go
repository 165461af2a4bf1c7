// Command draw draws the transition table into a folder: signin.mmd, .dot,
// .svg and .md. A second argument names a page of the documentation; the table
// replaces its part between two marks.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-graphviz"

	"github.com/signin-engine/signin-engine/machine/diagram"
)

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: draw FOLDER [PAGE]")
		os.Exit(2)
	}
	err := draw(context.Background(), os.Args[1])
	if err == nil && len(os.Args) == 3 {
		err = fill(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "draw:", err)
		os.Exit(1)
	}
}

func draw(ctx context.Context, into string) error {
	for ext, format := range map[string]diagram.Format{"mmd": diagram.Mermaid, "dot": diagram.Dot, "md": diagram.Markdown} {
		text, err := diagram.Draw(diagram.Options{Format: format})
		if err != nil {
			return err
		}
		if err := write(into, ext, []byte(text)); err != nil {
			return err
		}
	}
	dot, err := diagram.Draw(diagram.Options{Format: diagram.Dot})
	if err != nil {
		return err
	}
	svg, err := layOut(ctx, dot)
	if err != nil {
		return err
	}
	return write(into, "svg", svg)
}

func write(into, ext string, b []byte) error {
	if err := os.WriteFile(filepath.Join(into, "signin."+ext), b, 0o644); err != nil { //nolint:gosec // a page of the documentation
		return fmt.Errorf("write the drawing: %w", err)
	}
	return nil
}

// The marks between which a page holds the table.
const (
	begin = "<!-- table: begin -->\n"
	end   = "<!-- table: end -->"
)

// fill writes the table into a page.
func fill(page string) error {
	text, err := os.ReadFile(page) //nolint:gosec // the page that was named
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	table, err := diagram.Draw(diagram.Options{Format: diagram.Markdown})
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s: the marks for the table are missing", page)
	}
	if err := os.WriteFile(page, []byte(before+begin+table+end+after), 0o644); err != nil { //nolint:gosec // a page of the documentation
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// layOut turns DOT into SVG.
func layOut(ctx context.Context, dot string) (svg []byte, err error) {
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
