package machinetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// separator stands between what is done and what comes of it.
const separator = "----"

// Run runs every scenario of a folder, each as a subtest named after its file.
// With rewrite it writes the files anew with what came of them; read the
// difference before you keep it.
//
// A scenario is a text file of blocks, parted by blank lines. Lines that begin
// with # explain. A block is one or more commands, then four dashes, then
// everything that happened: calls to the token service and the connector,
// transitions with their row, callbacks, and at last the answer.
//
//	signin graph                        the bot asks for a token
//	exchange id=x-1 token=jwt           signin/tokenExchange
//	verify 123456 reply=card-1          signin/verifyState
//	failure resourcematchfailed         signin/failure
//	signout graph | signout all
//	code 123456 for=graph               the popup hands out a code
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
			var got string
			synctest.Test(t, func(t *testing.T) { got = play(t, string(raw)) })
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

// play carries a scenario out and returns it with what came of it.
func play(t *testing.T, text string) string {
	t.Helper()
	w := newWorld(t)
	var out strings.Builder
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
			if said := w.run(t.Context(), line); said != "" {
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
	w.flush(t.Context())
	checkInvariants(t, w)
	return out.String()
}
