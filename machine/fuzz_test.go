package machine_test

import (
	"slices"
	"testing"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/machine/machinetest"
)

// FuzzInvoke sends any value with any of the three invokes to a pending
// attempt: there is always an answer, it is one of the table's, and what lies in
// the store afterwards holds together.
func FuzzInvoke(f *testing.F) {
	names := []string{machine.InvokeTokenExchange, machine.InvokeVerifyState, machine.InvokeFailure}
	allowed := [][]int{{200, 400, 412}, {200, 404, 412}, {200}}
	for _, a := range arrivals() {
		f.Add(uint8(slices.Index(names, a.invoke)), a.value)
	}
	for _, v := range []string{
		``, `{`, `[]`, `"x"`, `1`, `{"token":1}`, `{"state":{}}`, `{"code":["x"]}`, `{"ID":"x-1","Token":"jwt"}`,
		`{"state":"\u0000"}`, `{"state":123456}`, `"{\"state\":\"123456\"}"`, `{"state":"{\"code\":123456}"}`,
		`{"State":"cancelledbyuser"}`, `{"id":7,"connectionName":"x","token":"a.eyJvaWQiOiJ4In0.b"}`, `{"code":7,"message":null}`,
	} {
		for n := range names {
			f.Add(uint8(n), v)
		}
	}
	f.Fuzz(func(t *testing.T, n uint8, value string) {
		i := int(n) % len(names)
		d := newDesk(t, nil)
		d.tokens.IssueCode("123456", "29:alice", "graph")
		d.signIn("hello")
		answer, ok := d.eng.HandleInvoke(t.Context(), activity("invoke", names[i], "", value))
		if !ok || !slices.Contains(allowed[i], answer.Status) {
			t.Errorf("%s %q: %+v, %t", names[i], value, answer, ok)
		}
		d.drain()
		bad, err := machinetest.Violations(t.Context(), d.mem)
		if err != nil || len(bad) > 0 {
			t.Errorf("%s %q: %v, %v", names[i], value, bad, err)
		}
	})
}
