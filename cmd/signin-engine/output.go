package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// The values of -o.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
	formatJSONL = "jsonl"
	formatCSV   = "csv"
)

// formatFlag adds -o with the formats that the command supports. The first is the
// default.
func (c *cli) formatFlag(cmd *cobra.Command, formats ...string) {
	format := cmd.Flags().StringP("output", "o", formats[0], strings.Join(formats, ", "))
	next := cmd.Args
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if !slices.Contains(formats, *format) {
			return usage("%s: -o %q is not one of %s", cmd.Name(), *format, strings.Join(formats, ", "))
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

// grid is a table without borders. Columns that are empty in every row are left
// out. On a narrow screen the widest columns are shortened. If that is not
// enough, columns are left out, the spare ones first.
type grid struct {
	head  []string
	rows  [][]string
	whole []string // heads of columns that are not shortened below enough
	spare []string // heads of columns that are left out first
	prose bool     // the last column is prose and is wrapped
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
	place := c.width()
	if c.showIDs {
		place = 0 // whoever asks for full ids wants to copy them
	}
	columns := g.fit(place)
	cut := func(cells []string) table.Row {
		row := make(table.Row, len(columns))
		for n, col := range columns {
			switch cell := cells[col.of]; {
			case text.StringWidthWithoutEscSequences(cell) <= col.width:
				row[n] = cell
			case g.prose && col.of == len(g.head)-1:
				row[n] = text.WrapSoft(cell, col.width)
			default:
				row[n] = text.Snip(cell, col.width, "…")
			}
		}
		return row
	}
	w.AppendHeader(cut(g.head))
	for _, r := range g.rows {
		w.AppendRow(cut(r))
	}
	return c.printf("%s\n", w.Render())
}

// printCSV prints the head, unless it is nil, and the rows.
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
			if terminal(c.stdout) {
				r[i] = safe(r[i])
			}
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

// column is a column of a grid with the width at which it is shown.
type column struct{ of, width int }

const (
	gap    = 2 // between two columns
	narrow = 8 // no column is shortened below this
	enough = 40
)

// fit chooses columns and widths that fit into place characters; 0 means any
// width.
func (g *grid) fit(place int) []column {
	var columns []column
	for i, head := range g.head {
		width := 0
		for _, r := range g.rows {
			width = max(width, text.StringWidthWithoutEscSequences(r[i]))
		}
		if width > 0 {
			columns = append(columns, column{i, max(width, len(head))})
		}
	}
	if place == 0 {
		return columns
	}
	for len(columns) > 1 && total(columns, g.least) > place {
		columns = g.drop(columns)
	}
	for total(columns, column.wanted) > place && g.shorten(columns) {
	}
	return columns
}

func (col column) wanted() int { return col.width }

// least is the smallest width to which a column can be shortened.
func (g *grid) least(col column) int {
	if slices.Contains(g.whole, g.head[col.of]) {
		return min(col.width, enough)
	}
	return min(col.width, narrow)
}

func total(columns []column, width func(column) int) int {
	sum := gap * (len(columns) - 1)
	for _, col := range columns {
		sum += width(col)
	}
	return sum
}

// shorten takes one character from the widest column that can be shortened. It
// reports whether there was one.
func (g *grid) shorten(columns []column) bool {
	widest := -1
	for n, col := range columns {
		if col.width > g.least(col) && (widest < 0 || col.width >= columns[widest].width) {
			widest = n
		}
	}
	if widest >= 0 {
		columns[widest].width--
	}
	return widest >= 0
}

func (g *grid) drop(columns []column) []column {
	for _, head := range g.spare {
		if n := slices.IndexFunc(columns, func(col column) bool { return g.head[col.of] == head }); n >= 0 {
			return slices.Delete(columns, n, n+1)
		}
	}
	return columns[:len(columns)-1]
}

// width is the width of the screen, 0 if there is none.
func (c *cli) width() int {
	width, _ := c.size()
	return width
}

// screen reports whether the output goes to a terminal, or COLUMNS says how wide
// it is.
func (c *cli) screen() bool { return c.width() > 0 }

var padded = regexp.MustCompile(`(?m) +$`)

// wrapped wraps each line of prose at the width of the screen, and indents what
// follows like the line's beginning.
func (c *cli) wrapped(prose string) string {
	if !c.screen() {
		return prose
	}
	lines := strings.Split(prose, "\n")
	for i, line := range lines {
		indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
		if width := c.width() - len(indent); width > narrow && text.StringWidthWithoutEscSequences(line) > c.width() {
			lines[i] = indent + strings.ReplaceAll(text.WrapSoft(line[len(indent):], width), "\n", "\n"+indent)
			lines[i] = padded.ReplaceAllString(lines[i], "")
		}
	}
	return strings.Join(lines, "\n")
}

// snip shortens a line to a width if the output is for a screen.
func (c *cli) snip(line string, width int) string {
	if c.showIDs || width <= narrow || text.StringWidthWithoutEscSequences(line) <= width {
		return line
	}
	return text.Snip(line, width, "…")
}

// size is the width and height of the terminal; COLUMNS and LINES take
// precedence. Both are 0 if there is no terminal.
func (c *cli) size() (width, height int) {
	if f, ok := c.stdout.(*os.File); ok && terminal(f) {
		width = 80
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			width, height = w, h
		}
	}
	if n, err := strconv.Atoi(c.lookup("COLUMNS")); err == nil && n > 0 {
		width = n
	}
	if n, err := strconv.Atoi(c.lookup("LINES")); err == nil && n > 0 {
		height = n
	}
	return width, height
}

const (
	shortAttempt = 16 // of 26: the time to the millisecond and 30 random bits
	shortID      = 12
)

// attemptID shortens an attempt's id on a terminal to a prefix, which commands
// accept in place of the id.
func (c *cli) attemptID(id string) string {
	if c.showIDs || !c.screen() || len(id) <= shortAttempt {
		return id
	}
	return id[:shortAttempt]
}

// id shortens any other id on a terminal.
func (c *cli) id(id string) string {
	if r := []rune(id); !c.showIDs && c.screen() && len(r) > shortID+1 {
		return string(r[:shortID]) + "…"
	}
	return id
}

// time formats a time: local on a terminal, RFC 3339 in UTC elsewhere.
func (c *cli) time(t time.Time) string {
	switch {
	case t.IsZero():
		return ""
	case c.screen():
		return t.In(c.home).Format("2006-01-02 15:04:05")
	default:
		return t.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
}

// age formats a duration for people, with two units at most.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0) // clocks differ between processes
	switch {
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

// stateColor colors a state, to tell states apart at a glance. The word itself
// stays.
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

// toneColor colors text by its tone, to mark what is wrong.
func (c *cli) toneColor(tone operator.Tone, text string) string {
	switch tone {
	case operator.ToneBad:
		return c.levelColor(operator.LevelError, text)
	case operator.ToneWarn:
		return c.levelColor(operator.LevelWarn, text)
	case operator.ToneGood, operator.ToneWait:
	}
	return text
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
