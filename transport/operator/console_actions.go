package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/machine"
	"github.com/signin-engine/signin-engine/store"
)

// action is one of the actions that an operator can take on an attempt.
type action struct {
	Name, Label string
	Does        string          // what it does, in a sentence
	Done        string          // what has happened, shown afterwards
	fits        func(View) bool // whether the attempt can be acted on
	do          func(context.Context, Actor, string, machine.Operator) error
}

// actions lists them, the least invasive first.
var actions = []action{
	{
		Name: "reconcile", Label: "Reconcile",
		Does: "Asks the Token Service whether the user has a token by now, and completes or ends the sign-in.",
		Done: "Reconciled: the sign-in has the outcome that the Token Service reports.",
		fits: func(v View) bool { return v.State == store.Exchanging || v.State == store.Verifying },
		do: func(ctx context.Context, a Actor, id string, op machine.Operator) error {
			_, err := a.Reconcile(ctx, id, op)
			return err
		},
	},
	{
		Name: "redeliver", Label: "Redeliver",
		Does: "Makes the pending and failed callbacks due now: the bot's own code is called again.",
		Done: "Redelivered: the bot's own code is called again.",
		fits: func(v View) bool {
			return slices.Contains([]string{string(store.DeliveryDead), string(store.DeliveryPending), string(store.DeliveryUndeliverable)}, v.Callback.Status)
		},
		do: func(ctx context.Context, a Actor, id string, op machine.Operator) error {
			_, err := a.Redeliver(ctx, id, op)
			return err
		},
	},
	{
		Name: "cancel", Label: "Cancel",
		Does: "Ends the sign-in as failed. The user's next message starts a new one.",
		Done: "Cancelled: the sign-in has ended. The user's next message starts a new one.",
		fits: func(v View) bool { return !v.State.Terminal() },
		do: func(ctx context.Context, a Actor, id string, op machine.Operator) error {
			_, err := a.Cancel(ctx, id, op)
			return err
		},
	},
}

func actionNamed(name string) (action, bool) {
	i := slices.IndexFunc(actions, func(a action) bool { return a.Name == name })
	if i < 0 {
		return action{}, false
	}
	return actions[i], true
}

func didText(name string) string {
	a, _ := actionNamed(name)
	return a.Done
}

// actionButton is an action on one attempt.
type actionButton struct {
	action
	URL string
}

func actionsOf(d Detail) []actionButton {
	var all []actionButton
	for _, a := range actions {
		if a.fits(d.View) {
			all = append(all, actionButton{a, pathOf("attempts", d.ID, a.Name)})
		}
	}
	return all
}

// Names of the form field with the operator's reason. The form for many attempts
// also carries the filter "reason", so its own field has another name.
const (
	fieldReason = "reason"
	fieldWhy    = "why"
)

// formOrder reads from a form who acts and why. field is the name of the field
// with the reason.
func (h *handler) formOrder(r *http.Request, field string) (machine.Operator, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxBody)
	if err := r.ParseForm(); err != nil {
		return machine.Operator{}, fmt.Errorf("%w: the form cannot be read", ErrBadRequest)
	}
	v := visitorOf(r)
	actor := v.Actor
	if actor == "" && h.TrustHeader == "" {
		actor = cleanActor(r.PostForm.Get("actor"))
	}
	reason := strings.TrimSpace(r.PostForm.Get(field))
	switch {
	case h.Actor == nil:
		return machine.Operator{}, fmt.Errorf("%w: this endpoint only reads", ErrUnsupported)
	case actor == "" && h.TrustHeader != "":
		return machine.Operator{}, fmt.Errorf("%w: the proxy did not say in %s who acts", ErrForbidden, h.TrustHeader)
	case actor == "":
		return machine.Operator{}, fmt.Errorf("%w: enter your name: the audit trail records who acts", ErrBadRequest)
	case reason == "":
		return machine.Operator{}, fmt.Errorf("%w: enter a reason: the audit trail keeps it", ErrBadRequest)
	}
	return machine.Operator{Actor: actor, Reason: reason}, nil
}

// formOr handles a form as an action of the console, and passes every other
// request to data, which reads JSON.
func (h *handler) formOr(name string, data func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isForm(r) {
			h.reply(data).ServeHTTP(w, r)
			return
		}
		if err := h.actOnOne(w, r, name); err != nil {
			h.refuse(w, r, err)
		}
	})
}

func (h *handler) actOnOne(w http.ResponseWriter, r *http.Request, name string) error {
	a, _ := actionNamed(name)
	id := r.PathValue("id")
	op, err := h.formOrder(r, fieldReason)
	if err == nil {
		h.Log.Info().Str("action", name).Str("attempt", id).Str("actor", op.Actor).Msg("operator action")
		if err = a.do(r.Context(), h.Actor, id, op); err == nil {
			http.Redirect(w, r, pathOf("attempts", id)+"?did="+name, http.StatusSeeOther) //nolint:gosec // a path of this endpoint
			return nil
		}
	}
	status, p := describe(err)
	if status == http.StatusNotFound || status >= http.StatusInternalServerError {
		return err
	}
	return h.showAttempt(w, r, status, attemptPage{Problem: p.Error.Message, Given: r.PostForm.Get(fieldReason)})
}

// Limits of an action on many attempts.
const (
	mostCounted = 20_000 // attempts read to count those that match
	mostAtOnce  = 1000   // attempts acted on in one request
	shownOfMany = 20     // attempts shown before the action
)

type bulkPage struct {
	action
	Filter   url.Values
	Words    []filterField // the filter, for display
	Count    int           // attempts that match
	Capped   bool          // counting stopped at mostCounted
	AtOnce   int
	Sample   []View
	Problem  string
	Reason   string
	Finished bool // the action was taken; Done, Left and Refused are valid
	Done     int
	Left     int
	Refused  []bar  // failed actions by error code
	Back     string // the list with the same filter
	Again    string // this page once more, for those that are left
}

// bulkPage shows how many attempts an action would affect. It does nothing yet.
func (h *handler) bulkPage(w http.ResponseWriter, r *http.Request) error {
	a, q, p, err := h.bulk(r, withoutEmpty(r.URL.Query()))
	if err != nil {
		return err
	}
	err = h.matching(r.Context(), q, a.fits, mostCounted, func(v View) bool {
		if p.Count++; len(p.Sample) < shownOfMany {
			p.Sample = append(p.Sample, v)
		}
		return true
	})
	if p.Capped = errors.Is(err, errTooMany); err != nil && !p.Capped {
		return err
	}
	h.page(w, r, http.StatusOK, "bulk", a.Label+" all matching attempts", p)
	return nil
}

// bulk reads an action and the filter of the attempts it applies to. A filter
// without an end gets the current time as its end, so that attempts which begin
// after the operator saw the count are not affected.
func (h *handler) bulk(r *http.Request, values url.Values) (action, Query, bulkPage, error) {
	a, ok := actionNamed(values.Get("action"))
	if !ok {
		return a, Query{}, bulkPage{}, fmt.Errorf("%w: action: one of reconcile, redeliver, cancel", ErrBadRequest)
	}
	filter := cloneValues(values, "action", "cursor", "limit", "form", fieldWhy, "actor")
	if filter.Get("until") == "" {
		info, err := h.Reader.Info(r.Context())
		if err != nil {
			return a, Query{}, bulkPage{}, err
		}
		filter.Set("until", formatTime(info.Now.Time))
	}
	q, err := ParseQuery(filter, h.Clock())
	if err != nil {
		return a, q, bulkPage{}, err
	}
	p := bulkPage{action: a, Filter: filter, AtOnce: mostAtOnce, Back: "/attempts?" + cloneValues(values, "action", "cursor", "limit", "form", fieldWhy, "actor").Encode()}
	for _, name := range sortedKeys(filter) {
		p.Words = append(p.Words, filterField{Name: name, Value: strings.Join(filter[name], ", ")})
	}
	return a, q, p, nil
}

func sortedKeys(v url.Values) []string {
	names := make([]string, 0, len(v))
	for name := range v {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

var errTooMany = errors.New("too many to count")

// matching passes the attempts that q selects and fits accepts to take, until take
// returns false. It returns errTooMany after it has read most attempts without
// reaching the end.
func (h *handler) matching(ctx context.Context, q Query, fits func(View) bool, most int, take func(View) bool) error {
	q.Limit, q.Cursor = MaxLimit, ""
	for read := 0; ; {
		page, err := h.Reader.List(ctx, q)
		if err != nil {
			return err
		}
		for _, v := range page.Attempts {
			if fits(v) && !take(v) {
				return nil
			}
		}
		if page.NextCursor == "" {
			return nil
		}
		if read += len(page.Attempts); read >= most {
			return errTooMany
		}
		q.Cursor = page.NextCursor
	}
}

// actOnMany takes the action on up to mostAtOnce attempts, and then shows the
// result with a link for the rest, so that the operator sees the effect before
// going on.
func (h *handler) actOnMany(w http.ResponseWriter, r *http.Request) error {
	op, orderErr := h.formOrder(r, fieldWhy)
	a, q, p, err := h.bulk(r, withoutEmpty(r.PostForm))
	if err != nil {
		return err
	}
	p.Reason = op.Reason
	if orderErr != nil {
		status, said := describe(orderErr)
		p.Problem, p.Reason = said.Error.Message, r.PostForm.Get(fieldWhy)
		err := h.matching(r.Context(), q, a.fits, mostCounted, func(View) bool { p.Count++; return true })
		if p.Capped = errors.Is(err, errTooMany); err != nil && !p.Capped {
			return err
		}
		h.page(w, r, status, "bulk", a.Label+" all matching attempts", p)
		return nil
	}
	var ids []string
	err = h.matching(r.Context(), q, a.fits, mostCounted, func(v View) bool {
		if p.Count++; len(ids) < mostAtOnce {
			ids = append(ids, v.ID)
		}
		return true
	})
	if p.Capped = errors.Is(err, errTooMany); err != nil && !p.Capped {
		return err
	}
	h.Log.Info().Str("action", a.Name).Int("attempts", len(ids)).Str("filter", p.Filter.Encode()).Str("actor", op.Actor).Msg("operator action on many")
	p.Done, p.Refused = h.each(r.Context(), a, ids, op)
	p.Finished, p.Left = true, p.Count-len(ids)
	p.Again = "/attempts/act?" + withValue(p.Filter, "action", a.Name).Encode()
	h.page(w, r, http.StatusOK, "bulk", a.Label+" all matching attempts", p)
	return nil
}

// each takes the action on one attempt after the other. It counts those that
// succeeded, and the errors by their code. It stops when ctx ends, which it does
// when the browser disconnects.
func (h *handler) each(ctx context.Context, a action, ids []string, op machine.Operator) (done int, refused []bar) {
	why := map[string]int{}
	for _, id := range ids {
		if ctx.Err() != nil {
			break
		}
		if err := a.do(ctx, h.Actor, id, op); err != nil {
			_, said := describe(err)
			why[said.Error.Code]++
			continue
		}
		done++
	}
	refused, _ = barsOf(why)
	return done, refused
}

// statusWord is an HTTP status with its text, such as "404 Not Found", or "no
// answer" for 0.
func statusWord(status int) string {
	if status == 0 {
		return "no answer"
	}
	return strconv.Itoa(status) + " " + cmp.Or(http.StatusText(status), "status")
}

// ago formats a duration for people, with one unit: "3.2 s", "5 min", "2 days".
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
