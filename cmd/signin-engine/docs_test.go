package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestDocumentedCommands checks that every command line in README.md and docs/
// names a command of this program and only flags that the command has.
func TestDocumentedCommands(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	deployed, err := filepath.Glob("../../deploy/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(append(pages, deployed...), "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range commandLines(string(text)) {
			found++
			if err := typable(line); err != nil {
				t.Errorf("%s: signin-engine %s: %v", page, strings.Join(line, " "), err)
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d command lines were found", found)
	}
}

// typable returns nil if the program accepts the command, flags and arguments of
// a line.
func typable(line []string) error {
	if len(line) == 0 {
		return nil // the program's name alone
	}
	c := &cli{stdout: io.Discard, stderr: io.Discard}
	root := c.root()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(line...)
	cmd, rest, err := root.Find(line)
	if err != nil {
		return err
	}
	if !cmd.HasParent() && !strings.HasPrefix(line[0], "-") {
		return errors.New("no such command")
	}
	cmd.InitDefaultHelpFlag()
	cmd.InitDefaultVersionFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// TestExamples checks that the help of each command has an example, and that the
// program accepts it.
func TestExamples(t *testing.T) {
	var each func(*cobra.Command)
	each = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			each(sub)
		}
		if !cmd.HasParent() {
			return
		}
		lines := strings.Split(cmd.Example, "\n")
		for _, line := range lines {
			typed, ok := strings.CutPrefix(line, "  signin-engine ")
			if !ok {
				t.Errorf("%s: %q is no example", cmd.CommandPath(), line)
			} else if err := typable(words(typed)); err != nil {
				t.Errorf("%s: %s: %v", cmd.CommandPath(), line, err)
			}
		}
	}
	c := &cli{stdout: io.Discard, stderr: io.Discard}
	each(c.root())
}

var (
	block = regexp.MustCompile("(?ms)^```(?:sh|console)$(.*?)^```$")
	span  = regexp.MustCompile("`(signin-engine [^`]+)`")
	// typed matches the program's name at the beginning of a command line, alone
	// or behind a prefix such as sudo or kubectl exec.
	typed = regexp.MustCompile(`^(?:\$ )?(?:sudo )?(?:kubectl exec \S+ -- )?(?:/|/usr/local/bin/|bin/)?signin-engine( |$)`)
)

// commandLines returns the command lines of a page, without the program's name.
func commandLines(page string) [][]string {
	var lines []string
	for _, m := range block.FindAllStringSubmatch(page, -1) {
		lines = append(lines, strings.Split(strings.ReplaceAll(m[1], "\\\n", " "), "\n")...)
	}
	for _, m := range span.FindAllStringSubmatch(page, -1) {
		lines = append(lines, m[1])
	}
	var all [][]string
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if where := typed.FindStringIndex(line); where != nil {
			all = append(all, words(line[where[1]:]))
		}
	}
	return all
}

// words splits a line as a shell does, as far as the pages need it: it knows
// quotes, and stops at a comment, a pipe or a redirection.
func words(line string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s'"]+`).FindAllString(line, -1) {
		if strings.ContainsAny(m[:1], "#|><;&") {
			break
		}
		all = append(all, strings.Trim(m, `'"`))
	}
	return all
}
