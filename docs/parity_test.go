package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestParity: what docs/parity.md names as proof is there, and no section of the
// design document is left out.
func TestParity(t *testing.T) {
	page, err := os.ReadFile("parity.md")
	if err != nil {
		t.Fatal(err)
	}
	var code strings.Builder
	err = filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		code.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	tests := regexp.MustCompile("`(Test[A-Za-z0-9_]+)`").FindAllStringSubmatch(string(page), -1)
	if len(tests) < 20 {
		t.Errorf("only %d tests are named", len(tests))
	}
	for _, m := range tests {
		if !strings.Contains(code.String(), "func "+m[1]+"(t *testing.T)") {
			t.Errorf("there is no %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("scenario `([^`]+)`").FindAllStringSubmatch(string(page), -1) {
		if _, err := os.Stat("../machine/testdata/scenarios/" + m[1] + ".txt"); err != nil {
			t.Errorf("there is no scenario %s", m[1])
		}
	}
	sections := regexp.MustCompile(`(?m)^\| \d+ \|`).FindAllString(string(page), -1)
	if len(sections) != 18 {
		t.Errorf("%d sections, want 18", len(sections))
	}
}
