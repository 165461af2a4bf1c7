package main

import (
	"context"
	"fmt"
	"io"
	"os"
)

// fleet is the performance of a number of instances on one Postgres.
type fleet struct {
	bots  int
	rate  float64
	ratio float64 // compared with one instance
	cpu   float64 // s per 1,000 sign-ins, all instances together
}

// instancesPart measures 1, 2 and 4 bots that share one database.
func (b *bench) instancesPart(ctx context.Context, r *report) error {
	counts := []int{1, 2, 4}
	var bots []*bot
	defer func() {
		for _, one := range bots {
			_ = one.stop()
		}
	}()
	for range counts[len(counts)-1] {
		one, err := b.start(ctx, kindPostgres, "fleet")
		if err != nil {
			return err
		}
		bots = append(bots, one)
	}
	sso := flows()[1] // three devices, spread over the instances
	rates, cpus := map[int][]float64{}, map[int][]float64{}
	for range b.rounds {
		for _, n := range counts {
			got, err := load(ctx, b.emu, bots[:n], sso, 64, b.duration)
			if err != nil {
				return err
			}
			b.emu.Reset()
			rates[n], cpus[n] = append(rates[n], got.perSecond()), append(cpus[n], got.cpuPer())
		}
	}
	for _, n := range counts {
		r.instances = append(r.instances, fleet{bots: n, rate: median(rates[n]), ratio: median(rates[n]) / median(rates[1]), cpu: median(cpus[n])})
	}
	writeInstances(os.Stdout, r.instances)
	return nil
}

func writeInstances(w io.Writer, all []fleet) {
	if len(all) == 0 {
		return
	}
	_, _ = fmt.Fprintf(w, "\n## Instances on one Postgres\n\nSSO from three devices at once, 64 users. All instances and the database share the machine, so more of them cannot be faster here; the point is what sharing costs.\n\n"+
		"| Instances | per s | ratio | CPU s per 1,000 |\n|--:|--:|--:|--:|\n")
	for _, f := range all {
		_, _ = fmt.Fprintf(w, "| %d | %.0f | %.2f | %.2f |\n", f.bots, f.rate, f.ratio, f.cpu)
	}
}
