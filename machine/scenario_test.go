package machine_test

import (
	"flag"
	"testing"

	"github.com/signin-engine/signin-engine/machine/machinetest"
)

func TestScenarios(t *testing.T) {
	machinetest.Run(t, "testdata/scenarios", *rewrite)
}

var rewrite = flag.Bool("rewrite", false, "write the scenarios anew with what came of them")
