package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// printDetail prints one attempt for people. First comes what happened and what
// to do, in the console's words. The header, the callbacks and the timeline,
// which may be long, follow.
func (c *cli) printDetail(d operator.Detail) error {
	if err := c.printStory(operator.StoryOf(d)); err != nil {
		return err
	}
	if err := c.printf("\n%s", c.header(d)); err != nil {
		return err
	}
	for _, cb := range d.Deliveries {
		if err := c.printf("%s", c.wrapped(fmt.Sprintf("\nCallback %s: %s%s\n", cb.Key, cb.Status, deliveryDetail(c, cb)))); err != nil {
			return err
		}
	}
	if err := c.printf("\n"); err != nil {
		return err
	}
	return c.printGrid(c.timeline(d))
}

// printStory says what happened, what to do, and which commands do it.
func (c *cli) printStory(s operator.Story) error {
	prose := c.toneColor(s.Tone, s.Headline) + "\n"
	for _, fact := range s.Facts {
		prose += "  " + fact + "\n"
	}
	if err := c.printf("%s", c.wrapped(prose)); err != nil {
		return err
	}
	for _, a := range s.Advice {
		prose := "\n"
		if a.Word != "" {
			prose += a.Word + ": "
		}
		if a.Because != "" {
			prose += a.Because + "\n  "
		}
		if err := c.printf("%s\n", c.wrapped(prose+a.Do)); err != nil {
			return err
		}
		if a.Command != "" {
			if err := c.printf("  %s\n", c.pasteable(a.Command)); err != nil {
				return err
			}
		}
	}
	return nil
}

func deliveryDetail(c *cli, cb operator.DeliveryView) string {
	text := ""
	if cb.Tries > 0 {
		text += ", tries " + strconv.Itoa(cb.Tries)
	}
	if cb.Status == store.DeliveryPending {
		text += ", next " + c.time(cb.NextAt.Time)
	}
	if cb.Error != "" {
		text += ", last error: " + cb.Error
	}
	return text
}

func (c *cli) header(d operator.Detail) string {
	var b strings.Builder
	line := func(name, value string) {
		const indent = 14
		value = c.snip(value, c.width()-indent)
		if value != "" {
			fmt.Fprintf(&b, "%-13s %s\n", name, value)
		}
	}
	state := c.stateColor(d.State)
	if w := why(&d.View); w != "" {
		state += " (" + w + ")"
	}
	line("Attempt", d.ID)
	line("State", state+" for "+age(d.Now.Sub(d.Entered.Time)))
	line("User", joined(d.UserName, c.id(d.Key.User), named("Entra", c.id(d.UserAAD))))
	line("Connection", d.Key.Connection)
	line("Tenant", c.id(d.Tenant))
	line("Conversation", joined(d.Conversation.Type, c.id(d.Conversation.ID)))
	line("Client", d.Platform)
	line("Card", joined(d.CardActivityID, sso(d), flag(d.DeliveryUnknown, "delivery unknown"), flag(d.PopupClosed, "popup closed")))
	line("Created", c.time(d.Created.Time))
	if !d.State.Terminal() {
		line("Expires", c.time(d.Expires.Time))
	}
	if d.Lease.Owner != "" && !d.State.Terminal() {
		line("Lease", joined(lease(d.Lease), named("fence", strconv.FormatInt(d.Lease.Fence, 10))))
	}
	line("Code tries", positive(d.VerifyTries))
	line("Supersedes", c.attemptID(d.Supersedes))
	line("Superseded by", c.attemptID(d.SupersededBy))
	line("Version", strconv.FormatInt(d.Version, 10)+", origin "+string(d.Origin))
	return b.String()
}

func sso(d operator.Detail) string {
	switch {
	case !d.SSOOffered:
		return "no SSO"
	case d.SSOOutcome != "":
		return "SSO " + d.SSOOutcome
	default:
		return "SSO offered"
	}
}

func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ", ")
}

func named(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}

func flag(on bool, word string) string {
	if on {
		return word
	}
	return ""
}

func positive(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// roomy is the width of a screen that has room for transitions in a column of
// their own.
const roomy = 120

// timeline has one row for each audit line.
func (c *cli) timeline(d operator.Detail) *grid {
	g := &grid{
		head:  []string{"time", "+", "kind", "row", "transition", "what", "status", "took", "detail"},
		whole: []string{"time", "row", "transition", "what", "status"},
		spare: []string{"took", "+"},
	}
	slim := c.screen() && c.width() < roomy
	var before time.Time
	for _, e := range d.Events {
		delta := ""
		if !before.IsZero() {
			delta = "+" + age(e.Time.Sub(before))
		}
		before = e.Time.Time
		status, took := "", ""
		if e.Status != 0 {
			status = strconv.Itoa(e.Status)
		}
		if e.Duration > 0 {
			took = age(e.Duration.Duration())
		}
		way, what := transition(e), strings.TrimPrefix(e.Invoke, d.ID+"/")
		if slim && way != "" {
			way, what = "", way // the lines before tell what caused the transition
		}
		g.add(c.clock(e.Time.Time), delta, string(e.Kind), e.Row, way, what, status, took,
			joined(e.Detail, named("by", e.Actor)))
	}
	return g
}

// clock is the time of day on a terminal, where the header has the date.
func (c *cli) clock(t time.Time) string {
	if c.screen() {
		return t.In(c.home).Format("15:04:05.000")
	}
	return c.time(t)
}

func transition(e operator.EventView) string {
	switch {
	case e.Kind != store.EventTransition && e.From == e.To:
		return ""
	case e.From == e.To:
		return "= " + string(e.To)
	default:
		return cmp.Or(string(e.From), "(new)") + " → " + string(e.To)
	}
}

// after is text behind a separator, or "" if text is empty.
func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

func sortedNames(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
