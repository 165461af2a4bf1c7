package main

import (
	"testing"
	"time"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// TestFailureCodeIsSpeltAsStored checks that a failure code is found in any case,
// even one that is also the name of a refused request.
func TestFailureCodeIsSpeltAsStored(t *testing.T) {
	for typed, stored := range map[string]string{
		"audience": "Audience", "aadsts65001": "AADSTS65001", "aadsts700016": "AADSTS700016", "RESOURCEMATCHFAILED": "resourcematchfailed",
	} {
		f := &filter{query: operator.Query{FailureCode: typed}}
		if q, err := f.read(time.Now()); err != nil || q.FailureCode != stored {
			t.Errorf("--failure-code %s: %q, %v, want %q", typed, q.FailureCode, err, stored)
		}
	}
}
