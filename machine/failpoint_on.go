//go:build failpoints && unix

package machine

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// armed is the failpoint of this process. SIGNIN_ENGINE_FAILPOINT names it,
// "before exchange" or "after callback:2" for its second passage.
var armed = arm("SIGNIN_ENGINE_FAILPOINT")

type trap struct {
	name string
	left atomic.Int64 // passages until it springs
}

// arm unsets the variable: the configuration rejects unknown ones.
func arm(variable string) *trap {
	name, nth, counted := strings.Cut(os.Getenv(variable), ":")
	_ = os.Unsetenv(variable) // fails for malformed names only
	t := &trap{name: name}
	t.left.Store(1)
	if counted {
		n, err := strconv.ParseInt(nth, 10, 64)
		if err != nil {
			panic(variable + ": " + err.Error())
		}
		t.left.Store(n)
	}
	return t
}

// failpoint kills the process, as kill -9 does, if it is the armed one.
func failpoint(when, what string) {
	if armed.name != when+" "+what || armed.left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // it takes a moment
}
