// Package docs holds the pages that the program itself reads.
package docs

import _ "embed"

// Configuration is configuration.md: every setting with its meaning.
//
//go:embed configuration.md
var Configuration string
