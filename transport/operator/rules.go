package operator

import (
	"strconv"
	"strings"
	"time"
)

// The stuck rules (docs/state-machine.md §7). The first six are about one attempt;
// flapping is about one attempt or one user; the others are about many attempts,
// and the last one is about the upstreams of the process that answers.
const (
	RuleIdleOld        = "idle-old"
	RuleWaiting        = "waiting"
	RulePastExpiry     = "past-expiry"
	RuleConsentPending = "consent-pending"
	RuleLeaseExpired   = "lease-expired"
	RuleCallbackLag    = "callback-lag"
	RuleFlapping       = "flapping"
	RuleOrphans        = "orphans"
	RuleLookupsFailing = "lookups-failing"
	RuleCredentials    = "credentials"
	RuleFailureBurst   = "failure-burst"
	RuleUnreadable     = "unreadable"
	RuleUpstreamDead   = "upstream-dead"
)

// The levels of a finding. `inspect --check` fails for errors only.
const (
	LevelError = "error"
	LevelWarn  = "warn"
)

// Rules are the thresholds of the stuck rules. A zero Rules reports almost
// everything: start from [DefaultRules].
type Rules struct {
	// idle-old: Idle for longer than this. Default 30 s.
	IdleOld time.Duration
	// waiting: CardSent with SSO offered, without any invoke, for longer than this.
	// Default 2 min.
	Waiting time.Duration
	// past-expiry: CardSent for longer than this after the expiry. Default 1 min.
	PastExpiry time.Duration
	// consent-pending: CardSent after a refused exchange (412) for longer than this.
	// Default 3 min.
	ConsentPending time.Duration
	// lease-expired: Exchanging or Verifying for longer than this after the end of
	// the lease. Default 5 s.
	LeaseExpired time.Duration
	// flapping: an open attempt with more exchange rounds than FlappingRounds, or
	// more than FlappingAttempts attempts of one key created within FlappingWindow.
	// Defaults 3, 3 and 10 min.
	FlappingRounds   int
	FlappingAttempts int
	FlappingWindow   time.Duration
	// callback-lag: a pending callback that has been due for longer than CallbackLag
	// or was tried CallbackTries times. Defaults 60 s and 5. A dead callback breaks
	// the rule too.
	CallbackLag   time.Duration
	CallbackTries int
	// orphans: at least this many signin/* invokes without an attempt within
	// OrphansWindow. Defaults 20 and 10 min.
	Orphans       int
	OrphansWindow time.Duration
	// lookups-failing: at least this many sign-ins that ended because the look-up of
	// the token failed (row A4) within LookupsWindow. Defaults 5 and 10 min.
	Lookups       int
	LookupsWindow time.Duration
	// credentials: the bot could not get its own token within this time, and has not
	// got it since. Default 1 h.
	CredentialsWindow time.Duration
	// failure-burst: of the attempts created within BurstWindow, at least BurstMin
	// and more than the share BurstShare have the same failure code. Defaults
	// 15 min, 5 and 0.2.
	BurstShare  float64
	BurstMin    int
	BurstWindow time.Duration
}

// DefaultRules returns the defaults that [Rules] names.
func DefaultRules() Rules {
	return Rules{
		IdleOld: 30 * time.Second, Waiting: 2 * time.Minute, PastExpiry: time.Minute,
		ConsentPending: 3 * time.Minute, LeaseExpired: 5 * time.Second,
		FlappingRounds: 3, FlappingAttempts: 3, FlappingWindow: 10 * time.Minute,
		CallbackLag: time.Minute, CallbackTries: 5,
		Orphans: 20, OrphansWindow: 10 * time.Minute,
		Lookups: 5, LookupsWindow: 10 * time.Minute,
		CredentialsWindow: time.Hour,
		BurstShare:        0.2, BurstMin: 5, BurstWindow: 15 * time.Minute,
	}
}

// ruleText is the level of a rule, what a finding of it means, and what to do.
type ruleText struct {
	rule, level     string
	meaning, advice string
}

var ruleTexts = [...]ruleText{
	{
		RuleIdleOld, LevelError,
		"An attempt is stored, but the connector never confirmed its card.",
		"Check that a bot runs on this store: its sweeper ends the attempt. The user's next message starts a new sign-in.",
	},
	{
		RuleWaiting, LevelWarn,
		"The card offers SSO, and no Teams client has answered it.",
		"The user can press the card's button. If many users wait, run signin-engine doctor --config bot.yaml --manifest manifest.json: it checks webApplicationInfo and validDomains in the manifest of the Teams app.",
	},
	{
		RulePastExpiry, LevelError,
		"An attempt has expired, but no bot has ended it.",
		"Start a bot on this store. If one runs, find out why its sweeper does not: signin-engine doctor shows it.",
	},
	{
		RuleConsentPending, LevelWarn,
		"The Token Service refused the SSO token, and the user has done nothing since.",
		"The user presses the card's button, or an administrator consents for the whole tenant. The attempt shows why the token was refused.",
	},
	{
		RuleLeaseExpired, LevelError,
		"An instance stopped while it called the Token Service for this attempt.",
		"A running bot recovers the attempt within a minute. If no bot runs, reconcile the attempt: this asks the Token Service for the outcome.",
	},
	{
		RuleFlapping, LevelWarn,
		"One user tries again and again without success.",
		"Look at the last failure and the diagnosis of the attempt.",
	},
	{
		RuleCallbackLag, LevelError,
		"The bot's own code has not handled a result: its callback fails or is late.",
		"Fix the error that the callback shows. The engine calls again by itself while the callback is pending. If it is dead, or waits long, redeliver it.",
	},
	{
		RuleOrphans, LevelError,
		"Many sign-in invokes arrive that belong to no attempt.",
		"Check that all instances of the bot share one store, that it was not lost or replaced, and that no second bot uses the same app id. The event lines without an attempt name the users.",
	},
	{
		RuleLookupsFailing, LevelError,
		"The Token Service does not say whether users are signed in, so sign-ins end before there is a card.",
		"Run signin-engine doctor: it checks whether the bot reaches the Token Service, and in which region. Users are told that sign-in is not available. Their next message tries again.",
	},
	{
		RuleCredentials, LevelError,
		"The bot cannot get its own token from Entra, so the Token Service and the connector refuse its calls.",
		"Check app_id, tenant_id, and whether the secret or certificate is right and has not expired. The finding disappears after the first call that works.",
	},
	{
		RuleFailureBurst, LevelError,
		"Many recent attempts failed with the same code.",
		"Look up what the code means. The cause is usually one setting.",
	},
	{
		RuleUnreadable, LevelError,
		"A stored attempt cannot be read: a newer version wrote it, or it is damaged. Other attempts are not affected.",
		"Run the newest version that has used this store. If it cannot read the attempt either, restore the store from a backup.",
	},
	{
		RuleUpstreamDead, LevelError,
		"An upstream does not answer, so the bot refuses requests to it at once.",
		"Find out why it does not answer: network, proxy, firewall, an outage. One request tries every few seconds, and the finding disappears after the first answer.",
	},
}

func textOf(rule string) ruleText {
	for _, t := range ruleTexts {
		if t.rule == rule {
			return t
		}
	}
	return ruleText{rule: rule, level: LevelError}
}

// finding returns a finding of a rule with the rule's advice. command is a
// subcommand with its arguments.
func finding(rule string, age time.Duration, command ...string) Finding {
	t := textOf(rule)
	return Finding{Rule: rule, Level: t.level, Age: Milliseconds(age), Advice: t.advice, Command: pasteable(command)}
}

// pasteable is a command line of this program, quoted for a shell.
func pasteable(words []string) string {
	quoted := make([]string, 0, len(words)+1)
	quoted = append(quoted, "signin-engine")
	for _, w := range words {
		quoted = append(quoted, Quote(w))
	}
	return strings.Join(quoted, " ")
}

// Count returns a number with its noun: "1 attempt", "2 attempts".
func Count(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.FormatInt(n, 10) + " " + noun
}

// Quote quotes a word for a POSIX shell, if it needs quotes.
func Quote(word string) string {
	plain := func(r rune) bool {
		return r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || strings.ContainsRune("-_./:@%+=,", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !plain(r) }) < 0 {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
