// Package docs_test holds what the project says of itself to what it is: links
// and references lead somewhere, the runbook knows every word that the program
// prints, and what deploy/ asks for exists.
package docs_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// root is the repository as the tests of this package see it.
const root = ".."

// files lists the repository's files that end like one of the suffixes, by
// their slash-separated path from the root: what git knows, or everything where
// there is no git.
func files(t *testing.T, suffixes ...string) []string {
	t.Helper()
	var all []string
	out, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-co", "--exclude-standard").Output()
	if err == nil {
		all = strings.Split(strings.TrimSpace(string(out)), "\n")
	} else {
		err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(root, name)
			all = append(all, filepath.ToSlash(rel))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return slices.DeleteFunc(all, func(name string) bool {
		return !slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) }) || !exists(name)
	})
}

func exists(name string) bool {
	_, err := os.Stat(filepath.Join(root, filepath.FromSlash(name)))
	return err == nil
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	codeSpan = regexp.MustCompile("`[^`\n]*`")
	heading  = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
)

// anchors are those that GitHub gives to a page's headings.
func anchors(page string) map[string]bool {
	seen := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		text := link.ReplaceAllString(m[1], "]")
		var b strings.Builder
		for _, r := range strings.ToLower(text) {
			switch {
			case r == ' ':
				b.WriteByte('-')
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				b.WriteRune(r)
			}
		}
		seen[b.String()] = true
	}
	return seen
}

// TestLinks: every relative link of every page leads to a file, and to a
// heading of it where it names one.
func TestLinks(t *testing.T) {
	for _, name := range files(t, ".md") {
		page := read(t, name)
		text := codeSpan.ReplaceAllString(fence.ReplaceAllString(page, ""), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := m[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(target, "#")
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			switch {
			case !exists(to):
				t.Errorf("%s: %s: no such file", name, target)
			case anchor != "" && !anchors(read(t, to))[anchor]:
				t.Errorf("%s: %s: no such heading", name, target)
			}
		}
	}
}

var (
	// reference is how comments name a page: docs/protocol.md §3, rule 6.
	reference = regexp.MustCompile(`(docs/)?([a-z-]+\.md)(?:[\s/*]*§([0-9]+))?`)
	section   = regexp.MustCompile(`(?m)^## ([0-9]+)\. `)
)

// TestComments: a page that a Go comment names is in docs/, is named with its
// directory, and has the section.
func TestComments(t *testing.T) {
	for _, name := range files(t, ".go") {
		if strings.HasPrefix(name, "docs/") {
			continue // these tests speak of pages that must not be there
		}
		for _, m := range reference.FindAllStringSubmatch(comments(read(t, name)), -1) {
			page := "docs/" + m[2]
			switch {
			case !exists(page) && !exists(m[2]):
				t.Errorf("%s: %s: no such page", name, m[0])
			case exists(page) && m[1] == "":
				t.Errorf("%s: %s: say %s", name, m[0], page)
			case m[3] != "" && !slices.ContainsFunc(section.FindAllStringSubmatch(read(t, page), -1),
				func(s []string) bool { return s[1] == m[3] }):
				t.Errorf("%s: %s: no such section", name, m[0])
			}
		}
	}
}

// comments are the comments of Go source, as far as lines tell.
func comments(source string) string {
	var b strings.Builder
	for line := range strings.Lines(source) {
		if i := strings.Index(line, "//"); i >= 0 {
			b.WriteString(line[i+2:])
		}
	}
	return b.String()
}

// TestForeign: nothing refers to pages that the repository does not hold.
func TestForeign(t *testing.T) {
	foreign := regexp.MustCompile(`\b(wire|product|architecture)\.md\b`)
	for _, name := range files(t, ".go", ".md", ".txt", ".txtar", ".json", ".yaml", ".sql", "Makefile") {
		if strings.HasPrefix(name, "docs/") && strings.HasSuffix(name, "_test.go") {
			continue
		}
		for i, line := range strings.Split(read(t, name), "\n") {
			if m := foreign.FindString(line); m != "" {
				t.Errorf("%s:%d: refers to %s", name, i+1, m)
			}
		}
	}
}

// TestSources: every mark of a source is explained in docs/protocol.md §8.
func TestSources(t *testing.T) {
	mark := regexp.MustCompile(`\[S ([0-9]{3}(?:, [0-9]{3})*)[^\]]*\]`)
	listed := regexp.MustCompile(`(?m)^\| \[S ([0-9]{3})\] \|`)
	known := map[string]bool{}
	for _, m := range listed.FindAllStringSubmatch(read(t, "docs/protocol.md"), -1) {
		known[m[1]] = true
	}
	for _, name := range files(t, ".go", ".md") {
		for _, m := range mark.FindAllStringSubmatch(read(t, name), -1) {
			for _, n := range strings.Split(m[1], ", ") {
				if !known[n] {
					t.Errorf("%s: %s: docs/protocol.md §8 does not know %s", name, m[0], n)
				}
			}
		}
	}
}
