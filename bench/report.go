package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// cell identifies one measurement.
type cell struct {
	flow  string
	users int
	kind  string
}

// table holds the rounds of every cell. Round i of one kind is paired with round
// i of the ceiling.
type table struct {
	order  []cell
	rounds map[cell][]result
}

func (t *table) add(c cell, r result) {
	if t.rounds == nil {
		t.rounds = map[cell][]result{}
	}
	if t.rounds[c] == nil {
		t.order = append(t.order, c)
	}
	t.rounds[c] = append(t.rounds[c], r)
}

// line is one row of the report, with medians.
type line struct {
	cell
	rate, ratio, cpu, cpuRatio float64
	asked, p50, p99            time.Duration
	rss                        int64
	commits, group, written    float64
	failed                     int
}

func (t *table) line(c cell) line {
	own, top := t.rounds[c], t.rounds[cell{c.flow, c.users, kindBare}]
	l := line{cell: c}
	pick := func(f func(i int) float64) float64 {
		var all []float64
		for i := range own {
			all = append(all, f(i))
		}
		return median(all)
	}
	l.rate = pick(func(i int) float64 { return own[i].perSecond() })
	l.ratio = pick(func(i int) float64 { return own[i].perSecond() / top[i].perSecond() })
	l.cpu = pick(func(i int) float64 { return own[i].cpuPer() })
	l.cpuRatio = pick(func(i int) float64 { return own[i].cpuPer() / top[i].cpuPer() })
	l.asked = time.Duration(pick(func(i int) float64 { return float64(own[i].Asked) }))
	l.p50 = time.Duration(pick(func(i int) float64 { return float64(own[i].P50) }))
	l.p99 = time.Duration(pick(func(i int) float64 { return float64(own[i].P99) }))
	l.commits = pick(func(i int) float64 { return float64(own[i].Commits) / float64(max(own[i].Done, 1)) })
	l.group = pick(func(i int) float64 { return float64(own[i].Commits) / float64(max(own[i].Groups, 1)) })
	l.written = pick(func(i int) float64 { return float64(own[i].Written) / float64(max(own[i].Done, 1)) })
	for _, r := range own {
		l.rss = max(l.rss, r.MaxRSS)
		l.failed += r.Failed
	}
	return l
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (t *table) show(w io.Writer, flow string, users int, kinds []string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintf(tw, "%s, %d users\tper s\tratio\tp50 card\tp50\tp99\tCPU s/1000\tratio\tpeak MB\tcommits\tper group\tkB written\tfailed\t\n", flow, users)
	for _, k := range kinds {
		l := t.line(cell{flow, users, k})
		_, _ = fmt.Fprintf(tw, "%s\t%.0f\t%.2f\t%s\t%s\t%s\t%.2f\t%.2f\t%d\t%.1f\t%.1f\t%.1f\t%d\t\n", k, l.rate, l.ratio,
			l.asked.Round(10*time.Microsecond), l.p50.Round(10*time.Microsecond), l.p99.Round(10*time.Microsecond), l.cpu, l.cpuRatio, l.rss>>20, l.commits, l.group, l.written/1024, l.failed)
	}
	_ = tw.Flush()
	_, _ = fmt.Fprintln(w)
}

// report holds everything that was measured.
type report struct {
	options
	table     table
	growth    [][]grown // of each kind of store
	instances []fleet
}

// rs256 returns how many signatures a core can verify in a second. That is the
// ceiling for a bot that requires tokens.
func rs256() (int, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return 0, err
	}
	sum := sha256.Sum256([]byte("somebody"))
	signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		return 0, err
	}
	n, began := 0, time.Now()
	for ; time.Since(began) < time.Second; n++ {
		if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, sum[:], signature); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// write makes RESULTS.md and its plots.
func (r *report) write(dir string) error {
	checks, err := rs256()
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Results\n\nMedians of %d paired rounds of %s; ratios are to the ceiling (a bare net/http handler that makes the same upstream calls with the same clients and remembers nothing) in the same round. "+
		"Users, upstreams, bot and database share the machine's %d processors (%s, %s/%s). `make bench` makes this page. Peak memory counts the pages of a bbolt file that are mapped; the section on growth has the bot's own. `p50 card` is the time of the message that a card answers, `p50` and `p99` those of the invoke that follows; in the silent flows, of the message. In `sso jwt` every request bears a token that is checked, by the ceiling with the same [Authenticator](../transport/teams): a core of this machine checks %d RS256 signatures a second.\n", r.rounds, r.duration, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH, checks)
	for _, f := range r.flows {
		var bars []bar
		for _, c := range r.table.order {
			if c.flow != f {
				continue
			}
			if len(bars) == 0 {
				fmt.Fprintf(&b, "\n## %s\n\n![sign-ins per second as a share of the ceiling](%s)\n\n", f, plotName(f))
				b.WriteString("| Users | Bot | per s | ratio | p50 card | p50 | p99 | CPU s per 1,000 | ratio | peak MB | commits | per group | kB written |\n|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
			}
			l := r.table.line(c)
			fmt.Fprintf(&b, "| %d | %s | %.0f | %.2f | %s | %s | %s | %.2f | %.2f | %d | %.1f | %.1f | %.1f |\n", c.users, c.kind, l.rate, l.ratio,
				l.asked.Round(10*time.Microsecond), l.p50.Round(10*time.Microsecond), l.p99.Round(10*time.Microsecond), l.cpu, l.cpuRatio, l.rss>>20, l.commits, l.group, l.written/1024)
			bars = append(bars, bar{fmt.Sprintf("%s, %d users", c.kind, c.users), l.ratio})
		}
		if len(bars) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, plotName(f)), []byte(plot(f, bars)), 0o600); err != nil {
			return err
		}
	}
	for _, of := range r.growth {
		writeGrowth(&b, of)
	}
	writeInstances(&b, r.instances)
	return os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(b.String()), 0o600)
}

func plotName(flow string) string { return strings.ReplaceAll(flow, " ", "-") + ".svg" }

type bar struct {
	name  string
	value float64
}

// plot draws horizontal bars. A bar of length 1 is the ceiling.
func plot(title string, bars []bar) string {
	const left, width, height = 170, 420, 22
	var b strings.Builder
	total := 50 + height*len(bars)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="Helvetica, sans-serif" font-size="12">`+"\n", left+width+80, total)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#ffffff"/><text x="10" y="20" font-weight="bold">%s: sign-ins per second, ceiling = 1</text>`+"\n", title)
	for i, x := range bars {
		y := 34 + i*height
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.0f" height="%d" fill="#1d4ed8"/><text x="%.0f" y="%d">%.2f</text>`+"\n",
			left-8, y+13, x.name, left, y, x.value*width, height-6, left+x.value*width+6, y+13, x.value)
	}
	b.WriteString("</svg>\n")
	return b.String()
}
