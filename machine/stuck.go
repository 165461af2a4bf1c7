package machine

import (
	"fmt"
	"time"

	"github.com/signin-engine/signin-engine/store"
)

// Level is how bad a finding is.
type Level string

// The levels. Only errors make `inspect --check` fail.
const (
	LevelError Level = "error"
	LevelWarn  Level = "warn"
)

// Finding is one stuck rule that hit.
type Finding struct {
	Rule   string
	Level  Level
	Age    time.Duration // for how long
	Advice string        // what to do
}

// StuckRules are the thresholds of state-machine.md §7.
type StuckRules struct {
	IdleOld          time.Duration // Idle for longer
	Waiting          time.Duration // CardSent with SSO offered and no invoke at all
	PastExpiry       time.Duration // CardSent past its expiry by more
	ConsentPending   time.Duration // CardSent after a 412 for longer
	LeaseExpired     time.Duration // Exchanging or Verifying with the lease over for longer
	FlappingRounds   int           // more exchange rounds in one attempt
	FlappingAttempts int           // more attempts of one key …
	FlappingWindow   time.Duration // … within
	CallbackLag      time.Duration // an outbox row older
	CallbackTries    int           // or tried as often
	Orphans          int           // as many invokes without an attempt …
	OrphansWindow    time.Duration // … within
	BurstShare       float64       // one failure code on more than this share of the attempts …
	BurstMin         int           // … and at least as many …
	BurstWindow      time.Duration // … within
}

// DefaultStuckRules are the thresholds of state-machine.md §7.
func DefaultStuckRules() StuckRules {
	return StuckRules{
		IdleOld: 30 * time.Second, Waiting: 2 * time.Minute, PastExpiry: time.Minute,
		ConsentPending: 3 * time.Minute, LeaseExpired: 5 * time.Second,
		FlappingRounds: 3, FlappingAttempts: 3, FlappingWindow: 10 * time.Minute,
		CallbackLag: time.Minute, CallbackTries: 5,
		Orphans: 20, OrphansWindow: 10 * time.Minute,
		BurstShare: 0.2, BurstMin: 5, BurstWindow: 15 * time.Minute,
	}
}

// Stuck applies the rules to one attempt and its outbox rows.
func Stuck(now time.Time, a *store.Attempt, rows []store.Delivery, r StuckRules) []Finding {
	var out []Finding
	hit := func(rule string, level Level, age time.Duration, advice string) {
		out = append(out, Finding{Rule: rule, Level: level, Age: age, Advice: advice})
	}
	in := now.Sub(a.Entered)
	switch a.State {
	case store.Idle:
		if in > r.IdleOld {
			hit("idle-old", LevelError, in, "the card was never acknowledged: is Engine.Run running? the sweeper ends it as abandoned, and the user's next message starts again")
		}
	case store.CardSent:
		if late := now.Sub(a.Expires); late > r.PastExpiry {
			hit("past-expiry", LevelError, late, "nothing sweeps: is Engine.Run running in some process of this bot?")
		}
		switch {
		case a.SSOOutcome == "rejected" && in > r.ConsentPending:
			hit("consent-pending", LevelWarn, in, "the token service refused the SSO token, most often for lack of consent: the user has to press the card's button")
		case a.SSOOffered && a.Invokes == 0 && in > r.Waiting:
			hit("waiting", LevelWarn, in, "the client never answered the SSO offer: is the bot's domain in the manifest's validDomains and webApplicationInfo?")
		}
	case store.Exchanging, store.Verifying:
		if over := now.Sub(a.Lease.Until); over > r.LeaseExpired {
			hit("lease-expired", LevelError, over, "its instance "+a.Lease.Owner+" died in mid-call: Engine.Run recovers it, or run: signin-engine reconcile "+a.ID)
		}
	case store.Complete, store.Failed, store.None:
	}
	if a.Rounds > r.FlappingRounds {
		hit("flapping", LevelError, now.Sub(a.Created), fmt.Sprintf("%d exchange rounds in one attempt: the client keeps sending tokens that are refused; check the connection's scopes and consent", a.Rounds))
	}
	for _, row := range rows {
		age := now.Sub(row.Created)
		if row.Status == store.DeliveryDead {
			hit("callback-lag", LevelError, age, "the bot's callback failed for good ("+row.Error+"): repair it, then run: signin-engine redeliver "+a.ID)
		}
		if row.Status == store.DeliveryPending && (age > r.CallbackLag || row.Tries >= r.CallbackTries) {
			hit("callback-lag", LevelError, age, "the bot's callback is not acknowledged: see its error in the bot's log")
		}
	}
	return out
}

// FleetFinding is a rule that no single attempt breaks.
type FleetFinding struct {
	Finding
	Subject  string   // a key, a failure code
	Attempts []string // newest first
}

// StuckFleet applies the rules that look at many attempts: those created
// within the longest window, newest first, and the number of orphan invokes.
func StuckFleet(now time.Time, recent []store.Attempt, orphans int, r StuckRules) []FleetFinding {
	var out []FleetFinding
	byKey, byCode := map[string][]string{}, map[string][]string{}
	oldest := map[string]time.Time{}
	var keys, codes []string
	total := 0
	for i := range recent {
		a := &recent[i]
		if now.Sub(a.Created) <= r.FlappingWindow {
			k := a.Key.Index()
			if byKey[k] == nil {
				keys = append(keys, k)
			}
			byKey[k] = append(byKey[k], a.ID)
			oldest[k] = a.Created
		}
		if now.Sub(a.Created) > r.BurstWindow {
			continue
		}
		total++
		if a.Failure != nil && a.Failure.Code != "" {
			if byCode[a.Failure.Code] == nil {
				codes = append(codes, a.Failure.Code)
			}
			byCode[a.Failure.Code] = append(byCode[a.Failure.Code], a.ID)
		}
	}
	for _, k := range keys {
		if ids := byKey[k]; len(ids) > r.FlappingAttempts {
			out = append(out, FleetFinding{
				Finding: Finding{Rule: "flapping", Level: LevelError, Age: now.Sub(oldest[k]), Advice: fmt.Sprintf("%d attempts of one user and connection: the bot asks again and again, or the sign-in cannot work", len(ids))},
				Subject: recentUser(recent, ids[0]), Attempts: ids,
			})
		}
	}
	for _, c := range codes {
		if ids := byCode[c]; len(ids) >= r.BurstMin && float64(len(ids)) > r.BurstShare*float64(total) {
			out = append(out, FleetFinding{
				Finding: Finding{Rule: "failure-burst", Level: LevelError, Age: r.BurstWindow, Advice: fmt.Sprintf("%d of %d attempts fail alike; run: signin-engine explain %s", len(ids), total, c)},
				Subject: c, Attempts: ids,
			})
		}
	}
	if orphans >= r.Orphans {
		out = append(out, FleetFinding{
			Finding: Finding{Rule: "orphans", Level: LevelError, Age: r.OrphansWindow, Advice: fmt.Sprintf("%d invokes without an attempt: do all instances share one store? was it lost?", orphans)},
		})
	}
	return out
}

func recentUser(recent []store.Attempt, id string) string {
	for i := range recent {
		if recent[i].ID == id {
			return recent[i].Key.User + " " + recent[i].Key.Connection
		}
	}
	return ""
}
