package main

import (
	"strings"
	"testing"

	"github.com/signin-engine/signin-engine/transport/operator"
	"github.com/signin-engine/signin-engine/transport/teams"
)

// TestRefusedIsNamed checks that doctor names the refused host and agent, and the
// setting that admits each.
func TestRefusedIsNamed(t *testing.T) {
	h := refusedHealth(&operator.Refused{
		Reasons: map[string]int64{"caller": 3, "service_host": 1},
		Hosts:   []operator.RefusedHost{{Host: "smba.example", Count: 1}},
		Callers: []operator.RefusedCaller{{App: "5f0a6e3c-0f57-4f4f-9d0e-1f0c5d1f7a11", Count: 3}},
	})
	for _, part := range []string{
		"host smba.example (1 times): add it to service_urls",
		"agentic caller 5f0a6e3c-0f57-4f4f-9d0e-1f0c5d1f7a11 (3 times): set agentic, and add it to agentic_callers", "caller (3 times)",
	} {
		if h.Result != healthWarn || !strings.Contains(h.Detail, part) {
			t.Errorf("%s, without %q: %s", h.Result, part, h.Detail)
		}
	}
}

// TestRefusalsOfTheSettings checks that a refusal which points to wrong settings
// is a warning, and that one which any attacker can cause is not.
func TestRefusalsOfTheSettings(t *testing.T) {
	for reason, want := range map[teams.Why]string{
		teams.WhyIssuer: healthWarn, teams.WhyAudience: healthWarn, teams.WhyKeysUnavailable: healthWarn, teams.WhyBusy: healthWarn,
		teams.WhyExpired: healthOK, teams.WhySignature: healthOK,
	} {
		h := refusedHealth(&operator.Refused{Reasons: map[string]int64{string(reason): 2}})
		if h.Result != want || !strings.Contains(h.Detail, string(reason)+" (2 times)") {
			t.Errorf("%s: %+v, want %s", reason, h, want)
		}
	}
}

// TestDeadUpstreamIsNamed checks that doctor fails while an upstream does not
// answer.
func TestDeadUpstreamIsNamed(t *testing.T) {
	dead := operator.Circuit{Upstream: "token_service", Host: "token.example", Open: true, Opened: 1, Refused: 7}
	for _, c := range []struct {
		info         operator.Info
		result, part string
	}{
		{operator.Info{}, healthSkipped, "only a running bot"},
		{operator.Info{Live: true}, healthOK, "answered"},
		{operator.Info{Live: true, Circuits: []operator.Circuit{dead}}, healthFail, "token_service at token.example does not answer (7 requests"},
		{operator.Info{Live: true, Circuits: []operator.Circuit{{Upstream: "login", Host: "login.example", Opened: 2}}}, healthOK, "login at login.example did not answer before (2 times)"},
	} {
		if h := circuitHealth(c.info); h.Result != c.result || !strings.Contains(h.Detail, c.part) {
			t.Errorf("%+v: %+v", c.info, h)
		}
	}
}
