package docs_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/transport/operator"
)

var rewrite = flag.Bool("rewrite", false, "write the generated parts of docs/operations.md anew")

const runbook = "docs/operations.md"

// kinds are the tables of the runbook that are made of what `signin-engine
// explain` knows, by the marks around them.
var kinds = []struct{ mark, kind string }{
	{"client", "failure code"},
	{"service", "service code"},
	{"connector", "connector code"},
	{"oauth", "OAuth code"},
	{"exchange", "exchange code"},
	{"upstream", "upstream code"},
	{"source", "source"},
	{"reason", "reason"},
	{"method", "method"},
	{"state", "state"},
	{"origin", "origin"},
	{"callback", "callback status"},
	{"status", "status"},
	{"line", "timeline line"},
	{"call", "call"},
	{"sso", "SSO outcome"},
	{"card", "card"},
	{"result", "check result"},
}

// elsewhere are kinds of words that have a text of their own.
var elsewhere = []string{
	"stuck rule",      // TestRules
	"row",             // docs/state-machine.md, generated from the table
	"refused request", // TestRefused
	"note",            // with their rows
	"popup reason",    // TestPopupReasons
}

// TestWords: the runbook says of every word what `signin-engine explain` says.
// -rewrite writes it.
func TestWords(t *testing.T) {
	page := read(t, runbook)
	fresh := page
	for _, k := range kinds {
		begin, end := "<!-- "+k.mark+": begin -->\n", "<!-- "+k.mark+": end -->"
		before, rest, ok := strings.Cut(fresh, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Errorf("%s has no marks for %q", runbook, k.mark)
			continue
		}
		fresh = before + begin + table(k.kind) + end + after
	}
	if *rewrite {
		if err := os.WriteFile(filepath.Join(root, runbook), []byte(fresh), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if fresh != page {
		t.Errorf("%s differs from what the program explains: go test ./docs -run TestWords -rewrite", runbook)
	}
	for _, e := range operator.Explanations() {
		known := slices.Contains(elsewhere, e.Kind)
		for _, k := range kinds {
			known = known || k.kind == e.Kind
		}
		if !known {
			t.Errorf("%s has no table for words of kind %q, such as %q", runbook, e.Kind, e.Code)
		}
	}
}

// TestRefused: the table of refused requests has every reason.
func TestRefused(t *testing.T) {
	_, page, _ := strings.Cut(read(t, runbook), "\n## Refused requests\n")
	page, _, _ = strings.Cut(page, "\n## ")
	for _, e := range operator.Explanations() {
		if e.Kind == "refused request" && !strings.Contains(page, "`"+e.Code+"`") {
			t.Errorf("%s does not say why a request is refused with %s", runbook, e.Code)
		}
	}
}

func table(kind string) string {
	var b strings.Builder
	b.WriteString("| Word | Meaning | What to do |\n|---|---|---|\n")
	for _, e := range operator.Explanations() {
		if e.Kind == kind {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", e.Code, cell(e.Meaning), cell(e.Advice))
		}
	}
	return b.String()
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// TestRules: every stuck rule has an entry, with the level that the program
// gives it.
func TestRules(t *testing.T) {
	page := read(t, runbook)
	for _, e := range operator.Explanations() {
		if e.Kind != "stuck rule" {
			continue
		}
		entry := regexp.MustCompile("(?ms)^### `" + e.Code + "`$(.*?)(?:^### |^## |\\z)").FindStringSubmatch(page)
		if entry == nil {
			t.Errorf("%s has no entry for the stuck rule %s", runbook, e.Code)
			continue
		}
		for _, part := range []string{"**Means.**", "**Look at.**", "**Do.**", "signin-engine "} {
			if !strings.Contains(entry[1], part) {
				t.Errorf("%s: the entry for %s lacks %q", runbook, e.Code, part)
			}
		}
	}
}

// TestPopupReasons: docs/protocol.md lists the reasons with which a popup fails, and
// explain knows each of them.
func TestPopupReasons(t *testing.T) {
	_, rest, ok := strings.Cut(read(t, "docs/protocol.md"), "| Reason | |\n|---|---|\n")
	if !ok {
		t.Fatal("docs/protocol.md has no table of reasons")
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	pages, err := os.ReadFile(filepath.Join("..", "transport", "composeext", "popup", "pages.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range regexp.MustCompile(`\n\treason\w+ += "(\w+)"`).FindAllSubmatch(pages, -1) {
		word := string(m[1])
		found++
		if !strings.Contains(table, "| `"+word+"` |") {
			t.Errorf("docs/protocol.md does not list %s", word)
		}
		if _, known := operator.Explain(word); word != "failed" && !known {
			t.Errorf("explain does not know %s", word)
		}
	}
	if found < 9 {
		t.Errorf("%d reasons in pages.go", found)
	}
}
