package popup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

// Probe is what a look at a provider has found out.
type Probe struct {
	// Discovery is why the provider cannot be found, or is another than its document
	// says; nil if it was found, and for plain OAuth 2.0, which has none.
	Discovery error
	TokenURL  string // "" if it is not known
	Revokes   bool   // a sign-out can be told (RFC 7009)
	// Token is why the token endpoint could not be asked.
	Token error
	// Status and Code are what it answers to a code that nobody has: 400 and
	// invalid_grant if it knows the client.
	Status int
	Code   string
}

// Probe finds the provider and asks its token endpoint, with our client's
// credentials, for a code that nobody has. It changes nothing. publicURL is that of
// the [Config], client nil for an own one.
func (p Provider) Probe(ctx context.Context, publicURL string, client *http.Client) Probe {
	at := newProvider(p, publicURL+"/auth/callback", client, time.Now)
	found, err := at.find(ctx)
	if err != nil {
		return Probe{Discovery: err}
	}
	out := Probe{TokenURL: found.oauth.Endpoint.TokenURL, Revokes: found.revoke != ""}
	ctx, cancel := at.context(ctx)
	defer cancel()
	_, err = found.oauth.Exchange(ctx, "signin-engine-probe", oauth2.VerifierOption(oauth2.GenerateVerifier()))
	var said *oauth2.RetrieveError
	switch {
	case err == nil:
		out.Status = http.StatusOK
	case errors.As(err, &said):
		out.Status, out.Code = said.Response.StatusCode, bounded(said.ErrorCode)
	default:
		out.Token = fmt.Errorf("token endpoint: %s", bounded(withoutURL(err).Error()))
	}
	return out
}
