package emulator

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/signin-engine/signin-engine/tokensvc"
)

const controlPath = "/emulator/"

// longestWait bounds the wait of GET /emulator/card.
const longestWait = time.Minute

// control handles the emulator's own API, for tests in other processes. It refuses
// changes that a web page of another origin requests.
func (s *Server) control(w http.ResponseWriter, r *http.Request) {
	if err := s.origin.Check(r); err != nil {
		refuse(w, http.StatusForbidden, "Forbidden", "another origin")
		return
	}
	query := r.URL.Query()
	switch r.Method + " " + strings.TrimPrefix(r.URL.Path, controlPath) {
	case "GET requests":
		var only []Operation
		if op := query.Get("operation"); op != "" {
			only = append(only, Operation(op))
		}
		answerJSON(w, statusOK, map[string][]Request{"requests": s.Requests(only...)})
	case "DELETE requests":
		s.ResetRequests()
		w.WriteHeader(http.StatusNoContent)
	case "GET counts":
		answerJSON(w, statusOK, s.Counts())
	case "GET switches":
		answerJSON(w, statusOK, s.Switches())
	case "PUT switches":
		var switches Switches
		if readControl(w, r, &switches) {
			s.SetSwitches(switches)
			answerJSON(w, statusOK, s.Switches())
		}
	case "GET faults":
		answerJSON(w, statusOK, map[string][]Fault{"faults": s.Faults()})
	case "POST faults":
		var f Fault
		if readControl(w, r, &f) {
			s.AddFault(f)
			w.WriteHeader(http.StatusNoContent)
		}
	case "DELETE faults":
		s.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	case "GET activities":
		answerJSON(w, statusOK, map[string][]Activity{"activities": s.Activities(query.Get("conversation"))})
	case "GET card":
		s.controlCard(w, r)
	case "POST tokens":
		var uc tokenRequest
		if readControl(w, r, &uc) {
			answerJSON(w, statusOK, map[string]string{"token": s.PutToken(tokensvc.UserConnection(uc))})
		}
	case "POST codes":
		var uc tokenRequest
		if readControl(w, r, &uc) {
			answerJSON(w, statusOK, map[string]string{"code": s.IssueCode(tokensvc.UserConnection(uc))})
		}
	case "POST reset":
		s.Reset()
		w.WriteHeader(http.StatusNoContent)
	default:
		refuse(w, http.StatusNotFound, "NotFound", "no such control")
	}
}

// tokenRequest is the JSON form of a tokensvc.UserConnection.
type tokenRequest struct {
	UserID     string `json:"userId"`
	Connection string `json:"connection"`
	ChannelID  string `json:"channelId"`
}

// Counts returns how many requests of each operation came in since the start or
// [Server.ResetRequests]. It has no operations without requests.
func (s *Server) Counts() map[Operation]int64 {
	counts := make(map[Operation]int64)
	for op, n := range s.counts {
		if n := n.Load(); n > 0 {
			counts[op] = n
		}
	}
	return counts
}

func (s *Server) controlCard(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	after, err := strconv.ParseInt(query.Get("after"), 10, 64)
	if err != nil && query.Get("after") != "" {
		refuse(w, http.StatusBadRequest, "BadArgument", "after is no number")
		return
	}
	wait, err := duration(query.Get("wait"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "BadArgument", "wait is no duration")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), min(wait, longestWait))
	defer cancel()
	card, err := s.WaitForCard(ctx, query.Get("conversation"), after)
	if err != nil {
		refuse(w, http.StatusNotFound, "NotFound", "no such card")
		return
	}
	answerJSON(w, statusOK, card)
}

// readControl decodes the body into v. If it cannot, it answers the request with an
// error and returns false. Unknown members are errors: with a misspelt switch a test
// would test nothing.
func readControl(w http.ResponseWriter, r *http.Request, v any) bool {
	dec := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		refuse(w, http.StatusBadRequest, "BadArgument", fmt.Sprintf("the body cannot be read: %v", err))
		return false
	}
	return true
}
