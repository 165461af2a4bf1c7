package teams

import "strings"

// maxMentions bounds the work on a text that names the bot over and over.
const maxMentions = 16

// withoutMention takes the mention of the bot out of a message's text, so that
// commands match on the rest. With mention entities it is known which mention
// means the bot, wherever it stands, and other people's stay. Without any, a
// leading <at>…</at> is taken for the bot's: in a team or group a message
// reaches a bot only if it was mentioned.
func withoutMention(text, bot string, entities []entityJSON) string {
	if !strings.Contains(text, "<at") {
		return trim(text)
	}
	known, cuts := false, 0
	for i := range entities {
		if entities[i].Type != "mention" {
			continue
		}
		known = true
		if bot != "" && entities[i].Mentioned.ID == bot && cuts < maxMentions {
			text = cutMention(text, &entities[i])
			cuts++
		}
	}
	if !known {
		text = cutLeading(text)
	}
	return trim(text)
}

func cutMention(text string, e *entityJSON) string {
	mention := e.Text
	if !strings.HasPrefix(mention, "<at") {
		mention = "<at>" + e.Mentioned.Name + "</at>"
	}
	parts := strings.Split(text, mention)
	if len(parts) == 1 {
		return text
	}
	kept := parts[:0]
	for _, part := range parts {
		if part = trim(part); part != "" {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, " ")
}

func cutLeading(text string) string {
	rest := trim(text)
	if !strings.HasPrefix(rest, "<at>") && !strings.HasPrefix(rest, "<at ") {
		return text
	}
	if _, after, found := strings.Cut(rest, "</at>"); found {
		return after
	}
	return text
}

// trim takes white space off both ends, also the entity that Teams puts behind
// a mention.
func trim(text string) string {
	const entity = "&nbsp;"
	for {
		shorter := strings.TrimSpace(text)
		shorter = strings.TrimPrefix(shorter, entity)
		shorter = strings.TrimSuffix(shorter, entity)
		if len(shorter) == len(text) {
			return text
		}
		text = shorter
	}
}
