package operator

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/tokensvc"
)

// StoryWithout explains why a user (an MRI) has no attempt: the user's sign-ins of
// the last hour ended before a card was sent (row A4). It also returns the audit
// lines about the user. The story is zero if the user had no such sign-in.
func StoryWithout(ctx context.Context, r Reader, user string) (Story, []EventView, error) {
	info, err := r.Info(ctx)
	if err != nil {
		return Story{}, nil, err
	}
	lines, err := linesWithout(ctx, r, user, info.Now.Add(-window))
	if err != nil {
		return Story{}, nil, err
	}
	asked, last := 0, EventView{}
	for _, e := range lines {
		if e.Row == "A4" && e.Kind == store.EventNote {
			asked, last = asked+1, e
		}
	}
	if asked == 0 {
		return Story{}, lines, nil
	}
	return lookupFailed(asked, info.Now.Sub(last.Time.Time), FailureView{
		Source: cmp.Or(last.Source, store.SourceTokenService), Operation: tokensvc.OpGetToken, HTTPStatus: last.Status, Code: last.Code,
	}), lines, nil
}

func lookupFailed(asked int, since time.Duration, f FailureView) Story {
	times := "Once"
	if asked > 1 {
		times = strconv.Itoa(asked) + " times"
	}
	rule := RuleLookupsFailing
	if f.Source == store.SourceCredentials {
		rule = RuleCredentials
	}
	text := textOf(rule)
	s := Story{
		Tone:     ToneBad,
		Headline: times + " in the last hour the bot could not find out whether the user is signed in, so it sent no card, and there is no attempt.",
		Facts:    []string{"The last time was " + ago(since) + " ago. " + failureWords(&f)},
		Advice:   []Advice{{Because: text.meaning, Do: text.advice, Command: pasteable([]string{"doctor"}), Word: rule}},
	}
	words := []string{f.Code}
	if f.HTTPStatus >= http.StatusBadRequest && f.HTTPStatus < http.StatusInternalServerError {
		words = append(words, strconv.Itoa(f.HTTPStatus))
	}
	for _, word := range words {
		if e, ok := Explain(word); ok {
			s.Advice = append([]Advice{{Because: e.Meaning, Do: e.Advice, Word: e.Code}}, s.Advice...)
			break
		}
	}
	return s
}

// linesWithout returns the audit lines about a user that belong to no attempt.
func linesWithout(ctx context.Context, r Reader, user string, since time.Time) ([]EventView, error) {
	var lines []EventView
	q := EventQuery{Orphans: true, Since: since, Limit: defaultEventLimit}
	for range maxOrphans / defaultEventLimit {
		page, err := r.Events(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Events {
			if e.Key != nil && e.Key.User == user {
				lines = append(lines, e)
			}
		}
		if len(page.Events) < q.Limit {
			break
		}
		q.After = page.Events[len(page.Events)-1].Seq
	}
	return lines, nil
}
