package pgstore

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// Grants is the SQL that gives roles what they need of the schema that dsn names:
// runtime, for a bot that serves, changes rows and no tables; reader looks at
// everything but the store's key. An empty name is left out. The owner of the
// schema runs it, after its last migration: what later ones add is granted too.
func Grants(dsn, runtime, reader string, opts ...Option) (string, error) {
	o, err := parse(dsn, opts)
	if err != nil {
		return "", err
	}
	schema := pgx.Identifier{o.schema}.Sanitize()
	var b strings.Builder
	grant := func(role, privileges string) {
		if role == "" {
			return
		}
		role = pgx.Identifier{role}.Sanitize()
		b.WriteString("grant usage on schema " + schema + " to " + role + ";\n" +
			"grant " + privileges + " on all tables in schema " + schema + " to " + role + ";\n" +
			"alter default privileges in schema " + schema + " grant " + privileges + " on tables to " + role + ";\n")
	}
	grant(runtime, "select, insert, update, delete")
	grant(reader, "select")
	if reader != "" {
		b.WriteString("revoke all on " + schema + ".meta from " + pgx.Identifier{reader}.Sanitize() + ";\n")
	}
	return b.String(), nil
}
