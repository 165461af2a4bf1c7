package machine_test

import (
	"slices"
	"testing"

	"github.com/signin-engine/signin-engine/machine"
)

// FuzzInvoke sends any value with any of the three invokes to a pending
// attempt: there is always an answer, and it is one of the table's.
func FuzzInvoke(f *testing.F) {
	names := []string{machine.InvokeTokenExchange, machine.InvokeVerifyState, machine.InvokeFailure}
	for _, a := range arrivals() {
		f.Add(uint8(slices.Index(names, a.invoke)), a.value)
	}
	for n := range names {
		for _, v := range []string{``, `{`, `[]`, `"x"`, `1`, `{"token":1}`, `{"state":{}}`, `{"code":["x"]}`, `{"ID":"x-1","Token":"jwt"}`, `{"state":"\u0000"}`} {
			f.Add(uint8(n), v)
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, value string) {
		name := names[int(n)%len(names)]
		d := newDesk(t, nil)
		d.signIn("hello")
		answer, ok := d.eng.HandleInvoke(t.Context(), activity("invoke", name, "", value))
		if !ok || !slices.Contains([]int{200, 400, 404, 412}, answer.Status) {
			t.Errorf("%s %q: %+v, %t", name, value, answer, ok)
		}
		d.drain()
	})
}
