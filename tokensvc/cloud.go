package tokensvc

// Base URLs of the Token Service (wire.md §3). Any other URL is allowed too:
// these only save typing.
const (
	PublicURL       = "https://token.botframework.com"
	EuropeURL       = "https://europe.token.botframework.com"
	UnitedStatesURL = "https://unitedstates.token.botframework.com"
	IndiaURL        = "https://india.token.botframework.com"
	GovURL          = "https://token.botframework.azure.us"
	ChinaURL        = "https://token.botframework.azure.cn"
)

// CloudURL returns the base URL of a cloud or region by its name: public,
// europe, unitedstates, india, gov, china. The second result is false for any
// other name.
func CloudURL(name string) (string, bool) {
	switch name {
	case "public":
		return PublicURL, true
	case "europe":
		return EuropeURL, true
	case "unitedstates":
		return UnitedStatesURL, true
	case "india":
		return IndiaURL, true
	case "gov":
		return GovURL, true
	case "china":
		return ChinaURL, true
	default:
		return "", false
	}
}
