package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// bot is a child process under test.
type bot struct {
	kind string
	url  string
	cmd  *exec.Cmd
}

// startBot starts this program again as a bot.
func startBot(ctx context.Context, kind, upstream, where string) (*bot, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	b := &bot{kind: kind, cmd: exec.CommandContext(ctx, self, "-bot", kind, "-upstream", upstream, "-store", where)} //nolint:gosec // this program itself
	b.cmd.Stderr = os.Stderr
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("bot %s did not start: %w", kind, err)
	}
	b.url = strings.TrimSpace(line)
	return b, nil
}

// stop sends the bot SIGTERM and waits until it has ended.
func (b *bot) stop() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return b.cmd.Wait()
}

func (b *bot) stats(ctx context.Context) (stats, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/stats", nil)
	if err != nil {
		return stats{}, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return stats{}, err
	}
	defer func() { _, _ = io.Copy(io.Discard, res.Body); _ = res.Body.Close() }()
	var s stats
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// sum adds up the stats of all bots of a fleet.
func sum(ctx context.Context, bots []*bot) (stats, error) {
	var all stats
	for _, b := range bots {
		s, err := b.stats(ctx)
		if err != nil {
			return stats{}, fmt.Errorf("stats of %s: %w", b.kind, err)
		}
		all.CPU += s.CPU
		all.MaxRSS = max(all.MaxRSS, s.MaxRSS)
		all.Anon = max(all.Anon, s.Anon)
		all.Commits += s.Commits
		all.Groups += s.Groups
		all.Written += s.Written
	}
	return all, nil
}
