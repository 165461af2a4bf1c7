package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// TestHelpFitsTheScreen reads the help of every command on a screen of 80 columns.
func TestHelpFitsTheScreen(t *testing.T) {
	var out strings.Builder
	c := &cli{stdout: &out, stderr: &out, environ: []string{"COLUMNS=80"}}
	root := c.root()
	root.InitDefaultHelpCmd()
	var read func(cmd *cobra.Command)
	read = func(cmd *cobra.Command) {
		out.Reset()
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > 80 {
				t.Errorf("%s: wider than 80 columns: %s", cmd.CommandPath(), line)
			}
		}
		for _, below := range cmd.Commands() {
			read(below)
		}
	}
	read(root)
}
