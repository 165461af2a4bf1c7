package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/signin-engine/signin-engine/store"
	"github.com/signin-engine/signin-engine/transport/operator"
)

// sequence draws the audit trail of an attempt as a Mermaid sequence diagram
// between Teams, the bot and the Token Service, in the style of the trace
// documents.
func sequence(d operator.Detail) string {
	var b strings.Builder
	b.WriteString("sequenceDiagram\n  participant Teams\n  participant Bot\n  participant Token as Token Service\n")
	for _, e := range d.Events {
		what := e.Invoke
		switch e.Kind {
		case store.EventReceived:
			arrow(&b, "Teams->>Bot", what)
		case store.EventAnswer:
			arrow(&b, "Bot-->>Teams", joined(statusText(e.Status), what))
		case store.EventUpstream:
			other := "Token"
			if method, _, ok := strings.Cut(what, " "); ok && (method == http.MethodPost || method == http.MethodPut) {
				other = "Teams" // the bot sends a message through the connector
			}
			took := ""
			if e.Duration > 0 {
				took = age(e.Duration.Duration())
			}
			arrow(&b, "Bot->>"+other, what)
			arrow(&b, other+"-->>Bot", joined(statusText(e.Status), e.Code, took))
		case store.EventTransition:
			arrow(&b, "Note over Bot", strings.TrimSpace(e.Row+" "+transition(e)))
		case store.EventCallback, store.EventNote, store.EventOperator, store.EventSecurity:
			arrow(&b, "Note over Bot", joined(string(e.Kind)+after(" ", what), e.Detail, named("by", e.Actor)))
		}
	}
	return b.String()
}

// arrow writes a line of the diagram. In Mermaid a semicolon ends a line, and #
// begins the name of a character.
func arrow(b *strings.Builder, who, text string) {
	text = strings.NewReplacer("#", "#35;", ";", "#59;", "\n", " ", "\r", " ").Replace(text)
	fmt.Fprintf(b, "  %s: %s\n", who, text)
}

func statusText(status int) string {
	if status == 0 {
		return "no answer"
	}
	return strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
}
