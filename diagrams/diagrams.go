// Package diagrams holds the drawings of the transition table. They are
// generated (make generate) and never edited.
package diagrams

import _ "embed"

// SVG is the whole machine; diagram.MarkSVG marks the path of an attempt in it.
//
//go:embed signin.svg
var SVG string
