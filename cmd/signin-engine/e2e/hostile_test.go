package e2e

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc/emulator"
)

// memoryLimit is the memory that the program may use under attack, in MB.
const memoryLimit = 256

// TestUnderAttack opens a thousand hostile connections: slow ones, silent ones,
// and ones that send garbage. They must keep nobody from signing in and cost a
// bounded amount of memory. The test logs how much slower the sign-ins become. It
// fails only if they stall, since attackers, users, upstreams and bot share the
// machine.
func TestUnderAttack(t *testing.T) {
	hostile, honest := 1000, 400
	if testing.Short() {
		hostile, honest = 200, 100
	}
	w := newWorld(t, true)
	b := newBot(t, w, program(t, released), "limits: {sign_ins_per_minute: 0}\n")
	p := b.start(t, metadata(w.url)...)
	token, err := w.ConnectorToken(appID, w.ServiceURL())
	if err != nil {
		t.Fatal(err)
	}

	var users atomic.Int64
	// run plays sign-ins. It returns the time within which all but the slowest
	// hundredth of the invokes were answered.
	run := func() time.Duration {
		var mu sync.Mutex
		var took []time.Duration
		var wg sync.WaitGroup
		client := b.client(t)
		for range 4 {
			wg.Go(func() {
				for range honest / 4 {
					user := w.user(client, fmt.Sprintf("honest-%d", users.Add(1)))
					user.Authorize = func(_ context.Context, r *http.Request) error {
						r.Header.Set("Authorization", "Bearer "+token)
						return nil
					}
					if a, err := user.SendMessage(t.Context(), "login graph"); err != nil || a.Status != http.StatusOK {
						t.Errorf("message: %d, %v", a.Status, err)
						return
					}
					card, err := w.WaitForCard(t.Context(), user.Conversation.ID, 0)
					if err != nil {
						t.Error(err)
						return
					}
					begun := time.Now()
					var a emulator.Answer
					a, err = user.TokenExchange(t.Context(), card.ExchangeID(), connection, "sso-"+user.User.ID)
					if err != nil || a.Status != http.StatusOK {
						t.Errorf("exchange: %d %s, %v", a.Status, a.Body, err)
						return
					}
					mu.Lock()
					took = append(took, time.Since(begun))
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		slices.Sort(took)
		if len(took) < honest/4*4 {
			t.Fatalf("%d of %d sign-ins", len(took), honest)
		}
		return took[len(took)*99/100]
	}
	var calm, attacked []time.Duration
	var times []float64
	for range 3 { // alternate, so that other load on the machine affects both
		quiet := run()
		ctx, stop := context.WithCancel(t.Context())
		var open atomic.Int64
		var attackers sync.WaitGroup
		for n := range hostile {
			attackers.Go(func() { attack(ctx, p.address, n, token, &open) })
		}
		eventually(t, "all attackers are connected", func() bool { return open.Load() >= int64(hostile) })
		under := run()
		stop()
		attackers.Wait()
		calm, attacked, times = append(calm, quiet), append(attacked, under), append(times, float64(under)/float64(quiet))
		if under > answerLimit {
			t.Errorf("p99 is %s", under)
		}
	}
	peak := peakMemory(t, p.cmd.Process.Pid)
	t.Logf("%d hostile connections: p99 of the exchanges %s, quiet %s (medians of 3 turns; %.1f times, from %.1f to %.1f); peak memory of the program %d MB",
		hostile, median(attacked).Round(10*time.Microsecond), median(calm).Round(10*time.Microsecond),
		median(times), slices.Min(times), slices.Max(times), peak)
	if peak >= memoryLimit {
		t.Errorf("the program has used %d MB", peak)
	}
	p.stopped(t)
}

func median[T cmp.Ordered](of []T) T {
	of = slices.Sorted(slices.Values(of))
	return of[len(of)/2]
}

// peakMemory is the most memory that a process has used, in MB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		t.Fatalf("no VmHWM in %s", status)
	}
	kB, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return kB >> 10
}

// attack keeps one hostile connection busy until ctx is done.
func attack(ctx context.Context, address string, n int, token string, open *atomic.Int64) {
	const head = "POST /api/messages HTTP/1.1\r\nHost: bot\r\n"
	once := sync.OnceFunc(func() { open.Add(1) })
	for ctx.Err() == nil {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return
		}
		once()
		cut := context.AfterFunc(ctx, func() { _ = c.Close() })
		go func() { _, _ = io.Copy(io.Discard, c) }()
		slowly := func(text string) {
			for i := range len(text) {
				if _, err := c.Write([]byte{text[i]}); err != nil {
					return
				}
				idle(ctx, 500*time.Millisecond)
			}
		}
		switch n % 6 {
		case 0: // silence
			idle(ctx, time.Minute)
		case 1: // headers, one byte at a time
			slowly(head + "X: " + strings.Repeat("x", 1000))
		case 2: // garbage
			_, _ = c.Write(bytes.Repeat([]byte{0x16, 0x03, 0xff, '\n'}, 1000))
			idle(ctx, time.Second)
		case 3: // no token, and a body that never comes
			_, _ = io.WriteString(c, head+"Content-Length: 1000000\r\n\r\n{")
			idle(ctx, time.Second)
		case 4: // a stolen token, and a large body that comes slowly
			_, _ = io.WriteString(c, head+"Authorization: Bearer "+token+"\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("[", 60<<10))
			slowly(strings.Repeat("[", 1000))
		case 5: // a signature that has to be checked
			_, _ = io.WriteString(c, head+"Authorization: Bearer "+token[:len(token)-4]+"AAAA\r\nContent-Length: 2\r\n\r\n{}")
			idle(ctx, 500*time.Millisecond)
		}
		cut()
		_ = c.Close()
	}
}

// idle waits for about d. The time varies, so that attackers do not act in step.
func idle(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
