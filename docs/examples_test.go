package docs_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"
)

// TestEveryTypeHasAnExample: a reader of the packages that bots are made with sees
// each exported type in use.
func TestEveryTypeHasAnExample(t *testing.T) {
	for _, dir := range []string{"machine", "transport/teams", "tokensvc/emulator"} {
		names, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		fset := token.NewFileSet()
		files := make([]*ast.File, len(names))
		for i, name := range names {
			if files[i], err = parser.ParseFile(fset, name, nil, parser.ParseComments); err != nil {
				t.Fatal(err)
			}
		}
		pkg, err := doc.NewFromFiles(fset, files, "github.com/signin-engine/signin-engine/"+dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, typ := range pkg.Types {
			found := len(typ.Examples)
			for _, f := range append(typ.Funcs, typ.Methods...) {
				found += len(f.Examples)
			}
			if found == 0 {
				t.Errorf("%s.%s has no example: write Example%s in %s/example_test.go", pkg.Name, typ.Name, typ.Name, dir)
			}
		}
	}
}
