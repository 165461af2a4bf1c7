package machinetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/machine"
)

// separator stands between commands and results.
const separator = "----"

// Run runs every scenario of a folder, each as a subtest named after its file.
// With rewrite it rewrites the files with the actual results; review the diff
// before you keep it.
//
// A scenario is a text file of blocks, separated by blank lines. Lines that begin
// with # are comments. A block is one or more commands, then four dashes, then
// everything that happened: calls to the token service and the connector,
// transitions with their row, callbacks, and finally the answer.
//
//	signin graph                        the bot asks for a token
//	exchange id=x-1 token=jwt           signin/tokenExchange
//	verify 123456 reply=card-1          signin/verifyState
//	failure resourcematchfailed         signin/failure
//	event tokens/response {"connectionName":"graph"}
//	signout graph | signout all
//	code 123456 for=graph               the popup hands out a code
//	prefetch graph                      its token is fetched before the bot sees anything
//	direct graph                        the bot exchanges its SSO tokens by itself
//	token graph                         the user got a token in another way
//	upstream exchange 500 404           the next answers of the token service
//	card 400                            the next answer to a card
//	hold exchange … release exchange    a call that takes its time
//	start NAME command … wait NAME      a command in the background
//	advance 15m, sweep, deliver, kill a, purge 720h, ready
//	store down | readonly | lost | up   after=N: once N writes went well
//	callbacks complete fail=1 panic=1 slow=7s
//	reconcile #1, cancel #1, redeliver #1
//	show, outbox, audit #1, audit orphans
//	watch                               log warnings and error events are shown
//	answers failure 418                 the bot answers signin/failure itself
//
// Options: as=USER, on=INSTANCE, device=PLATFORM, chat=ID, type=channel.
func Run(t *testing.T, dir string, rewrite bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in %s: %v", dir, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Play(t, string(raw), machine.New)
			if err != nil {
				t.Error(err)
			}
			if rewrite {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(raw), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", file, diff)
			}
		})
	}
}

// Build makes an engine, as [machine.New] does.
type Build func(machine.Config) (*machine.Engine, error)

// Play runs one scenario on engines that build makes, and returns it with the
// actual results. An error says why it could not be run to its end, or names the
// violated invariants.
func Play(t *testing.T, text string, build Build) (got string, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(build)
		defer w.end()
		var out strings.Builder
		err = playing(func() {
			w.play(t.Context(), text, &out)
			w.flush(t.Context())
			if bad := w.broken(t.Context()); len(bad) > 0 {
				w.fail("%s", strings.Join(bad, "\n"))
			}
		})
		got = out.String()
	})
	return got, err
}

func (w *world) play(ctx context.Context, text string, out *strings.Builder) {
	for i, block := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			out.WriteString("\n")
		}
		commands := false
		for _, line := range strings.Split(block, "\n") {
			if line == separator {
				break
			}
			out.WriteString(line + "\n")
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			commands = true
			if said := w.run(ctx, line); said != "" {
				w.say("%s", said)
			}
			settle()
		}
		if commands {
			out.WriteString(separator + "\n")
			w.mu.Lock()
			for _, line := range w.out {
				out.WriteString(line + "\n")
			}
			w.out = nil
			w.mu.Unlock()
		}
	}
}

// unplayable is the panic value of a scenario that cannot go on.
type unplayable struct{ why string }

// fail ends a scenario that cannot go on.
func (*world) fail(format string, args ...any) {
	panic(unplayable{fmt.Sprintf(format, args...)})
}

// playing runs a part of a scenario and returns why it failed, if it did.
func playing(part func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case unplayable:
			err = errors.New("scenario: " + p.why)
		default:
			panic(p)
		}
	}()
	part()
	return nil
}

// end cleans up after a scenario: it releases held calls and stops engines.
func (w *world) end() {
	w.mu.Lock()
	for _, gate := range w.gates {
		close(gate)
	}
	procs := slices.Collect(maps.Values(w.procs))
	w.mu.Unlock()
	for _, p := range procs {
		p.kill()
	}
	for _, stop := range w.running {
		_ = stop() // it cannot have ended well
	}
	time.Sleep(time.Hour)
}
