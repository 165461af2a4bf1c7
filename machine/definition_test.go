package machine

import (
	"testing"
)

func TestTableIsSound(t *testing.T) {
	if _, err := define(Table()); err != nil {
		t.Fatal(err)
	}
	for _, e := range Edges() {
		t.Logf("%s -> %s %v", fsmState(e.From), fsmState(e.To), e.Rows)
	}
}
