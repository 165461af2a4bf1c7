package pgstore

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestStatement(t *testing.T) {
	s := prepare(`select @b::int8[], @a_name || @b`)
	if want := `select $1::int8[], $2 || $1`; s.sql != want {
		t.Errorf("got %s, want %s", s.sql, want)
	}
	b := &pgx.Batch{}
	s.queue(b, pgx.NamedArgs{"a_name": "x", "b": 2, "unused": 3})
	if q := b.QueuedQueries[0]; q.SQL != s.sql || !slices.Equal(q.Arguments, []any{2, "x"}) {
		t.Errorf("got %s with %v", q.SQL, q.Arguments)
	}
}

// What the statements of a sign-in were made into is what pgx makes of them.
func TestStatementsAsNamed(t *testing.T) {
	for sql, s := range map[string]*statement{
		applySQL: applyStatement, ackSQL: ackStatement, findSQL: findStatement, strayedSQL: strayedStatement,
	} {
		named, args, err := pgx.NamedArgs{}.RewriteQuery(t.Context(), nil, sql, nil)
		if err != nil || named != s.sql || len(args) != len(s.names) {
			t.Errorf("%v: got %d arguments of %s\nwant %d of %s", err, len(s.names), s.sql, len(args), named)
		}
	}
}
