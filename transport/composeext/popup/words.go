package popup

import "reflect"

// Words are what the pages say. Plain text: markup in it is shown as it is
// written.
type Words struct {
	Language string `koanf:"language"` // of the page: "en", "de"
	Title    string `koanf:"title"`    // of the popup

	SignedIn string `koanf:"signed_in"` // heading after a success
	Failed   string `koanf:"failed"`    // heading of every failure
	Close    string `koanf:"close"`     // what to do when the popup stays open
	Closing  string `koanf:"closing"`   // while Teams closes it

	CloseButton string `koanf:"close_button"` // of a failure

	LinkOver      string `koanf:"link_over"`      // the link to the start page is too old, or damaged
	StateUnknown  string `koanf:"state_unknown"`  // the callback belongs to no popup that is open
	OtherBrowser  string `koanf:"other_browser"`  // it was begun in another browser
	OtherUser     string `koanf:"other_user"`     // it was begun by another user of Teams
	Denied        string `koanf:"denied"`         // the user did not consent
	ProviderSays  string `koanf:"provider_says"`  // before the provider's own text
	ProviderDown  string `koanf:"provider_down"`  // it does not answer
	NotAvailable  string `koanf:"not_available"`  // our own store does not answer
	TooMany       string `koanf:"too_many"`       // too many requests in a short time
	UnexpectedTry string `koanf:"unexpected_try"` // anything else
}

// DefaultWords are the words in English.
func DefaultWords() Words {
	return Words{
		Language: "en",
		Title:    "Sign in",

		SignedIn: "You are signed in",
		Failed:   "You are not signed in",
		Close:    "Close this window, go back to Teams and try again.",
		Closing:  "This window closes by itself.",

		CloseButton: "Close",

		LinkOver:      "This link is too old.",
		StateUnknown:  "This sign-in is over, or was used already.",
		OtherBrowser:  "This sign-in was begun in another browser.",
		OtherUser:     "This sign-in was begun by another user of Teams.",
		Denied:        "The access was not allowed.",
		ProviderSays:  "The other side says:",
		ProviderDown:  "The other side does not answer right now.",
		NotAvailable:  "Sign-in is not available right now.",
		TooMany:       "Too many sign-ins were begun in a short time. Wait a minute.",
		UnexpectedTry: "The sign-in did not work.",
	}
}

// orDefault fills what is empty.
func (w Words) orDefault() Words {
	mine, all := reflect.ValueOf(&w).Elem(), reflect.ValueOf(DefaultWords())
	for i := range mine.NumField() {
		if mine.Field(i).String() == "" {
			mine.Field(i).Set(all.Field(i))
		}
	}
	return w
}
