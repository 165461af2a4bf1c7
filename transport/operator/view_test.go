package operator_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/signin-engine/signin-engine/transport/operator"
)

// rewrite updates the golden files: go test ./transport/operator -rewrite.
var rewrite = flag.Bool("rewrite", false, "write golden files")

func TestGoldenJSON(t *testing.T) {
	d := direct(fixture(t))
	page, err := d.List(t.Context(), operator.Query{Connection: "graph"})
	if err != nil {
		t.Fatal(err)
	}
	one, err := d.Get(t.Context(), doneID)
	if err != nil {
		t.Fatal(err)
	}
	overview, err := d.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"list.json": page, "attempt.json": one, "overview.json": overview} {
		t.Run(name, func(t *testing.T) { golden(t, name, v) })
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err = os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

// The client decodes the JSON that the handler encodes. Nothing may get lost in
// between.
func TestViewSurvivesTheWire(t *testing.T) {
	want, err := direct(fixture(t)).Get(t.Context(), stuckID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got operator.Detail
	if err = json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(b), string(again)); diff != "" {
		t.Errorf("(-first +second):\n%s", diff)
	}
}
