package pgstore

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// Grants returns the SQL that grants two roles what they need in the schema of dsn.
// runtime is for a serving bot: it may change rows but no tables. reader may read
// everything but the store's keys. A role with an empty name is left out. The owner of
// the schema runs the SQL after a migration. Tables of later migrations are granted
// too.
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
