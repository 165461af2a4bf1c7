package popup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/oauth2"
)

// Probe is the result of [Provider.Probe].
type Probe struct {
	// Discovery is the error of the discovery document: it cannot be read, or it
	// belongs to another issuer. It is nil for plain OAuth 2.0, which has no such
	// document.
	Discovery error
	TokenURL  string // "" if Discovery failed
	Revokes   bool   // the provider has a revocation endpoint (RFC 7009)
	// Token is the error if the token endpoint gave no answer.
	Token error
	// Status and Code are the answer of the token endpoint to an invalid code: 400 and
	// invalid_grant if the client's credentials are right.
	Status int
	Code   string
}

// Probe checks the provider: it reads the discovery document, and sends an invalid code
// with the client's credentials to the token endpoint. It changes nothing. publicURL is
// that of the [Config]. A nil client is one with a timeout of 10 s.
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
