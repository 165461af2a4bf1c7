package tokensvc

// Secret is a token, a verification code or a client secret. Its value hides behind a
// pointer, so %+v, JSON and loggers print [redacted]. Only [Secret.Reveal] returns it.
type Secret struct{ v *string }

const redacted = "[redacted]"

// NewSecret hides s. The empty string makes the zero Secret.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{v: &s}
}

// Reveal returns the value. Outside of this package only the bot's own handlers and the
// HMACs that recognise a repeat call it.
func (s Secret) Reveal() string {
	if s.v == nil {
		return ""
	}
	return *s.v
}

// Empty reports whether there is no value.
func (s Secret) Empty() bool { return s.v == nil }

// String prints [redacted], or nothing for the zero Secret.
func (s Secret) String() string {
	if s.v == nil {
		return ""
	}
	return redacted
}

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// MarshalText is String: a Secret never survives JSON, YAML or XML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText hides the value of a configuration file or a response.
func (s *Secret) UnmarshalText(b []byte) error {
	*s = NewSecret(string(b))
	return nil
}
