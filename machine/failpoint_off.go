//go:build !(failpoints && unix)

package machine

// failpoint is where a crash test may end the process; see failpoint_on.go.
func failpoint(_, _ string) {}
