package teams

import (
	"strings"
	"unicode"

	"golang.org/x/net/html"
)

// withoutMention removes the mention of the bot from a message's text, so that
// commands match the rest.
//
// An <at>…</at> is the bot's if it shows a name that a mention entity gives the
// bot, or the name by which the activity addresses the bot. If none is, the bot
// may have been renamed, and the first one that is nobody else's counts. If no
// entity mentions anybody, only a leading one counts, since a message in a team
// or a group reaches a bot only if it mentions the bot.
func withoutMention(text string, bot *accountJSON, entities []entityJSON) string {
	mentions := findMentions(text)
	if len(mentions) == 0 {
		return trim(text)
	}
	bots, others := names{}, names{}
	for i := range entities {
		e := &entities[i]
		if e.Type != "mention" {
			continue
		}
		switch e.Mentioned.ID {
		case "":
		case bot.ID:
			bots.addEntity(e)
		default:
			others.addEntity(e)
		}
	}
	var cut []mention
	for _, m := range mentions {
		if bots[m.name] || !others[m.name] && m.name == shown(html.UnescapeString(bot.Name)) {
			cut = append(cut, m)
		}
	}
	if len(cut) == 0 {
		cut = firstUnknown(text, mentions, bots, others)
	}
	return cutOut(text, cut)
}

// firstUnknown returns the first mention that is nobody else's, if there is one.
func firstUnknown(text string, mentions []mention, bots, others names) []mention {
	for i, m := range mentions {
		switch {
		case len(bots) > 0:
			if !others[m.name] {
				return mentions[i : i+1]
			}
		case len(others) == 0 && trim(text[:m.begin]) == "":
			return mentions[:1]
		}
	}
	return nil
}

// mention is one <at>…</at> in a text.
type mention struct {
	begin, end int
	name       string // as shown returns it
}

// findMentions parses the text as HTML, since tags may have escapes, attributes
// and any case. It ignores an <at> that is not closed.
func findMentions(text string) []mention {
	if !strings.Contains(text, "<") {
		return nil
	}
	var (
		found []mention
		name  strings.Builder
		end   int
		open  = -1
		z     = html.NewTokenizer(strings.NewReader(text))
	)
	for {
		kind := z.Next()
		begin := end
		end += len(z.Raw())
		switch kind {
		case html.ErrorToken:
			return found
		case html.TextToken:
			if open >= 0 {
				name.Write(z.Text())
			}
		case html.StartTagToken:
			if open < 0 && isAt(z) {
				open = begin
				name.Reset()
			}
		case html.EndTagToken:
			if open >= 0 && isAt(z) {
				found = append(found, mention{open, end, shown(name.String())})
				open = -1
			}
		case html.SelfClosingTagToken, html.CommentToken, html.DoctypeToken:
		}
	}
}

func isAt(z *html.Tokenizer) bool {
	tag, _ := z.TagName()
	return string(tag) == "at"
}

// names holds the names of one or more accounts, as shown returns them.
type names map[string]bool

// addEntity adds the name and the text of a mention entity. The text may be an
// <at>…</at> or a plain name.
func (n names) addEntity(e *entityJSON) {
	n[shown(html.UnescapeString(e.Mentioned.Name))] = true
	mentions := findMentions(e.Text)
	for _, m := range mentions {
		n[m.name] = true
	}
	if len(mentions) == 0 {
		n[shown(html.UnescapeString(e.Text))] = true
	}
}

// shown returns the form that all spellings of a name that look alike have in
// common.
func shown(name string) string {
	name = strings.Map(func(r rune) rune {
		if invisible(r) {
			return -1
		}
		return r
	}, name)
	return strings.ToLower(strings.Join(strings.Fields(name), " "))
}

// cutOut returns the text without the mentions. A mention inside the text leaves
// one space.
func cutOut(text string, mentions []mention) string {
	if len(mentions) == 0 {
		return trim(text)
	}
	var kept []string
	keep := func(part string) {
		// A text that contains a mention is markup.
		if part = trim(strings.ReplaceAll(part, noBreakSpace, " ")); part != "" {
			kept = append(kept, part)
		}
	}
	begin := 0
	for _, m := range mentions {
		keep(text[begin:m.begin])
		begin = m.end
	}
	keep(text[begin:])
	return strings.Join(kept, " ")
}

// noBreakSpace is what Teams puts after a mention.
const noBreakSpace = "&nbsp;"

// zeroWidth removes characters that only mark where a line may break. They come
// with pasted text, and no command contains them.
var zeroWidth = strings.NewReplacer("\u200b", "", "\u2060", "", "\ufeff", "")

// trim removes zero-width characters, and any white space or invisible characters
// at both ends.
func trim(text string) string {
	text = zeroWidth.Replace(text)
	for {
		shorter := strings.TrimFunc(text, func(r rune) bool { return unicode.IsSpace(r) || invisible(r) })
		shorter = strings.TrimPrefix(shorter, noBreakSpace)
		shorter = strings.TrimSuffix(shorter, noBreakSpace)
		if len(shorter) == len(text) {
			return text
		}
		text = shorter
	}
}

// invisible reports whether r only controls line breaks, joins or the direction
// of text.
func invisible(r rune) bool {
	switch {
	case r == '\u00ad', r >= '\u200b' && r <= '\u200f', r >= '\u202a' && r <= '\u202e',
		r >= '\u2060' && r <= '\u2069', r == '\ufeff':
		return true
	default:
		return false
	}
}
