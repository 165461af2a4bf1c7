package pgstore

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/signin-engine/signin-engine/store/pgstore/pgtest"
)

// TestPlans: the deliveries of one attempt are found by its key also by plans
// that were made while there were none, since those stay.
func TestPlans(t *testing.T) {
	s, err := Open(t.Context(), pgtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for name, tc := range map[string]struct {
		sql     string
		args    []any
		pending int // uses of the index of all that is pending
		key     int // of the primary key
	}{
		"claim":        {claimSQL, []any{1, "bot-a", time.Minute, []string{}}, 1, 2},
		"claim of one": {claimOfSQL, []any{1, "bot-a", time.Minute, []string{}, "id"}, 0, 3},
		"drop":         {dropSQL.sql, make([]any, 1), 0, 1},
		"apply":        {applySQL[1][0].sql, make([]any, len(touchArguments)+len(ackArguments)), 0, 4},
	} {
		rows, err := s.pool.Query(t.Context(), "explain "+tc.sql, tc.args...)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		if strings.Count(plan, "deliveries_pending") != tc.pending || strings.Count(plan, "deliveries_pkey") != tc.key {
			t.Errorf("%s:\n%s", name, plan)
		}
	}
}
