package teams_test

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestWhys checks that every reason is listed, in the order of the declarations.
func TestWhys(t *testing.T) {
	source, err := os.ReadFile("refusals.go")
	if err != nil {
		t.Fatal(err)
	}
	var declared []teams.Why
	for _, m := range regexp.MustCompile(`(?m)^\tWhy\w+ +Why = "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		declared = append(declared, teams.Why(m[1]))
	}
	if got := teams.Whys(); len(got) == 0 || !slices.Equal(got, declared) {
		t.Errorf("listed are %v, declared are %v", got, declared)
	}
}
