package popup

import "reflect"

// Words are the texts of the pages. They are plain text: the pages show markup in them
// literally.
type Words struct {
	Language string `koanf:"language"` // language of the other texts, such as "en" or "de"
	Title    string `koanf:"title"`    // title of the popup

	SignedIn string `koanf:"signed_in"` // heading after a success
	Failed   string `koanf:"failed"`    // heading of every failure
	Close    string `koanf:"close"`     // what to do when the popup stays open
	Closing  string `koanf:"closing"`   // while Teams closes it

	CloseButton string `koanf:"close_button"` // button that closes the popup after a failure

	LinkOver      string `koanf:"link_over"`      // the link to the start page has expired, or is damaged
	StateUnknown  string `koanf:"state_unknown"`  // the callback belongs to no open popup
	OtherBrowser  string `koanf:"other_browser"`  // the popup began in another browser
	OtherUser     string `koanf:"other_user"`     // another user of Teams began the popup
	Denied        string `koanf:"denied"`         // the user did not consent
	ProviderSays  string `koanf:"provider_says"`  // heading of the provider's own text
	ProviderDown  string `koanf:"provider_down"`  // the provider does not answer
	NotAvailable  string `koanf:"not_available"`  // the store does not answer
	TooMany       string `koanf:"too_many"`       // too many requests in a short time
	UnexpectedTry string `koanf:"unexpected_try"` // anything else
}

// DefaultWords returns the default texts, in English.
func DefaultWords() Words {
	return Words{
		Language: "en",
		Title:    "Sign in",

		SignedIn: "You are signed in",
		Failed:   "You are not signed in",
		Close:    "Close this window, return to Teams and try again.",
		Closing:  "This window will close by itself.",

		CloseButton: "Close",

		LinkOver:      "This sign-in link no longer works.",
		StateUnknown:  "This sign-in has expired or was already used.",
		OtherBrowser:  "This sign-in was started in another browser.",
		OtherUser:     "This sign-in was started by another Teams user.",
		Denied:        "Access was denied.",
		ProviderSays:  "The sign-in service says:",
		ProviderDown:  "The sign-in service is not responding right now.",
		NotAvailable:  "Sign-in is not available right now.",
		TooMany:       "There were too many sign-in attempts. Wait a minute.",
		UnexpectedTry: "Something went wrong.",
	}
}

// orDefault returns w with the defaults for its empty texts.
func (w Words) orDefault() Words {
	mine, all := reflect.ValueOf(&w).Elem(), reflect.ValueOf(DefaultWords())
	for i := range mine.NumField() {
		if mine.Field(i).String() == "" {
			mine.Field(i).Set(all.Field(i))
		}
	}
	return w
}
