package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"github.com/signin-engine/signin-engine/store"
)

// The words of -o.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatJSONL = "jsonl"
	formatCSV   = "csv"
)

// formatFlag adds -o with the formats that the command has; the first is the
// default.
func (c *cli) formatFlag(cmd *cobra.Command, formats ...string) {
	format := cmd.Flags().StringP("output", "o", formats[0], strings.Join(formats, ", "))
	next := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if !slices.Contains(formats, *format) {
			return usage("%s: -o %q is none of %s", cmd.Name(), *format, strings.Join(formats, ", "))
		}
		c.format = *format
		return next(cmd, given)
	}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
}

// idsFlag adds --show-ids.
func (c *cli) idsFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.showIDs, "show-ids", false, "ids in full, also on a terminal")
}

func (c *cli) printf(format string, a ...any) error {
	_, err := fmt.Fprintf(c.stdout, format, a...)
	return err
}

func (c *cli) printJSON(v any) error {
	e := json.NewEncoder(c.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (c *cli) printJSONLine(v any) error { return json.NewEncoder(c.stdout).Encode(v) }

// grid is a table without borders: columns that are empty throughout are left
// out.
type grid struct {
	head []string
	rows [][]string
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

func (c *cli) printGrid(g *grid) error {
	w := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Format.Header = text.FormatUpper
	style.Box.PaddingLeft = ""
	style.Box.PaddingRight = "  "
	if c.color() {
		style.Color.Header = text.Colors{text.Bold}
	}
	w.SetStyle(style)
	w.SuppressTrailingSpaces()
	keep := func(cells []string) table.Row {
		var row table.Row
		for i, cell := range cells {
			if slices.ContainsFunc(g.rows, func(r []string) bool { return r[i] != "" }) {
				row = append(row, cell)
			}
		}
		return row
	}
	w.AppendHeader(keep(g.head))
	for _, r := range g.rows {
		w.AppendRow(keep(r))
	}
	return c.printf("%s\n", w.Render())
}

// printCSV prints the head, if there is one, and the rows.
func (c *cli) printCSV(g *grid) error {
	w := csv.NewWriter(c.stdout)
	if g.head != nil {
		if err := w.Write(g.head); err != nil {
			return err
		}
	}
	for _, r := range g.rows {
		for i, cell := range r {
			r[i] = inert(cell)
		}
		if err := w.Write(r); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// inert keeps a spreadsheet from running a cell as a formula.
func inert(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}

const (
	shortAttempt = 16 // of 26: the time to the millisecond and 30 random bits
	shortID      = 12
)

// attemptID shortens an attempt's id on a terminal to a prefix that can be
// typed back.
func (c *cli) attemptID(id string) string {
	if c.showIDs || !terminal(c.stdout) || len(id) <= shortAttempt {
		return id
	}
	return id[:shortAttempt]
}

// id shortens any other id on a terminal.
func (c *cli) id(id string) string {
	if r := []rune(id); !c.showIDs && terminal(c.stdout) && len(r) > shortID+1 {
		return string(r[:shortID]) + "…"
	}
	return id
}

// time is local on a terminal and RFC 3339 in UTC elsewhere.
func (c *cli) time(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case terminal(c.stdout):
		return t.In(c.home).Format("2006-01-02 15:04:05")
	default:
		return t.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
}

// age is a duration for people: two units at most.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "-" + age(-d)
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < day:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	}
}

// stateColor tells states apart at a glance; the words stay.
func (c *cli) stateColor(s store.State) string {
	if !c.color() {
		return string(s)
	}
	switch s {
	case store.Complete:
		return text.FgGreen.Sprint(s)
	case store.Failed:
		return text.FgRed.Sprint(s)
	case store.Exchanging, store.Verifying:
		return text.FgYellow.Sprint(s)
	case store.Idle, store.CardSent:
		return text.FgCyan.Sprint(s)
	case store.None:
	}
	return string(s)
}

// levelColor marks an error or a warning.
func (c *cli) levelColor(level, word string) string {
	switch {
	case !c.color():
		return word
	case level == "error" || level == "fail":
		return text.FgRed.Sprint(word)
	case level == "warn":
		return text.FgYellow.Sprint(word)
	default:
		return text.FgGreen.Sprint(word)
	}
}
